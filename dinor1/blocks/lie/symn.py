"""The functions of :mod:`~dinor1.blocks.lie.sym2` for n x n matrices, from eigenvalues and singular values.

Used for n = 3, where closed forms exist but lose half of the digits at nearly equal eigenvalues. Exact to rounding
error. The gradient does not exist at equal eigenvalues; samples have no gradient, so the layers do not need it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dinor1.utils.precision import in_single_precision

from .checks import check_positive_definite, check_positive_determinant, check_square, values_are_readable


@in_single_precision
def sym_exp(x: Tensor) -> Tensor:
    """Matrix exponential of symmetric ``(..., n, n)`` matrices; only the lower triangle is read."""
    check_square(x, x.shape[-1], 'x')
    return _apply(torch.exp, x)


@in_single_precision
def spd_log(p: Tensor) -> Tensor:
    """Logarithm of symmetric positive definite ``(..., n, n)`` matrices.

    Raises:
        ValueError: ``p`` is not square or not positive definite.
    """
    return _apply(torch.log, _checked(p))


@in_single_precision
def spd_sqrt(p: Tensor) -> Tensor:
    """Symmetric square root; errors as in :func:`spd_log`."""
    return _apply(torch.sqrt, _checked(p))


@in_single_precision
def spd_invsqrt(p: Tensor) -> Tensor:
    """Inverse symmetric square root; errors as in :func:`spd_log`."""
    return _apply(torch.rsqrt, _checked(p))


@in_single_precision
def polar(a: Tensor, check: bool = True) -> tuple[Tensor, Tensor]:
    """Left polar form ``A = exp(L) R`` through the singular values ``A = U S V^T``: ``L = U ln(S) U^T``, ``R = U V^T``.

    Args:
        a: ``(..., n, n)``, determinant > 0.
        check: Whether to check values (on CPU only).

    Returns:
        ``L`` symmetric with trace ``ln det A``, and ``R`` in SO(n), both ``(..., n, n)``.

    Raises:
        TypeError: ``a`` is not floating point.
        ValueError: ``a`` is not square, NaN, singular, or of negative determinant.
    """
    check_square(a, a.shape[-1], 'a')
    if check and values_are_readable(a):
        check_positive_determinant(a, 'a')
    u, s, vt = torch.linalg.svd(a)
    return (u * s.log().unsqueeze(-2)) @ u.mT, u @ vt


def _checked(p: Tensor) -> Tensor:
    check_square(p, p.shape[-1], 'p')
    if values_are_readable(p):
        check_positive_definite(p, 'p')
    return p


def _apply(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(x)
    return (vectors * function(values).unsqueeze(-2)) @ vectors.mT
