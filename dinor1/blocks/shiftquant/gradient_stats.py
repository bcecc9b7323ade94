"""What quantization does to gradients: how many codes are zero, and which groups the channels are in."""

from typing import Any

import torch
from torch import Tensor

from .shift_tensor import ShiftTensor


class GradientStats:
    """Counts on the device, which are read only when they are asked for.

    Gradients of detectors are sparse by rows, and one row may set the range of all; the paper says nothing about them.
    """

    def __init__(self) -> None:
        self._zeros: Tensor | None = None
        self._codes = 0
        self._channels: Tensor | None = None

    def add(self, quantized: ShiftTensor) -> None:
        """Count the codes and channels of one quantized gradient."""
        zeros = (quantized.q == 0).sum()
        # Without bincount, whose size would have to travel to the host.
        shifts = torch.arange(quantized.groups, device=quantized.shift.device).unsqueeze(1)
        channels = (quantized.shift == shifts).sum(1).flip(0)
        self._zeros = zeros if self._zeros is None else self._zeros + zeros
        self._channels = channels if self._channels is None else self._channels + channels
        self._codes += quantized.q.numel()

    def zero_share(self) -> float:
        """Share of the codes that are zero, from 0 to 1; 0 before the first gradient."""
        return 0.0 if self._zeros is None else int(self._zeros) / max(self._codes, 1)

    def group_shares(self) -> list[float]:
        """Share of the channels in each group, the one with the largest gradients first; empty before the first."""
        return [] if self._channels is None else (self._channels / self._channels.sum().clamp(min=1)).tolist()

    def snapshot(self) -> tuple[Any, ...]:
        """The counts so far, for :meth:`restore`."""
        return self._zeros, self._codes, self._channels

    def restore(self, counts: tuple[Any, ...]) -> None:
        """Forget what has been counted since :meth:`snapshot`."""
        self._zeros, self._codes, self._channels = counts
