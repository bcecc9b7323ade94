"""ShiftQuant: channels in groups whose steps are powers of two of one another.

W. Guo, D. Liu et al., "Towards Accurate and Efficient Sub-8-Bit Integer Training", arXiv 2411.10948, section 3. The
paper's text defines the idea (small channels are separated from large ones, their scales differ by powers of two,
nothing is reordered, no zero point); its equations were not available. The rule below is a design of this package::

    R = max_c r_c,  r_c = max |x| of channel c
    g_c = number of k in 1..G-1 with r_c <= R 2^-k        group, 0 holds the largest channels
    step_c = (R / Q) 2^-g_c,   Q = 2^(bits-1) - 1
    q = floor(x / step_c + u),  u ~ U(0, 1)               or round-half-even of x / step_c
    scale = (R / Q) 2^-(G-1),  shift_c = G - 1 - g_c

``|x| <= R 2^-g_c`` within a group, so nothing is clipped and the stochastic codes are unbiased.
"""

from typing import Literal

import torch
from torch import Tensor

from dinor1.utils.errors import InputError
from dinor1.utils.precision import compute_dtype

from .grid import check_groups, default_groups, is_bits, top_code
from .shift_tensor import ShiftTensor

# Noise has 16 bits: each random word of 64 bits gives four numbers. They are centred in their intervals, so that an
# integer is not changed, and the expectation of a code is off by at most 2^-17 of a step.
_NOISE_BITS = 16
_NOISE_OFFSET = 0.5 + 2.0 ** -(_NOISE_BITS + 1)
# On CPU, tensors are processed block by block, so that all passes but the first read from the cache.
_BLOCK = 2**16


class ShiftQuantizer:
    """Quantizer with the rule in the module's docstring.

    Args:
        bits: 2 to 8.
        groups: Number of groups G; 1: one step for the whole tensor. ``'channel'``: an independent step for every
            channel, for comparison only (:meth:`fake`), since no integer product can use it. None: the default of
            ``bits``.
        dim: Axis of the channels.
        rounding: ``'stochastic'`` or ``'nearest'`` (half to even).
        generator: Generator of the noise; None: torch's default generator.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        bits: int = 4,
        groups: int | Literal['channel'] | None = None,
        dim: int = -1,
        rounding: Literal['stochastic', 'nearest'] = 'stochastic',
        generator: torch.Generator | None = None,
    ) -> None:
        if not is_bits(bits):
            raise InputError(f'ShiftQuantizer: bits must be a whole number from 2 to 8, got {bits!r}')
        check_groups('ShiftQuantizer', groups)
        if rounding not in ('stochastic', 'nearest'):
            raise InputError(f"ShiftQuantizer: rounding must be 'stochastic' or 'nearest', got {rounding!r}")
        self.bits, self.top, self.dim, self.rounding, self.generator = bits, top_code(bits), dim, rounding, generator
        self.groups = default_groups(bits) if groups is None else groups

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> ShiftTensor:
        """Quantize ``x``, any shape with an axis ``dim``. Computes in float32 or better, without gradient.

        Args:
            x: Floating-point tensor.
            generator: Replaces the quantizer's own generator.

        Raises:
            InputError: ``groups`` is 'channel', or ``x`` is not a floating-point tensor with an axis ``dim``.
        """
        if self.groups == 'channel':
            raise InputError("ShiftQuantizer: groups='channel' is not an integer grid; use fake()")
        x, dim = self._checked(x)
        levels = self.top << (self.groups - 1)
        # One group: one step for the whole tensor.
        if x.numel() == 0 or self.groups == 1:
            shift = torch.zeros(x.shape[dim], dtype=torch.uint8, device=x.device)
            scale = _step(_peak(x), levels)
            return ShiftTensor(self._codes(x, scale.reciprocal(), generator), shift, scale, dim, self.top, self.groups)
        # Assign the channels to groups.
        ranges = _channel_ranges(x, dim)
        peak = ranges.amax()
        # Doubling is exact, unlike a logarithm: a channel at R / 2 is always in group 1.
        doubled = ranges * (1 << torch.arange(1, self.groups, device=x.device)).unsqueeze(1)
        shift = self.groups - 1 - (doubled <= peak).sum(0)
        # Round to the step of each channel.
        scale = _step(peak, levels)
        inverse = _along(scale.reciprocal() / (1 << shift), x, dim)
        codes = self._codes(x, inverse, generator)
        return ShiftTensor(codes, shift.to(torch.uint8), scale, dim, self.top, self.groups)

    def fake(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Quantize and dequantize ``x``; float32 or better."""
        if self.groups != 'channel':
            return self(x, generator).dequantize()
        # With a step for each channel, there are no groups.
        x, dim = self._checked(x)
        if x.numel() == 0:
            return x
        step = _along(_step(_channel_ranges(x, dim), self.top), x, dim)
        return self._codes(x, step.reciprocal(), generator).to(x.dtype) * step

    def _codes(self, x: Tensor, inverse: Tensor, generator: torch.Generator | None) -> Tensor:
        """int8 codes of ``x * inverse``; ``inverse`` broadcasts against ``x``."""
        rows = _rows_per_block(x) if inverse.dim() == 0 or inverse.shape[0] == 1 else len(x)
        if rows >= len(x):
            return self._round(x * inverse, generator).to(torch.int8)
        # Round block by block, which limits the memory.
        codes = torch.empty_like(x, dtype=torch.int8)
        for block, target in zip(x.split(rows), codes.split(rows), strict=True):
            target.copy_(self._round(block * inverse, generator))
        return codes

    def _round(self, scaled: Tensor, generator: torch.Generator | None) -> Tensor:
        """Round ``scaled`` in place."""
        if self.rounding == 'stochastic':
            noise = _noise(scaled, self.generator if generator is None else generator)
            scaled.add_(_NOISE_OFFSET).add_(noise, alpha=2.0**-_NOISE_BITS).floor_()
        else:
            scaled.round_()
        # Clamp: a quotient may exceed the top code by a rounding error.
        return scaled.clamp_(-self.top, self.top)

    def _checked(self, x: Tensor) -> tuple[Tensor, int]:
        if not x.is_floating_point() or not -x.dim() <= self.dim < x.dim():
            raise InputError(
                f'ShiftQuantizer: needs a floating-point tensor with an axis {self.dim}, got {x.dtype} of shape '
                f'{tuple(x.shape)}'
            )
        return x.detach().to(compute_dtype(x)), self.dim % x.dim()


def _peak(x: Tensor) -> Tensor:
    """Largest magnitude, (); NaN if ``x`` contains NaN; 0 for an empty tensor."""
    if x.numel() == 0:
        return x.new_zeros(())
    low, high = x.aminmax()
    return torch.maximum(-low, high)


def _channel_ranges(x: Tensor, dim: int) -> Tensor:
    """Largest magnitude of every channel, (C,)."""
    others = [axis for axis in range(x.dim()) if axis != dim]
    if not others:
        return x.abs()
    rows = _rows_per_block(x) if dim else len(x)
    return torch.stack([block.abs().amax(others) for block in x.split(rows)]).amax(0)


def _rows_per_block(x: Tensor) -> int:
    """Entries of the first axis per block; all of them on a GPU, where every call has a fixed cost."""
    return max(1, _BLOCK * len(x) // max(1, x.numel())) if x.device.type == 'cpu' else len(x)


def _step(peak: Tensor, levels: int) -> Tensor:
    """Step ``peak / levels``; 1 where the peak is zero, NaN where it is not finite.

    Steps below the smallest normal number are replaced by that number, since their reciprocal would be infinite. Such a
    tensor uses fewer levels, and stochastic rounding stays unbiased.
    """
    step = (peak / levels).clamp(min=torch.finfo(peak.dtype).tiny)
    return torch.where(peak == 0, 1.0, step + (peak - peak))


def _noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random whole numbers from -2^15 to 2^15 - 1 in the shape and dtype of ``like``."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    words.random_(-(2**63), None, generator=generator)
    # Copy to the target's dtype first: an addition with a cast is many times slower on CPU.
    return words.view(torch.int16)[: like.numel()].view(like.shape).to(like.dtype)


def _along(values: Tensor, x: Tensor, dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    return values.view(shape)
