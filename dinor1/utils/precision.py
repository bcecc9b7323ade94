"""Which numbers are computed in at least single precision, whatever autocast says."""

import torch
from torch import Tensor


def full_precision(device: torch.device) -> torch.autocast:
    """Context in which autocast on ``device`` does nothing: for coordinates and for scores that are sorted."""
    return torch.autocast(device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor``, in single precision where it was in half."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
