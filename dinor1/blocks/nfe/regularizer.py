"""A penalty on the size of embeddings."""

from torch import Tensor


def power_norm(*rows: Tensor, p: float = 3.0) -> Tensor:
    """Mean over the batch of the sum of ``|x|^p`` over the rows of a triple.

    With p = 3 this is the nuclear 3-norm of Lacroix, Usunier and Obozinski, *Canonical Tensor Decomposition for
    Knowledge Base Completion*, ICML 2018, arXiv 1806.07297, Eq. (7), up to its factor 1/3; with p = 2 it is weight
    decay on the rows of the batch. The published NFE has no penalty.

    Args:
        rows: Rows of heads, relations and tails, each ``(B, width)``.
        p: Exponent, at least 1.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: p is below 1, where the gradient at 0 would be infinite.
    """
    if p < 1:
        raise ValueError(f'p must be at least 1, got {p}')
    total = sum(x.abs().pow(p).sum() for x in rows)
    return total / len(rows[0])
