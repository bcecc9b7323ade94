"""Normalisation by the mean absolute deviation instead of the standard deviation: no squares and no root.

L1 batch norm: S. Wu et al., arXiv 1802.09769; E. Hoffer et al., "Norm matters", NeurIPS 2018, arXiv 1803.01814. As
layers of fully quantized training: W. Guo, D. Liu et al., "Towards Accurate and Efficient Sub-8-Bit Integer Training",
arXiv 2411.10948. The code of the latter is not public, and where it quantizes is unknown: the quantized variant here is
a design of this package.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from dinor1.utils.precision import compute_dtype, full_precision
from dinor1.utils.recomputation import is_recomputing

from .base import StatisticsModule, check_channels, check_numbers, per_channel, position_mask

_STATISTICS_BITS = 16
_QUANT_DEFAULTS = dict(bits=8, act='absmax', grad_rounding='stochastic')


class _L1Norm(StatisticsModule):
    """``z = (x - mean) / (k s + eps)``, ``s`` = mean absolute deviation, ``y = weight * z + bias``."""

    _abbr_ = 'l1'

    def __init__(
        self, num_features: int, eps: float, scale: str, affine: bool, channel_dim: int, quant: dict | None
    ) -> None:
        super().__init__()
        check_numbers(self, num_features=num_features, eps=eps)
        if scale not in ('none', 'gauss'):
            raise ValueError(f"{type(self).__name__}: scale must be 'none' or 'gauss', got {scale!r}")
        self.num_features = num_features
        self.eps = eps
        # A Gaussian's standard deviation is sqrt(pi / 2) times its mean absolute deviation.
        self.factor = math.sqrt(math.pi / 2) if scale == 'gauss' else 1.0
        self.channel_dim = channel_dim
        self.quant = None if quant is None else _checked_quant(type(self).__name__, quant)
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def _normalise(self, centred: Tensor, deviation: Tensor, keep: Tensor | None = None) -> Tensor:
        """Divide ``centred`` by a ``deviation`` that broadcasts against it, and apply the affine part."""
        # Normalise, with quantized statistics and output if quantization is on.
        if self.quant is not None:
            deviation = fake_quantize(deviation, _STATISTICS_BITS)
        z = centred / (self.factor * deviation + self.eps)
        if self.quant is not None:
            z = fake_quantize(z, self.quant['bits'], keep)
            z = _QuantizeGradient.apply(z, self.quant['bits'], self.quant['grad_rounding'] == 'stochastic', keep)
        # Apply weight and bias.
        if self.weight is None:
            return z
        weight = self.weight.to(z.dtype)
        if self.quant is not None:
            weight = fake_quantize(weight, _STATISTICS_BITS)
        return z * self._per_channel(weight, z) + self._per_channel(self.bias.to(z.dtype), z)

    def _read(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Convert ``x`` to the dtype of the statistics, and quantize it if ``quant`` is set."""
        x = x.to(compute_dtype(x))
        return x if self.quant is None else fake_quantize(x, self.quant['bits'], keep)

    def _centre(self, x: Tensor, mean: Tensor) -> Tensor:
        return x - (mean if self.quant is None else fake_quantize(mean, _STATISTICS_BITS))

    def _per_channel(self, values: Tensor, x: Tensor) -> Tensor:
        return per_channel(values, x, self.channel_dim)

    def extra_repr(self) -> str:
        return f'{self.num_features}, eps={self.eps}, factor={self.factor:.4f}, channel_dim={self.channel_dim}'


class L1LayerNorm(_L1Norm):
    """Centre each token over its channels and divide by its mean absolute deviation.

    In formulas::

        c = x - mean_c(x),   s = mean_c|c|,   y = weight * c / (k s + eps) + bias

    Like LayerNorm it ignores shift and scale of a token. Since ``s <= std``, its outputs are larger, by sqrt(pi/2) for
    Gaussian data. ``scale='gauss'`` removes this factor (``k = sqrt(pi/2)``), so that weights of a LayerNorm can be
    loaded.

    Args:
        num_features: Channels C.
        eps: Added to the deviation, outside of any root.
        scale: ``none`` (``k = 1``) or ``gauss``.
        affine: Whether there are ``weight`` and ``bias``.
        channel_dim: Axis of the channels.
        quant: None, or ``dict(bits=8, act='absmax', grad_rounding='stochastic')`` (or a part of it): fake quantization,
            symmetric with one absmax scale per tensor. The input, the normalised values and their gradient are rounded
            to ``bits`` (the gradient with ``grad_rounding`` ``stochastic`` or ``nearest``), statistics and ``weight``
            to 16 bits. Gradients pass roundings unchanged. This scheme is not from a paper.

    Raises:
        ValueError: ``scale`` or ``quant`` is unknown, or a number is out of range; in ``forward``, the input does not
            fit.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        scale: str = 'none',
        affine: bool = True,
        channel_dim: int = -1,
        quant: dict | None = None,
    ) -> None:
        super().__init__(num_features, eps, scale, affine, channel_dim, quant)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, which has ``num_features`` channels on axis ``channel_dim``; keeps shape and dtype."""
        check_channels(self, x, self.channel_dim)
        with full_precision(x.device):
            full = self._read(x)
            centred = self._centre(full, full.mean(self.channel_dim, keepdim=True))
            y = self._normalise(centred, centred.abs().mean(self.channel_dim, keepdim=True))
        return y.to(x.dtype)


class L1BatchNorm(_L1Norm):
    """Centre each channel over all positions and divide by its mean absolute deviation.

    In evaluation ``running_mean`` and ``running_mad`` (C,) replace the batch's statistics; ``running_mad`` is the plain
    mean absolute deviation, without the factor of ``scale`` and without a correction for the size of the batch. They
    also normalise a batch without valid positions, which does not change them.

    Args:
        num_features, eps, scale, affine, channel_dim, quant: As in :class:`L1LayerNorm`; ``channel_dim=1`` for
            (B, C, H, W).
        momentum: Share of the new batch in the running statistics.

    Raises:
        ValueError: ``scale`` or ``quant`` is unknown, or a number is out of range; in ``forward``, the input or mask
            does not fit.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        scale: str = 'none',
        affine: bool = True,
        momentum: float = 0.1,
        channel_dim: int = -1,
        quant: dict | None = None,
    ) -> None:
        super().__init__(num_features, eps, scale, affine, channel_dim, quant)
        check_numbers(self, momentum=momentum)
        self.momentum = momentum
        self.register_buffer('running_mean', torch.zeros(num_features))
        self.register_buffer('running_mad', torch.ones(num_features))

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: Any shape with ``num_features`` channels on axis ``channel_dim``.
            pad_mask: Boolean, the shape of ``x`` without its channel axis, or (B, N). True = padding: normalised like
                other positions, but excluded from the statistics and from the scales of ``quant``, and clamped to its
                grids.

        Returns:
            The shape and dtype of ``x``.
        """
        check_channels(self, x, self.channel_dim, min_dim=2)
        keep = None if pad_mask is None else position_mask(self, x, pad_mask)
        with full_precision(x.device):
            # Read input and running statistics in float32 at least.
            full = self._read(x, keep)
            mean = self._per_channel(self.running_mean.to(full.dtype), full)
            deviation = self._per_channel(self.running_mad.to(full.dtype), full)
            # In evaluation, or without any position, normalise by the running statistics.
            if not self.training or x.numel() == 0:
                y = self._normalise(self._centre(full, mean), deviation, keep)
            else:
                y = self._forward_training(full, keep, mean, deviation)
        return y.to(x.dtype)

    def _forward_training(self, x: Tensor, keep: Tensor | None, old_mean: Tensor, old_deviation: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != self.channel_dim % x.dim()]
        # Measure the batch.
        if keep is None:
            mean = x.mean(axes, keepdim=True)
            centred = self._centre(x, mean)
            deviation = centred.abs().mean(axes, keepdim=True)
        else:
            # Decide on the device, without synchronisation, whether every position is padding.
            count = keep.sum()
            valid = count > 0
            mean = torch.where(valid, x.masked_fill(~keep, 0).sum(axes, keepdim=True) / count.clamp(min=1), old_mean)
            centred = self._centre(x, mean)
            batch_deviation = centred.abs().masked_fill(~keep, 0).sum(axes, keepdim=True) / count.clamp(min=1)
            deviation = torch.where(valid, batch_deviation, old_deviation)
        # Update the running statistics.
        if not is_recomputing():
            with torch.no_grad():
                self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
                self.running_mad.lerp_(deviation.flatten().to(self.running_mad.dtype), self.momentum)
        return self._normalise(centred, deviation, keep)


def fake_quantize(x: Tensor, bits: int, keep: Tensor | None = None) -> Tensor:
    """Round ``x`` to a symmetric grid of ``2^bits - 1`` values up to its largest magnitude; the gradient is 1.

    ``keep``, boolean, broadcasts against ``x`` and selects the values that set the grid (None: all); others are
    clamped.
    """
    if x.numel() == 0:
        return x
    return x + (_round_to_grid(x.detach(), bits, False, keep) - x.detach())


def _round_to_grid(x: Tensor, bits: int, stochastic: bool, keep: Tensor | None) -> Tensor:
    # If nothing is kept, use all values.
    counted = x if keep is None else x.masked_fill(~keep & keep.any(), 0)
    top = 2 ** (bits - 1) - 1
    step = counted.abs().amax().clamp(min=torch.finfo(x.dtype).tiny) / top
    scaled = x / step
    rounded = (scaled + torch.rand_like(scaled)).floor() if stochastic else scaled.round()
    return rounded.clamp(-top, top) * step


class _QuantizeGradient(torch.autograd.Function):
    """Identity whose gradient is rounded to a symmetric grid."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, bits: int, stochastic: bool, keep: Tensor | None) -> Tensor:
        ctx.bits, ctx.stochastic = bits, stochastic
        ctx.save_for_backward(keep)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (keep,) = ctx.saved_tensors
        return (_round_to_grid(grad, ctx.bits, ctx.stochastic, keep) if grad.numel() else grad), None, None, None


def _checked_quant(name: str, quant: dict) -> dict[str, Any]:
    unknown = sorted(set(quant) - set(_QUANT_DEFAULTS))
    if unknown:
        raise ValueError(f'{name}: quant accepts {sorted(_QUANT_DEFAULTS)}, got {unknown}')
    quant = {**_QUANT_DEFAULTS, **quant}
    if not isinstance(quant['bits'], int) or not 2 <= quant['bits'] <= 16:
        raise ValueError(f'{name}: quant bits must be a whole number from 2 to 16, got {quant["bits"]!r}')
    if quant['act'] != 'absmax':
        raise ValueError(f"{name}: quant act must be 'absmax', got {quant['act']!r}")
    if quant['grad_rounding'] not in ('stochastic', 'nearest'):
        raise ValueError(
            f"{name}: quant grad_rounding must be 'stochastic' or 'nearest', got {quant['grad_rounding']!r}"
        )
    return quant
