"""Readout from nodes to graphs, and the MLP from features to outputs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Names of torch's reductions.
_REDUCTIONS = {'mean': 'mean', 'sum': 'sum', 'max': 'amax'}
READOUTS = tuple(_REDUCTIONS)


def read_out(x: Tensor, batch: Tensor, num_graphs: int, kind: str = 'mean') -> Tensor:
    """Reduce the nodes of each graph to one row.

    Args:
        x: ``(N, d)``.
        batch: ``(N,)`` int64, the graph of each node.
        num_graphs: G.
        kind: ``mean``, ``sum`` or ``max``.

    Returns:
        ``(G, d)``; 0 for a graph without nodes.

    Raises:
        ValueError: ``kind`` is unknown.
    """
    if kind not in READOUTS:
        raise ValueError(f'readout must be one of {", ".join(READOUTS)}; got {kind!r}')
    rows = batch[:, None].expand_as(x)
    # Bitwise equal to PyTorch Geometric's global_mean_pool and similar, which call the same reductions.
    return x.new_zeros(num_graphs, x.shape[1]).scatter_reduce(0, rows, x, _REDUCTIONS[kind], include_self=False)


class HalvingMLP(nn.Module):
    """d -> d/2 -> d/4 -> out with ReLU between: two hidden layers, as released (the paper's equations show one).

    Args:
        dim: d.
        out_dim: Width of the output.
        hidden: Number of hidden layers.
    """

    def __init__(self, dim: int, out_dim: int, hidden: int = 2) -> None:
        super().__init__()
        widths: Sequence[int] = [dim // 2**i for i in range(hidden + 1)]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, [*widths[1:], out_dim], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, dim)`` -> ``(n, out_dim)``."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


def count_graphs(batch: Tensor) -> int:
    """Number G of graphs, the largest index plus 1; 0 without nodes."""
    return int(batch.max()) + 1 if len(batch) else 0


def one_graph(x: Tensor) -> Tensor:
    """``(N,)`` of 0: all nodes belong to one graph."""
    return torch.zeros(len(x), dtype=torch.long, device=x.device)
