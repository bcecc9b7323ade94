"""Prompt embeddings refined along the category graph by a graph transformer.

An application of Dwivedi and Bresson, arXiv 2012.09699, that is not in the paper: x = W_in prompt + code, then layers
with edge types as edge features, then prompt + tanh(gate) W_out x. The gate starts at 0, so that the output of a
detector does not change until the gate is trained. The norm is layer norm: there is one graph per step, sometimes of a
single class, and batch statistics over a few classes would leak between them.
"""

import torch
from torch import Tensor, nn

from dinor1.blocks.graph_transformer import GraphTransformerLayer, random_sign_flip

from .graph import CategoryGraph


class PromptGraphRefiner(nn.Module):
    """Adds information from the neighbours in the category graph to each prompt.

    Args:
        embed_dim: Width D of the prompts.
        dim: Width of the graph transformer.
        num_layers: Layers of the graph transformer, at least 1.
        num_heads: Heads, divides ``dim``.
        pe_dim: Columns of the graph's Laplacian code; in training their signs are drawn at every step.
        num_edge_types: Relations of the graph.
        norm: ``layer``, ``batch`` or ``none``.
        dropout: Dropout rate inside the layers.
        gate_init: Initial value of the gate; with 0 the prompts are returned bitwise unchanged.

    Raises:
        ValueError: an argument is out of range or unknown.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 8,
        pe_dim: int = 8,
        num_edge_types: int = 4,
        norm: str = 'layer',
        dropout: float = 0.1,
        gate_init: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f'num_layers must be at least 1, got {num_layers}')
        self.embed_dim = embed_dim
        self.project_in = nn.Linear(embed_dim, dim)
        self.embed_pe = nn.Linear(pe_dim, dim) if pe_dim else None
        self.embed_edge = nn.Embedding(num_edge_types, dim)
        # The edge features after the last layer are not used.
        self.layers = nn.ModuleList(
            GraphTransformerLayer(
                dim, num_heads, edge_dim=dim, norm=norm, dropout=dropout, update_edges=i < num_layers - 1
            )
            for i in range(num_layers)
        )
        self.project_out = nn.Linear(dim, embed_dim)
        self.gate = nn.Parameter(torch.tensor(float(gate_init)))

    def forward(self, prompt: Tensor, graph: CategoryGraph, keep: Tensor | None = None) -> Tensor:
        """Refine the prompts of all classes or of a subset.

        A node without a prompt (a parent, or a class that is not offered) starts as the mean of the prompts of the
        classes below it. If there are none, the node and its edges are left out.

        Args:
            prompt: ``(K, embed_dim)``.
            graph: With ``pe_dim`` columns and at most ``num_edge_types`` relations, on the device of the prompts.
            keep: ``(K,)`` int64, index of each row's class in the graph, no class twice; -1: a class outside the graph,
                which becomes a node without edges. ``None``: the rows are all classes of the graph.

        Returns:
            ``(K, embed_dim)``.

        Raises:
            ValueError: the rows do not match the graph's classes, or the graph does not fit the module.
        """
        return prompt + self.delta(prompt, graph, keep)

    def delta(self, prompt: Tensor, graph: CategoryGraph, keep: Tensor | None = None) -> Tensor:
        """``(K, embed_dim)``, the change that :meth:`forward` adds to the prompts."""
        if keep is None:
            keep = torch.arange(graph.num_classes, device=prompt.device)
        self._check(prompt, graph, keep)
        # Embed nodes and edges of the part of the graph that the classes reach.
        features, code, edge_index, edge_type, edge_weight, rows = _induced(prompt, graph, keep)
        x = self.project_in(features)
        if self.embed_pe is not None:
            x = x + self.embed_pe(random_sign_flip(code) if self.training else code)
        edge = self.embed_edge(edge_type)
        for layer in self.layers:
            x, edge = layer(x, edge_index, edge, edge_weight)
        return (self.gate.tanh() * self.project_out(x.index_select(0, rows))).to(prompt.dtype)

    def _check(self, prompt: Tensor, graph: CategoryGraph, keep: Tensor) -> None:
        if prompt.shape != (len(keep), self.embed_dim):
            raise ValueError(f'prompts: expected {(len(keep), self.embed_dim)}, got {tuple(prompt.shape)}')
        columns = 0 if self.embed_pe is None else self.embed_pe.in_features
        if graph.pe.shape[1] != columns:
            raise ValueError(f'the graph has {graph.pe.shape[1]} columns of code, the refiner pe_dim = {columns}')
        if len(graph.relations) > self.embed_edge.num_embeddings:
            raise ValueError(
                f'the graph has {len(graph.relations)} relations, the refiner num_edge_types = '
                f'{self.embed_edge.num_embeddings}'
            )


def _induced(prompt: Tensor, graph: CategoryGraph, keep: Tensor) -> tuple[Tensor, ...]:
    """Restrict the graph to the nodes that the given classes reach.

    Returns:
        Features ``(n, D)`` and code ``(n, k)`` of its nodes, and of a node for each class outside the graph;
        ``edge_index``, ``edge_type``, ``edge_weight`` of its edges; and the node of each prompt ``(K,)``.
    """
    # Find the nodes that are, or are above, a given class.
    inside = keep >= 0
    known = keep[inside]
    below = graph.below[:, known].to(prompt.dtype)
    count = below.sum(1, keepdim=True)
    nodes = (count[:, 0] > 0).nonzero().flatten()
    # Index of each node of the graph in the part; -1: not in it.
    place = torch.full((len(graph.names),), -1, device=prompt.device)
    place[nodes] = torch.arange(len(nodes), device=prompt.device)
    # Start each node as the mean of the prompts below it. Under autocast the product has another dtype.
    features = ((below[nodes] @ prompt[inside]) / count[nodes]).to(prompt.dtype)
    features = features.index_copy(0, place[known], prompt[inside])

    # Keep edges with both ends in the part; append a node for each class outside the graph.
    ends = place[graph.edge_index]
    there = (ends >= 0).all(0)
    outside = int((~inside).sum())
    rows = torch.empty_like(keep)
    rows[inside] = place[known]
    rows[~inside] = torch.arange(len(nodes), len(nodes) + outside, device=prompt.device)
    code = graph.pe[nodes].to(prompt.dtype)
    return (
        torch.cat([features, prompt[~inside]]),
        torch.cat([code, code.new_zeros(outside, code.shape[1])]),
        ends[:, there],
        graph.edge_type[there],
        graph.edge_weight[there].to(prompt.dtype),
        rows,
    )
