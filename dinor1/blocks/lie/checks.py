"""Checks of the user's matrices, with a clear error instead of NaN several layers later.

Shapes and dtypes are always checked. Values are checked on CPU only: on an accelerator the host would have to wait for
the device in every layer. Samples that this package draws are valid by construction; call
:meth:`dinor1.blocks.lie.MatrixGroup.validate` on other matrices before you move them to a device.
"""

import torch
from torch import Tensor


def check_square(matrices: Tensor, n: int, name: str) -> None:
    """Raise unless ``matrices`` are float32 or float64 ``(..., n, n)``: decompositions do not support half precision.

    Raises:
        TypeError: not a floating-point tensor, or half precision.
        ValueError: the shape is not ``(..., n, n)``.
    """
    if not isinstance(matrices, Tensor) or not matrices.is_floating_point():
        kind = matrices.dtype if isinstance(matrices, Tensor) else type(matrices).__name__
        raise TypeError(f'{name} must be a floating-point tensor, got {kind}')
    if matrices.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f'{name} must be float32 or float64, got {matrices.dtype}')
    if matrices.dim() < 2 or matrices.shape[-2:] != (n, n):
        raise ValueError(f'{name} must be (..., {n}, {n}), got {tuple(matrices.shape)}')


def values_are_readable(*tensors: Tensor) -> bool:
    """Whether reading the values needs no synchronisation with a device and does not break a traced graph."""
    return not torch.compiler.is_compiling() and all(tensor.device.type == 'cpu' for tensor in tensors)


def check_finite(tensor: Tensor, name: str) -> None:
    """Raise ``ValueError`` if ``tensor`` holds NaN or infinity. Reads the values."""
    if not tensor.isfinite().all():
        raise ValueError(f'{name} must be finite, got NaN or infinity at {_first(~tensor.isfinite())}')


def check_positive_determinant(matrices: Tensor, name: str) -> None:
    """Raise ``ValueError`` unless every matrix has a determinant above rounding error. Reads the values."""
    check_finite(matrices, name)
    # Compare with Hadamard's bound, the product of the row norms: smaller determinants are rounding errors.
    scale = matrices.detach().norm(dim=-1).prod(dim=-1)
    determinant = torch.linalg.det(matrices.detach())
    bad = ~(determinant > 4 * torch.finfo(matrices.dtype).eps * scale)
    if bad.any():
        value = determinant[bad][0].item()
        what = 'is singular' if abs(value) <= 1e-6 * scale[bad][0].item() else 'reflects'
        raise ValueError(
            f'{name} must have a positive determinant; the matrix at {_first(bad)} has {value:.3g} and {what}'
        )


def check_symmetric(matrices: Tensor, name: str) -> None:
    """Raise ``ValueError`` unless every matrix is symmetric to rounding error. Reads the values."""
    check_finite(matrices, name)
    skew = (matrices - matrices.mT).abs().amax(dim=(-2, -1))
    scale = matrices.abs().amax(dim=(-2, -1)).clamp(min=1e-30)
    bad = skew > torch.finfo(matrices.dtype).eps ** 0.5 * scale
    if bad.any():
        raise ValueError(f'{name} must be symmetric; the matrix at {_first(bad)} is not')


def check_positive_definite(matrices: Tensor, name: str) -> None:
    """Raise ``ValueError`` unless every matrix is symmetric positive definite. Reads the values."""
    check_symmetric(matrices, name)
    _, failed = torch.linalg.cholesky_ex(matrices.detach())
    if failed.any():
        raise ValueError(f'{name} must be positive definite; the matrix at {_first(failed > 0)} is not')


def _first(mask: Tensor) -> str:
    """Index of the first True entry, for error messages."""
    return f'index {tuple(mask.nonzero()[0].tolist())}' if mask.dim() else 'the only index'
