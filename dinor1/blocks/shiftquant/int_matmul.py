"""Exact products of integer matrices, by torch's int8 kernel or in float64."""

import functools
from typing import Literal

import torch
from torch import Tensor

from dinor1.utils.errors import InputError
from dinor1.utils.precision import full_precision

_INT32_LIMIT = 2**31
# CUDA's kernel needs more than 16 rows and multiples of 8 for the other sides; matrices are padded with zeros.
_CUDA_ROWS, _CUDA_SIDES = 32, 16


@functools.cache
def has_int_mm(device_type: str) -> bool:
    """Whether torch multiplies int8 matrices on this type of device; ``torch._int_mm`` is not public."""
    ones = torch.ones(_CUDA_ROWS, _CUDA_SIDES, dtype=torch.int8, device=device_type)
    try:
        return bool((torch._int_mm(ones, ones.t()) == _CUDA_SIDES).all())
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def int_matmul(
    a: Tensor, b: Tensor, backend: Literal['int_mm', 'float64'] = 'int_mm', max_term: int = 128 * 128
) -> Tensor:
    """Multiply two int8 matrices exactly in int32.

    Args:
        a: (M, K) int8, with any strides; sizes may be 0.
        b: (K, N) int8.
        backend: ``int_mm``, torch's int8 kernel, or ``float64``, the reference.
        max_term: Upper bound of ``|a_ik b_kj|``.

    Returns:
        (M, N) int32.

    Raises:
        InputError: the operands are not int8 matrices that fit each other, sums may overflow int32, the backend is
            unknown, or torch does not have it on the device.
    """
    # Check the operands.
    if a.dtype != torch.int8 or b.dtype != torch.int8 or a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0]:
        raise InputError(
            f'int_matmul: expected int8 (M, K) and (K, N), got {a.dtype} {tuple(a.shape)} and {b.dtype} '
            f'{tuple(b.shape)}'
        )
    if a.shape[1] * max_term >= _INT32_LIMIT:
        raise InputError(
            f'int_matmul: sums of {a.shape[1]} products up to {max_term} do not fit int32; split the inner axis'
        )
    # Multiply with the chosen backend.
    if backend == 'float64':
        return (a.double() @ b.double()).to(torch.int32)
    if backend != 'int_mm':
        raise InputError(f"int_matmul: backend must be 'int_mm' or 'float64', got {backend!r}")
    if not has_int_mm(a.device.type):
        raise InputError(f"int_matmul: this torch has no int8 product on {a.device.type}; use the backend 'sim'")
    if 0 in (*a.shape, b.shape[1]):
        return torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32, device=a.device)
    return _cuda_int_mm(a, b) if a.is_cuda else torch._int_mm(_plain_strides(a), _plain_strides(b))


def _plain_strides(x: Tensor) -> Tensor:
    """Return ``x``, or a copy if its strides are not those of a matrix or a transposed matrix.

    torch 2.14.1 on CPU reads beyond the tensor for a transposed row or column, where any stride along the axis of size
    1 should be valid, and for overlapping rows, such as the windows of a convolution.
    """
    (rows, columns), (row_stride, column_stride) = x.shape, x.stride()
    by_rows = column_stride == 1 and row_stride >= columns
    by_columns = row_stride == 1 and column_stride >= rows
    if 1 not in x.shape and (by_rows or by_columns):
        return x
    return x.contiguous().as_strided(x.shape, (columns, 1))


def _cuda_int_mm(a: Tensor, b: Tensor) -> Tensor:
    """Multiply padded operands, the first row-major and the second column-major, which is the fast layout."""
    (rows, inner), columns = a.shape, b.shape[1]
    # The kernel needs a minimum of rows, and multiples of a number for the other sides.
    inner_padding = -inner % _CUDA_SIDES
    row_padding = max(0, _CUDA_ROWS - rows)
    column_padding = -columns % _CUDA_SIDES
    # Pad with zeros, multiply, and cut the padding off.
    a = torch.nn.functional.pad(a, (0, inner_padding, 0, row_padding)).contiguous()
    b = torch.nn.functional.pad(b.t(), (0, inner_padding, 0, column_padding)).contiguous().t()
    return torch._int_mm(a, b)[:rows, :columns]


def exact_dtype(bound: int) -> torch.dtype:
    """Cheapest floating-point format that holds every whole number up to ``bound``."""
    return torch.float32 if bound < 2**24 else torch.float64


def exact_product(a: Tensor, b: Tensor, max_term: int, backend: Literal['sim', 'int8'], room: int = 1) -> Tensor:
    """Multiply ``a @ b`` without rounding; only here the two backends differ.

    Args:
        a: (M, K) int8.
        b: (K, N) int8.
        max_term: Bound of ``|a_ik b_kj|``.
        backend: ``sim``: multiply whole numbers in a floating-point format that is wide enough for every partial sum.
            ``int8``: :func:`int_matmul`, in parts if int32 is too narrow for the whole sum.
        room: Factor by which the caller will still increase the results, exactly.

    Returns:
        (M, N) whole numbers: float32 or float64 for ``sim``, int32 or float64 for ``int8``.
    """
    inner = a.shape[1]
    bound = inner * max_term * room
    if backend == 'sim':
        dtype = exact_dtype(bound)
        with full_precision(a.device):
            return a.to(dtype) @ b.to(dtype)
    if bound < _INT32_LIMIT:
        return int_matmul(a, b, max_term=max_term)
    # Split the inner axis, and add the parts in float64.
    length = (_INT32_LIMIT - 1) // max_term
    parts = (
        int_matmul(a[:, i : i + length], b[i : i + length], max_term=max_term).double() for i in range(0, inner, length)
    )
    return functools.reduce(Tensor.add_, parts)
