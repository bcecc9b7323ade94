"""Quantized tensor of ShiftQuant: small integer codes, one shift per channel, one common scale."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ShiftTensor:
    """``x ~ scale * (q << shift)``, with a shift per channel and one floating-point scale.

    A tensor with NaN or infinity has the scale NaN, so that all results are NaN.

    Attributes:
        q: int8 codes, the shape of the quantized tensor; ``|q| <= top`` unless ``scale`` is NaN.
        shift: (C,) uint8 from 0 to ``groups - 1``, one per channel.
        scale: () floating point, the step of the finest group.
        dim: Axis of the channels, not negative.
        top: Largest code of the grid.
        groups: Number of groups of channels; 1 is ordinary quantization per tensor.
    """

    q: Tensor
    shift: Tensor
    scale: Tensor
    dim: int
    top: int
    groups: int

    @property
    def max_shift(self) -> int:
        """Shift of the coarsest group."""
        return self.groups - 1

    @property
    def fits_int8(self) -> bool:
        """Whether every ``q << shift`` fits a signed byte for any data."""
        return self.top << self.max_shift <= 127

    def factor(self) -> Tensor:
        """Step of each channel, ``scale * 2^shift``, (C,)."""
        return self.scale * (1 << self.shift.to(torch.int32)).to(self.scale.dtype)

    def preshifted(self) -> Tensor:
        """Codes ``q << shift`` in int8, so that one integer product covers all groups.

        Raises:
            ValueError: the shifted codes do not fit, see :attr:`fits_int8`.
        """
        if not self.fits_int8:
            raise ValueError(f'codes up to {self.top} shifted by up to {self.max_shift} bits do not fit int8')
        if self.groups == 1:
            return self.q
        return self.q * self._along_channels(1 << self.shift.to(torch.int8))

    def dequantize(self) -> Tensor:
        """Dequantized tensor, in the dtype of ``scale``."""
        return self.q.to(self.scale.dtype) * self._along_channels(self.factor())

    def _along_channels(self, values: Tensor) -> Tensor:
        shape = [1] * self.q.dim()
        shape[self.dim] = -1
        return values.view(shape)
