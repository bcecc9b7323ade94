"""Computation in at least single precision under autocast."""

import torch
from torch import Tensor


def full_precision(device: torch.device) -> torch.autocast:
    """Context that disables autocast on ``device``, for coordinates and for scores that are sorted."""
    return torch.autocast(device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert a half-precision tensor to float32; other tensors are returned as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
