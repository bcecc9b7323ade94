"""Positional codes of the nodes of a graph: eigenvectors of its Laplacian.

Dwivedi and Bresson, arXiv 2012.09699, equation 1: the k eigenvectors with the smallest eigenvalues after the first, of
``I - D^-1/2 A D^-1/2`` with degrees clipped to at least 1.

Their signs are arbitrary, hence the random flips in training. Eigenvectors of a repeated eigenvalue are arbitrary up to
a rotation, which flips do not cover; and a graph of c components has the eigenvalue 0 c times, of which only one
eigenvector is dropped. The release uses other solvers (a general dense one for molecules, an inexact sparse one for SBM
graphs). This module uses the symmetric dense solver: exact and reproducible, cubic in the number of nodes, seconds at
3,000 nodes.

PyTorch Geometric's ``get_laplacian`` gives the same matrix for a graph without self-loops, which it drops. Its
``AddLaplacianEigenvectorPE`` gives another code: it draws signs at every call; from 100 nodes on its sparse solver
starts at random and is off by 7e-5; and it fails for a graph of k nodes or fewer.
"""

import torch
from torch import Tensor


def laplacian_positional_encoding(
    edge_index: Tensor,
    num_nodes: int,
    k: int,
    *,
    normalized: bool = True,
    pad: bool = True,
    return_eigenvalues: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Laplacian eigenvectors of one graph.

    Args:
        edge_index: ``(2, E)`` int64. Directions and repetitions are ignored.
        num_nodes: N.
        k: Number of columns.
        normalized: ``False``: eigenvectors of D - A instead.
        pad: A graph has N - 1 eigenvectors after the first; fill the missing columns with zeros. Otherwise the result
            has min(k, N - 1) columns.
        return_eigenvalues: Also return the eigenvalues of the columns, padded in the same way.

    Returns:
        ``(N, k)`` float32, columns of length 1 by ascending eigenvalue; and the eigenvalues ``(k,)`` float32, in [0, 2]
        if normalized.

    Raises:
        ValueError: ``k`` is negative.
    """
    if k < 0:
        raise ValueError(f'k must not be negative, got {k}')
    # Build the symmetric adjacency.
    adjacency = torch.zeros(num_nodes, num_nodes, dtype=torch.float64, device=edge_index.device)
    source, target = edge_index
    adjacency[source, target] = 1
    adjacency[target, source] = 1
    degree = adjacency.sum(1)
    # Build the Laplacian.
    if normalized:
        scale = degree.clamp(min=1).rsqrt()
        laplacian = torch.eye(num_nodes, dtype=torch.float64, device=edge_index.device)
        laplacian -= scale[:, None] * adjacency * scale
    else:
        laplacian = degree.diag() - adjacency
    # Drop the first eigenvector, keep the next k, and pad with zeros.
    values, vectors = torch.linalg.eigh(laplacian)
    values, vectors = values[1 : k + 1].float(), vectors[:, 1 : k + 1].float()
    missing = k - len(values)
    if pad and missing > 0:
        values = torch.cat([values, values.new_zeros(missing)])
        vectors = torch.cat([vectors, vectors.new_zeros(num_nodes, missing)], 1)
    return (vectors, values) if return_eigenvalues else vectors


def random_sign_flip(pe: Tensor, generator: torch.Generator | None = None, batch: Tensor | None = None) -> Tensor:
    """Multiply every column by +1 or -1, with probability 1/2 each. Use it in training only.

    Args:
        pe: ``(N, k)``.
        generator: Random generator; ``None``: the global one of the device.
        batch: ``(N,)`` int64, the graph of each node: draw signs for each graph. ``None``, as released: one sign per
            column for all graphs of the batch.

    Returns:
        ``(N, k)``.
    """
    num_draws = 1 if batch is None or not len(batch) else int(batch.max()) + 1
    device = pe.device if generator is None else generator.device
    signs = torch.randint(2, (num_draws, pe.shape[1]), generator=generator, device=device).to(pe) * 2 - 1
    return pe * (signs if batch is None else signs[batch])
