"""Shared parts of the norms: number formats, and checks of arguments, inputs and masks."""

import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import Tensor, nn

from dinor1.utils.errors import InputError
from dinor1.utils.precision import compute_dtype

# Arguments of the norms: (whole number, lowest value, highest value). eps = 0 is useful if no moment is 0.
_RANGES: dict[str, tuple[bool, float, float]] = {
    'num_features': (True, 1, math.inf),
    'per_position': (True, 1, math.inf),
    'group_num': (True, 1, math.inf),
    'warmup_iters': (True, 0, math.inf),
    'renorm_after': (True, 0, math.inf),
    'eps': (False, 0, math.inf),
    'momentum': (False, 0, 1),
    'alpha_fwd': (False, 0, 1),
    'alpha_bkw': (False, 0, 1),
    'renorm_clip': (False, 1, math.inf),
    'max_moment_ratio': (False, 0, math.inf),
}
_STEPS = ('warmup_iters', 'renorm_after')  # floats such as 1e4 are accepted
_OFF_AT_INFINITY = ('renorm_after', 'renorm_clip', 'max_moment_ratio')


class StatisticsModule(nn.Module):
    """Module whose floating-point buffers stay in float32 or better when the model is cast to half precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.is_floating_point() and buffer.dtype != compute_dtype(buffer):
                self._buffers[name] = before[name].to(buffer.device)
        return self


def check_numbers(layer: nn.Module, **arguments: float) -> None:
    """Check ``arguments`` of ``layer``'s constructor, given by name.

    Raises:
        InputError: an argument is not a number, not whole where it must be, infinite, NaN, or out of range.
    """
    for name, value in arguments.items():
        whole, low, high = _RANGES[name]
        if name in _OFF_AT_INFINITY and value == math.inf:
            continue
        kind = Integral if whole and name not in _STEPS else Real
        is_number = isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high
        if not is_number or value == math.inf or (whole and value != int(value)):
            kind = 'whole number' if whole else 'number'
            span = f'from {low} to {high}' if high < math.inf else f'of at least {low}'
            raise InputError(f'{type(layer).__name__}: {name} must be a {kind} {span}, got {value!r}')


def check_channels(layer: nn.Module, x: Tensor, channel_dim: int, min_dim: int = 1) -> None:
    """Check that ``layer`` can normalise an input.

    Raises:
        ValueError: ``x`` is not floating point, has fewer than ``min_dim`` axes, or does not have
            ``layer.num_features`` channels on axis ``channel_dim``.
    """
    name, width = type(layer).__name__, layer.num_features
    if not x.is_floating_point():
        raise ValueError(f'{name} needs floating point input, got {x.dtype}')
    if x.dim() < min_dim or not -x.dim() <= channel_dim < x.dim():
        raise ValueError(
            f'{name} needs channels on axis {channel_dim} of at least {min_dim} axes, got shape {tuple(x.shape)}'
        )
    if x.shape[channel_dim] != width:
        raise ValueError(
            f'{name}({width}) normalises {width} channels on axis {channel_dim}, got shape {tuple(x.shape)}'
            + _axis_hint(layer, x, width)
        )


def _axis_hint(layer: nn.Module, x: Tensor, width: int) -> str:
    fitting = [axis for axis in (1, -1) if x.dim() > 2 and x.shape[axis] == width]
    if not fitting:
        return ''
    if hasattr(layer, 'channel_dim'):
        return f'; for channels on axis {fitting[0]} build it with channel_dim={fitting[0]}'
    return '; it works on the last axis only: for (B, C, H, W) use UN, PN or L1BN with channel_dim=1, or EvoNorm'


def per_channel(values: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """Reshape ``values``, (C,), to broadcast against ``x`` with channels on axis ``channel_dim``."""
    shape = [1] * x.dim()
    shape[channel_dim] = -1
    return values.view(shape)


def position_mask(layer: nn.Module, x: Tensor, pad_mask: Tensor) -> Tensor:
    """Turn ``pad_mask`` (True = padding) into a mask with True = valid and an axis of size 1 for the channels.

    Raises:
        ValueError: the mask is not boolean, or its shape is neither that of ``x`` without channels nor (B, N).
    """
    name, axis = type(layer).__name__, layer.channel_dim % x.dim()
    positions = x.shape[:axis] + x.shape[axis + 1 :]
    if pad_mask.dtype != torch.bool:
        raise ValueError(f'{name}: pad_mask must be boolean, True = padding; got {pad_mask.dtype}')
    if pad_mask.shape not in (positions, (positions[0], positions[1:].numel())):
        raise ValueError(
            f'{name}: pad_mask must be {tuple(positions)} for an input {tuple(x.shape)}, got {tuple(pad_mask.shape)}'
        )
    return ~pad_mask.reshape(positions).unsqueeze(axis)
