"""The graph transformer as a network: embeddings, layers, read-out.

Dwivedi and Bresson, arXiv 2012.09699. The positional code is added to the input only.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.utils.precision import compute_dtype

from .dense import dense_blocks
from .layer import GraphTransformerLayer
from .readout import READOUTS, HalvingMLP, count_graphs, one_graph, read_out


class GraphTransformer(nn.Module):
    """Maps nodes, edges and positional codes to a row per node or per graph.

    Layers have edge features if and only if ``num_edge_types`` or ``edge_in_dim`` is given. For a graph without edge
    attributes the release uses the constant 1: ``edge_in_dim=1`` with ones.

    Args:
        in_dim: Width of real node features, for a linear layer. Give either this or ``num_node_types``.
        num_node_types: Number of node types, for an embedding.
        dim: Width d.
        num_layers: L.
        num_heads: H, divides d.
        pe_dim: Width k of the positional code, 0 = none.
        num_edge_types: Number of edge types, for an embedding. Give at most one of this and ``edge_in_dim``.
        edge_in_dim: Width of real edge features.
        out_dim: Width of the output, after an MLP with halving widths; ``None``: d, without MLP.
        norm: ``batch``, ``layer`` or ``none``, see :class:`GraphTransformerLayer`.
        dropout: Dropout rate inside the layers.
        in_dropout: Dropout rate of the input. As released, it is applied after the code is added in a network with an
            output per node, and before in a network with an output per graph.
        dense: Use matrix products (:mod:`.dense`) for batches of small dense graphs without edge features. The choice
            depends on the data, which ``torch.export`` does not allow: switch it off for an export.
        readout: ``None``: a row per node; ``mean``, ``sum`` or ``max``: a row per graph.

    Raises:
        ValueError: an argument is out of range, unknown, or contradicts another.
    """

    def __init__(
        self,
        in_dim: int | None = None,
        num_node_types: int | None = None,
        dim: int = 64,
        num_layers: int = 10,
        num_heads: int = 8,
        pe_dim: int = 0,
        num_edge_types: int | None = None,
        edge_in_dim: int | None = None,
        out_dim: int | None = None,
        norm: str = 'batch',
        dropout: float = 0.0,
        in_dropout: float = 0.0,
        readout: str | None = None,
        dense: bool = True,
    ) -> None:
        super().__init__()
        # Check the arguments.
        if (in_dim is None) == (num_node_types is None):
            raise ValueError('give either in_dim (real node features) or num_node_types (types)')
        if num_edge_types is not None and edge_in_dim is not None:
            raise ValueError('give num_edge_types or edge_in_dim, not both')
        if readout is not None and readout not in READOUTS:
            raise ValueError(f'readout must be None or one of {", ".join(READOUTS)}; got {readout!r}')
        self.pe_dim, self.readout, self.in_dropout, self.dense = pe_dim, readout, in_dropout, dense
        # Embeddings of nodes, positional codes and edges.
        self.embed = nn.Embedding(num_node_types, dim) if in_dim is None else nn.Linear(in_dim, dim)
        self.embed_pe = nn.Linear(pe_dim, dim) if pe_dim else None
        self.embed_edge = None
        if num_edge_types is not None:
            self.embed_edge = nn.Embedding(num_edge_types, dim)
        elif edge_in_dim is not None:
            self.embed_edge = nn.Linear(edge_in_dim, dim)
        edge_dim = None if self.embed_edge is None else dim
        self.layers = nn.ModuleList(
            GraphTransformerLayer(dim, num_heads, edge_dim=edge_dim, norm=norm, dropout=dropout)
            for _ in range(num_layers)
        )
        self.head = HalvingMLP(dim, out_dim) if out_dim is not None else nn.Identity()

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        *,
        edge_attr: Tensor | None = None,
        pe: Tensor | None = None,
        batch: Tensor | None = None,
        edge_weight: Tensor | None = None,
        num_graphs: int | None = None,
    ) -> Tensor:
        """Run the network on one graph, or on the disjoint union of several.

        Args:
            x: ``(N,)`` int64 types, or ``(N, in_dim)``.
            edge_index: ``(2, E)`` int64, row 0 sources, row 1 destinations.
            edge_attr: ``(E,)`` int64 types, or ``(E, edge_in_dim)``.
            pe: ``(N, pe_dim)``.
            batch: ``(N,)`` int64, the graph of each node. ``None``: all belong to one graph.
            edge_weight: ``(E,)``, see :func:`graph_attention`.
            num_graphs: G; needed only where the last graphs have no nodes.

        Returns:
            ``(N, out_dim)``, or with a readout ``(G, out_dim)``.

        Raises:
            ValueError: edge attributes or positional codes are missing, or not expected.
        """
        # Check that exactly the expected inputs are given.
        for name, given, wanted in (('pe', pe, self.embed_pe), ('edge_attr', edge_attr, self.embed_edge)):
            if (given is None) != (wanted is None):
                needs = 'needs' if given is None else 'was made without'
                raise ValueError(f'this network {needs} {name}; see pe_dim, num_edge_types and edge_in_dim')
        # Embed the nodes; dropout comes before or after the code, as released.
        x = self.embed(x)
        if self.readout is not None:
            x = F.dropout(x, self.in_dropout, self.training)
        if pe is not None:
            x = x + self.embed_pe(pe)
        if self.readout is None:
            x = F.dropout(x, self.in_dropout, self.training)
        # Choose between the sparse and the dense form once for all layers.
        edge = None if edge_attr is None else self.embed_edge(edge_attr)
        batch = one_graph(x) if batch is None else batch
        if num_graphs is None:
            num_graphs = count_graphs(batch)
        blocks = None
        if self.dense and edge is None:
            # Sum exponentials in float32 at least, as in the sparse form.
            dtype = compute_dtype(x)
            blocks = dense_blocks(edge_index, batch, num_graphs, dtype, edge_weight)
        # Apply the layers and the readout.
        for layer in self.layers:
            if edge is None:
                x = layer(x, edge_index, edge_weight=edge_weight, blocks=blocks)
            else:
                x, edge = layer(x, edge_index, edge, edge_weight)
        if self.readout is not None:
            x = read_out(x, batch, num_graphs, self.readout)
        return self.head(x)
