"""One layer of the graph transformer: attention, residual, norm; feed-forward, residual, norm.

Dwivedi and Bresson, arXiv 2012.09699, the layers without and with edge features. Queries, keys and values have no bias;
all other linear layers have one.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import graph_attention
from .dense import DenseBlocks, dense_attention

NORMS = ('batch', 'layer', 'none')


class GraphTransformerLayer(nn.Module):
    """Post-norm transformer layer whose attention runs along edges.

    Args:
        dim: Width d of the nodes.
        num_heads: H, divides d.
        edge_dim: Width of the edge features, which must be d; ``None``: no edge features.
        norm: ``batch`` (over all nodes or edges of the batch), ``layer`` or ``none``.
        dropout: Dropout rate of the attention's output and inside the feed-forward part.
        residual: Add the input of both halves to their output.
        qkv_bias: Bias of queries, keys, values, and of the edges' projection.
        clamp: See :func:`graph_attention`.
        eps: See :func:`graph_attention`; ``None``: as released, 0 without and 1e-6 with edge features.
        update_edges: ``False``: return the edge features unchanged. For a last layer, whose edge features are not used;
            the released networks update them even there.

    Raises:
        ValueError: an argument is out of range or unknown.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        edge_dim: int | None = None,
        norm: str = 'batch',
        dropout: float = 0.0,
        residual: bool = True,
        qkv_bias: bool = False,
        clamp: float = 5.0,
        eps: float | None = None,
        update_edges: bool = True,
    ) -> None:
        # Check the arguments.
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f'dim must be a multiple of num_heads, got {dim} and {num_heads}')
        if edge_dim not in (None, dim):
            raise ValueError(f'edge_dim must be dim = {dim}, or None for a layer without edge features; got {edge_dim}')
        if norm not in NORMS:
            raise ValueError(f'norm must be one of {", ".join(NORMS)}; got {norm!r}')
        if clamp <= 0:
            raise ValueError(f'clamp must be positive, got {clamp}')
        self.dim, self.num_heads, self.residual, self.dropout = dim, num_heads, residual, dropout
        self.with_edges = edge_dim is not None
        self.clamp = clamp
        self.eps = (1e-6 if self.with_edges else 0.0) if eps is None else eps
        # Projections for attention, and what follows it for nodes and edges.
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key = nn.Linear(dim, dim, bias=qkv_bias)
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.node = _Stream(dim, norm, dropout, residual)
        if self.with_edges:
            self.edge_query = nn.Linear(dim, dim, bias=qkv_bias)
            self.edge = _Stream(dim, norm, dropout, residual) if update_edges else None

    def extra_repr(self) -> str:
        """Width, number of heads and constants of the attention."""
        return f'{self.dim}, num_heads={self.num_heads}, clamp={self.clamp}, eps={self.eps}'

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        edge_weight: Tensor | None = None,
        blocks: DenseBlocks | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Update the nodes, and the edges if there are edge features.

        Args:
            x: ``(N, dim)``.
            edge_index: ``(2, E)`` int64, row 0 sources, row 1 destinations.
            edge_attr: ``(E, dim)``; given if and only if the layer was made with ``edge_dim``.
            edge_weight: ``(E,)``, see :func:`graph_attention`.
            blocks: The same edges and weights in dense form, see :func:`dense_blocks`; only without edge features.

        Returns:
            ``(N, dim)``; with edge features also ``(E, dim)``.

        Raises:
            ValueError: edge features are missing, or not expected; or a single row reaches batch norm in training.
        """
        if (edge_attr is not None) != self.with_edges:
            has, needs = ('no ', 'needs') if self.with_edges else ('', 'takes no')
            raise ValueError(f'got {has}edge_attr, but this layer {needs} edge features; see edge_dim')
        # Attend, in dense form if it is given.
        projected = [self.split_heads(linear(x)) for linear in (self.query, self.key, self.value)]
        if blocks is not None and edge_attr is None:
            return self.node(x, dense_attention(*projected, blocks, clamp=self.clamp, eps=self.eps).flatten(1))
        mean, product = graph_attention(
            *projected,
            edge_index,
            edge=None if edge_attr is None else self.split_heads(self.edge_query(edge_attr)),
            edge_weight=edge_weight,
            clamp=self.clamp,
            eps=self.eps,
        )
        # Apply residual, norm and feed-forward part to nodes and edges.
        x = self.node(x, mean.flatten(1))
        if edge_attr is None:
            return x
        return x, edge_attr if self.edge is None else self.edge(edge_attr, product.flatten(1))

    def split_heads(self, rows: Tensor) -> Tensor:
        """``(n, dim)`` -> ``(n, H, dk)``."""
        return rows.unflatten(1, (self.num_heads, -1))


class _Stream(nn.Module):
    """Residual, norm and feed-forward part after the attention; one for nodes, one for edges."""

    def __init__(self, dim: int, norm: str, dropout: float, residual: bool) -> None:
        super().__init__()
        self.dropout, self.residual = dropout, residual
        self.out = nn.Linear(dim, dim)
        self.norm1 = _norm(norm, dim)
        self.ffn1 = nn.Linear(dim, 2 * dim)
        self.ffn2 = nn.Linear(2 * dim, dim)
        self.norm2 = _norm(norm, dim)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Combine the layer's input (n, dim) with the attention's output (n, dim) into (n, dim)."""
        y = self.out(F.dropout(attended, self.dropout, self.training))
        x = self.norm1(x + y if self.residual else y)
        y = self.ffn2(F.dropout(F.relu(self.ffn1(x)), self.dropout, self.training))
        return self.norm2(x + y if self.residual else y)


class _BatchNorm(nn.BatchNorm1d):
    """Batch norm that returns an empty graph unchanged and does not update its statistics with it."""

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):
            return x
        if self.training and len(x) == 1:
            raise ValueError(
                "batch norm cannot train on a single node (or edge): give larger batches, or use norm='layer'"
            )
        return super().forward(x)


def _norm(norm: str, dim: int) -> nn.Module:
    return dict(batch=_BatchNorm, layer=nn.LayerNorm, none=lambda _: nn.Identity())[norm](dim)
