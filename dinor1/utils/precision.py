"""Compute in at least single precision, under autocast and within a backward pass."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def full_precision(device: torch.device) -> torch.autocast:
    """Return a context without autocast on ``device``, for coordinates, statistics and scores to sort."""
    return torch.autocast(device.type, enabled=False)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Dtype to compute with: float64 if one of the floating-point tensors has it, else float32.

    The 11 bits of float16 and the 8 bits of bfloat16 cannot address every pixel, or sum a row of a thousand numbers.
    """
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a half-precision tensor to float32; other tensors are returned as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def in_single_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function of a tensor: a half-precision argument is computed in float32, and its results rounded.

    Args:
        function: Its first argument is the tensor; it returns a tensor or a tuple of tensors.
    """

    @functools.wraps(function)
    def widened(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        # The function checks other arguments itself.
        if getattr(tensor, 'dtype', None) not in (torch.bfloat16, torch.float16):
            return function(tensor, *args, **kwargs)
        result = function(tensor.float(), *args, **kwargs)
        return tuple(part.to(tensor.dtype) for part in result) if isinstance(result, tuple) else result.to(tensor.dtype)

    return widened
