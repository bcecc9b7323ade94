"""Statistics of quantized gradients: share of zero codes, and share of channels in each group."""

from typing import Any

import torch
from torch import Tensor

from .shift_tensor import ShiftTensor


class GradientStats:
    """Counts on the device, copied to the host only when read.

    Gradients of detectors are sparse by rows, and one row may set the range of all; the paper does not discuss this.
    """

    def __init__(self) -> None:
        self._zeros: Tensor | None = None
        self._codes = 0
        self._channels: Tensor | None = None

    def add(self, quantized: ShiftTensor) -> None:
        """Count the codes and channels of one quantized gradient."""
        zeros = (quantized.q == 0).sum()
        # Avoid bincount, which would synchronise with the host for its size.
        shifts = torch.arange(quantized.groups, device=quantized.shift.device).unsqueeze(1)
        channels = (quantized.shift == shifts).sum(1).flip(0)
        self._zeros = zeros if self._zeros is None else self._zeros + zeros
        self._channels = channels if self._channels is None else self._channels + channels
        self._codes += quantized.q.numel()

    def zero_share(self) -> float:
        """Share of the codes that are zero, from 0 to 1; 0 before the first gradient."""
        return 0.0 if self._zeros is None else int(self._zeros) / max(self._codes, 1)

    def group_shares(self) -> list[float]:
        """Share of channels in each group, starting with the largest gradients; empty before the first gradient."""
        return [] if self._channels is None else (self._channels / self._channels.sum().clamp(min=1)).tolist()

    def snapshot(self) -> tuple[Any, ...]:
        """Counts so far, for :meth:`restore`."""
        return self._zeros, self._codes, self._channels

    def restore(self, counts: tuple[Any, ...]) -> None:
        """Reset the counts to those of :meth:`snapshot`."""
        self._zeros, self._codes, self._channels = counts
