"""Closed forms for 2 x 2 matrices: exponential, logarithm, square roots, polar factors; no eigenvalue solver.

Write a symmetric matrix ``[[x, q], [q, z]]`` as ``m I + D`` with ``m = (x + z) / 2``, ``e = (x - z) / 2``,
``D = [[e, q], [q, -e]]`` and ``rho = hypot(e, q)``; its eigenvalues are ``m +- rho`` and ``D D = rho^2 I``. Hence

- ``exp X = e^m (cosh(rho) I + sinh(rho) / rho D)``
- ``log P = ln(det P) / 2 I + ln(l+ / l-) / (2 rho) D`` with ``l+ = m + rho`` and ``l- = det P / l+``

Computing ``l-`` from the determinant avoids the cancellation in ``m - rho``. All functions and their gradients are
smooth, also at equal eigenvalues, where every quotient is a power series in ``rho^2``. Compared with an eigenvalue
solver on ``A A^T``, the condition number is not squared. The identities hold to rounding error, about ``eps`` times the
condition number; ``tests/blocks/lie/test_sym2.py`` states the measured tolerances. Half precision is computed in
float32.

Decomposition: Mironenco and Forre, *Lie Group Decompositions for Equivariant Neural Networks*, arXiv 2310.11366.
"""

import torch
from torch import Tensor

from dinor1.utils.precision import in_single_precision

from .checks import check_positive_definite, check_positive_determinant, check_square, values_are_readable


def det2(a: Tensor) -> Tensor:
    """Determinant of 2 x 2 matrices, ``(..., 2, 2)`` -> ``(...)``."""
    return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]


def sinhc(square: Tensor) -> Tensor:
    """``sinh(r) / r`` as a function of ``r^2``, with the limit 1 and a finite gradient at 0."""
    small = square < 1e-2
    r = torch.where(small, torch.ones_like(square), square).sqrt()
    # The first omitted term is r^12 / 13!, below 2e-22.
    series = 1 + square / 6 * (1 + square / 20 * (1 + square / 42 * (1 + square / 72 * (1 + square / 110))))
    return torch.where(small, series, r.sinh() / r)


@in_single_precision
def sym_exp(x: Tensor) -> Tensor:
    """Matrix exponential of symmetric matrices.

    Args:
        x: ``(..., 2, 2)`` symmetric; unequal off-diagonal entries are averaged.

    Returns:
        Symmetric positive definite matrices of the same shape; ``spd_log(sym_exp(X)) = X``.

    Raises:
        TypeError: ``x`` is not floating point.
        ValueError: ``x`` is not ``(..., 2, 2)``.
    """
    check_square(x, 2, 'x')
    m, e, q = _parts(x)
    square = e.square() + q.square()
    return _join(m.exp() * _cosh(square), m.exp() * sinhc(square), e, q)


@in_single_precision
def spd_log(p: Tensor) -> Tensor:
    """Logarithm of symmetric positive definite matrices, the inverse of :func:`sym_exp`.

    Args:
        p: ``(..., 2, 2)`` symmetric positive definite.

    Returns:
        Symmetric matrices of the same shape, with trace ``ln det p``.

    Raises:
        TypeError: ``p`` is not floating point.
        ValueError: ``p`` is not ``(..., 2, 2)`` or not positive definite.
    """
    check_square(p, 2, 'p')
    if values_are_readable(p):
        check_positive_definite(p, 'p')
    return _log(p, det2(p))


@in_single_precision
def spd_sqrt(p: Tensor) -> Tensor:
    """Symmetric square root of symmetric positive definite matrices, ``(p + sqrt(det p) I) / sqrt(tr + 2 sqrt(det))``.

    From the Cayley-Hamilton theorem; arguments, result and errors as in :func:`spd_log`.
    """
    check_square(p, 2, 'p')
    if values_are_readable(p):
        check_positive_definite(p, 'p')
    m, e, q = _parts(p)
    root = det2(p).sqrt()
    scale = (2 * (m + root)).rsqrt()
    return _join((m + root) * scale, scale, e, q)


@in_single_precision
def spd_invsqrt(p: Tensor) -> Tensor:
    """Inverse of :func:`spd_sqrt`: adjugate divided by determinant."""
    check_square(p, 2, 'p')
    if values_are_readable(p):
        check_positive_definite(p, 'p')
    m, e, q = _parts(p)
    root = det2(p).sqrt()
    scale = (2 * (m + root)).rsqrt() / root
    return _join((m + root) * scale, -scale, e, q)


@in_single_precision
def polar2(a: Tensor, check: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Left polar form ``A = exp(L) R`` of 2 x 2 matrices with positive determinant.

    With ``A = [[a, b], [c, d]]``: ``theta = atan2(c - b, a + d)``; ``hypot(a + d, c - b)`` is the trace of the
    positive factor and never 0, so that the angle is always defined.

    Args:
        a: ``(..., 2, 2)``, determinant > 0.
        check: Whether to check values (on CPU only); products of checked matrices need no check.

    Returns:
        ``L`` (..., 2, 2) symmetric with trace ``ln det A``; ``R`` (..., 2, 2) a rotation; ``theta`` (...) its angle
        in (-pi, pi].

    Raises:
        TypeError: ``a`` is not floating point.
        ValueError: ``a`` is not ``(..., 2, 2)``, NaN, singular, or of negative determinant.
    """
    check_square(a, 2, 'a')
    if check and values_are_readable(a):
        check_positive_determinant(a, 'a')
    across, along = a[..., 1, 0] - a[..., 0, 1], a[..., 0, 0] + a[..., 1, 1]
    theta = torch.atan2(across, along)
    # Compute R from the same two numbers, not from theta: exact for -I, where cos and sin would round.
    r = torch.hypot(across, along)
    rotation = _join2(along / r, -across / r, across / r, along / r)
    return _log(a @ rotation.mT, det2(a)), rotation, theta


@in_single_precision
def general_exp(x: Tensor) -> Tensor:
    """Matrix exponential of any 2 x 2 matrix, ``e^m (C I + S (X - m I))`` with ``m = tr X / 2``.

    ``C`` and ``S`` are cosh and sinh(r) / r of ``r^2 = -det(X - m I)``, or cos and sin(r) / r if it is negative.
    On GL+(2) and SL(2) it is not surjective: no X has exponential diag(-2, -1/2).
    """
    check_square(x, 2, 'x')
    # Split off the trace.
    m = (x[..., 0, 0] + x[..., 1, 1]) / 2
    traceless = x - m[..., None, None] * torch.eye(2, dtype=x.dtype, device=x.device)
    square = -det2(traceless)
    # Use the circular functions for negative squares, the hyperbolic ones otherwise.
    negative = square < 0
    flat = torch.zeros_like(square)
    up, down = torch.where(negative, flat, square), torch.where(negative, -square, flat)
    cosine = torch.where(negative, _cos(down), _cosh(up)) * m.exp()
    sine = torch.where(negative, _sinc(down), sinhc(up)) * m.exp()
    eye = torch.eye(2, dtype=x.dtype, device=x.device)
    return cosine[..., None, None] * eye + sine[..., None, None] * traceless


@in_single_precision
def general_log(a: Tensor) -> Tensor:
    """Principal logarithm of 2 x 2 matrices with positive determinant, inverse of :func:`general_exp`.

    With ``A = s (t I + N)``, ``det A = s^2`` and N traceless: ``log A = ln(s) I + N / f``, where f is ``sin(r) / r``
    for ``cos r = t`` or ``sinh(r) / r`` for ``cosh r = t``.

    Raises:
        ValueError: wrong shape, NaN, determinant <= 0; or no real logarithm: two different negative eigenvalues, or a
            shear with negative eigenvalues. ``-s I`` has several logarithms; the result is that of the half turn.
    """
    check_square(a, 2, 'a')
    if values_are_readable(a):
        check_positive_determinant(a, 'a')
    # Split off the determinant and the trace.
    scale = det2(a).sqrt()[..., None, None]
    eye = torch.eye(2, dtype=a.dtype, device=a.device)
    unit = a / scale
    t = (unit[..., 0, 0] + unit[..., 1, 1]) / 2
    n = unit - t[..., None, None] * eye
    square = -det2(n)
    # At the half turn the factor is 0 / 0; the result is pi J, one of several logarithms.
    half_turn = n.abs().amax((-2, -1)) <= 8 * torch.finfo(a.dtype).eps
    half_turn = half_turn & (t < 0)
    if values_are_readable(a):
        missing = (square >= 0) & (t < 0) & ~half_turn
        if missing.any():
            raise ValueError(f'no real logarithm: {a[missing][0].tolist()} has negative eigenvalues; use coords')
    # Compute asinh(r) / r or angle / r with r the sine of the angle; both are 1 - square / 6 around 0 for t > 0.
    near = (square.abs() < 1e-7) & (t > 0)
    up = torch.where((square > 0) & ~near, square, torch.ones_like(square)).sqrt()
    down = torch.where((square < 0) & ~near, -square, torch.ones_like(square)).sqrt()
    factor = torch.where(square > 0, up.asinh() / up, torch.atan2(down, t) / down)
    factor = torch.where(near, 1 - square / 6, factor)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=a.dtype, device=a.device)
    n = torch.where(half_turn[..., None, None], torch.pi * quarter, factor[..., None, None] * n)
    return scale.log() * eye + n


def _log(p: Tensor, determinant: Tensor) -> Tensor:
    m, e, q = _parts(p)
    square = e.square() + q.square()
    ratio = square / m.square()
    # The bound is this large because the gradient of the quotient loses digits below it.
    small = ratio < 1e-3
    rho = torch.where(small, torch.ones_like(square), square).sqrt()
    low = determinant / (m + rho)
    # The series is atanh(s) / s in s^2; the first omitted term is below 1e-22.
    series = 1 + ratio * (1 / 3 + ratio * (1 / 5 + ratio * (1 / 7 + ratio * (1 / 9 + ratio * (1 / 11 + ratio / 13)))))
    factor = torch.where(small, series / m, (2 * rho / low).log1p() / (2 * rho))
    return _join(determinant.log() / 2, factor, e, q)


def _cosh(square: Tensor) -> Tensor:
    small = square < 1e-2
    r = torch.where(small, torch.ones_like(square), square).sqrt()
    series = 1 + square / 2 * (1 + square / 12 * (1 + square / 30 * (1 + square / 56 * (1 + square / 90))))
    return torch.where(small, series, r.cosh())


def _cos(square: Tensor) -> Tensor:
    small = square < 1e-2
    r = torch.where(small, torch.ones_like(square), square).sqrt()
    series = 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56 * (1 - square / 90))))
    return torch.where(small, series, r.cos())


def _sinc(square: Tensor) -> Tensor:
    small = square < 1e-2
    r = torch.where(small, torch.ones_like(square), square).sqrt()
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110))))
    return torch.where(small, series, r.sin() / r)


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(m, e, q)`` of the symmetric part of ``x``."""
    return (
        (x[..., 0, 0] + x[..., 1, 1]) / 2,
        (x[..., 0, 0] - x[..., 1, 1]) / 2,
        (x[..., 0, 1] + x[..., 1, 0]) / 2,
    )


def _join(isotropic: Tensor, factor: Tensor, e: Tensor, q: Tensor) -> Tensor:
    """``isotropic * I + factor * D``."""
    return _join2(isotropic + factor * e, factor * q, factor * q, isotropic - factor * e)


def _join2(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], dim=-1).unflatten(-1, (2, 2))
