"""Computation in at least single precision, under autocast and within a backward pass."""

import torch
from torch import Tensor


def full_precision(device: torch.device) -> torch.autocast:
    """Context that disables autocast on ``device``, for coordinates, statistics and scores that are sorted."""
    return torch.autocast(device.type, enabled=False)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """In which dtype to compute with floating-point tensors: float64 where one is, else float32.

    The 11 or 8 bits of a half are too few to address a pixel, or to sum a row of a thousand numbers.
    """
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a half-precision tensor to float32; other tensors are returned as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
