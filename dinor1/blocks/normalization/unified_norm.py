"""Unified Normalization: Q. Yang, K. Zhang, C. Lan, Z. Yang et al., ACM Multimedia 2022, arXiv 2208.01313.

The rules follow the authors' code (github.com/hikvision-research/Unified-Normalization), with which the published
results were made. In the paper's text the threshold is per channel and includes the current batch; here, as in the
code, it is one number per layer and does not include it.
"""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .base import check_numbers
from .moment_norm import Call, MomentNorm


class UnifiedNorm(MomentNorm):
    """Divide each channel by the root of a geometric mean of recent second moments; constant at inference.

    Step ``t`` on a batch with moment ``v``, windows ``M_f`` and ``M_b``, warm-up ``W``, momentum ``a``::

        buffer_x2[t mod M_f] <- v
        outlier: filtration and t >= W, and in some channel  AM - GM > M_f V  over the window's rows
                 (V: variance of all numbers sqrt(buffer_x2) before this step); then the row gets running_var instead
        skip = outlier or M_f == 1
        s = v   if t <= M_f or t < W or skip,   else exp(mean over rows of log buffer_x2)
        r = 1   if t <= max(renorm_after, W) or skip,
            else clip(sqrt(s + eps) / sqrt(running_var + eps), 1/renorm_clip, renorm_clip)
        z = x / sqrt(s + eps),   y = weight z + bias,   running_var <- a running_var + (1 - a) s

        q = g_out weight r,   c = mean_n(q z)
        buffer_gz[t mod M_b] <- (ema_gz if skip else c)
        m = c   if t <= M_b or t < W or skip,   else mean over rows of buffer_gz
        ema_gz <- a ema_gz + (1 - a) m
        dx = (q - k z) / sqrt(s + eps),   k = c if skip else ema_gz

    With window 1 this is exact second-moment normalisation. With a larger one the gradient is approximate from the
    first step on: warm-up disables the window averages, not the running average of the gradient's statistic.
    In evaluation ``weight / sqrt(running_var + eps)`` is a constant per channel, which
    :func:`dinor1.blocks.norm_conversion.fuse_unified_norm` folds into the next linear layer.

    Reset ``iters`` to zero before fine-tuning. Weights of a LayerNorm are only an initialisation: UN does not centre.

    Args:
        num_features: Channels C.
        eps: Added to moments.
        window_size: ``M_f`` and ``M_b``, or one number for both.
        warmup_iters: Steps ``W`` of warm-up.
        outlier_filtration: Whether to filter outliers. The authors do so for images, but not for translation.
        momentum: Momentum ``a`` of the running statistics.
        renorm_after: Last step without the gradient factor ``r``.
        renorm_clip: Bound on ``r`` and on ``1 / r``.
        channel_dim, sync, exact_padding: As in :class:`MomentNorm`.

    Raises:
        ValueError: a window is below 1, or a number is out of range.
    """

    _abbr_ = 'un'

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        window_size: int | tuple[int, int] = 4,
        warmup_iters: int = 4000,
        outlier_filtration: bool = False,
        momentum: float = 0.9,
        renorm_after: int = 1000,
        renorm_clip: float = 5.0,
        channel_dim: int = -1,
        sync: bool = False,
        exact_padding: bool = False,
    ) -> None:
        super().__init__(num_features, eps, True, channel_dim, sync, exact_padding)
        # Check the arguments.
        check_numbers(
            self, warmup_iters=warmup_iters, momentum=momentum, renorm_after=renorm_after, renorm_clip=renorm_clip
        )
        windows = tuple(window_size) if isinstance(window_size, Sequence) else (window_size, window_size)
        if len(windows) != 2 or not all(isinstance(size, Integral) and size >= 1 for size in windows):
            raise ValueError(f'UnifiedNorm: window_size must be one or two numbers of at least 1, got {window_size}')
        self.window_fwd, self.window_bkw = windows
        # Store the settings, and create the running state.
        self.warmup_iters = warmup_iters
        self.outlier_filtration = outlier_filtration
        self.momentum = momentum
        self.renorm_after = renorm_after
        self.renorm_clip = renorm_clip
        self.register_buffer('running_var', torch.ones(num_features))
        self.register_buffer('ema_gz', torch.zeros(num_features))
        self.register_buffer('buffer_x2', torch.zeros(self.window_fwd, num_features))
        self.register_buffer('buffer_gz', torch.zeros(self.window_bkw, num_features))
        self.register_buffer('skip_counter', torch.zeros(1, dtype=torch.int64))

    def running_moment(self) -> Tensor:
        """See :meth:`MomentNorm.running_moment`."""
        return self.running_var

    def _mix_forward(self, iteration: int, moment: Tensor) -> Call:
        # Put the moment into the window, unless it is an outlier.
        running = self.running_var.to(moment.dtype)
        row = iteration % self.window_fwd
        before = self.buffer_x2.to(moment.dtype)
        window = before.clone()
        window[row] = moment
        skip: bool | Tensor = self.window_fwd == 1
        if self.outlier_filtration and iteration >= self.warmup_iters:
            spread = before.sqrt().var()
            outlier = (window.mean(0) - window.log().mean(0).exp() > self.window_fwd * spread).any()
            window[row] = torch.where(outlier, running, moment)
            self.skip_counter.add_(outlier)
            # Keep the tensor: a Python bool would wait for the device.
            skip = skip or outlier
        self.buffer_x2.copy_(window)

        # Choose the moment and the gradient factor.
        if iteration <= self.window_fwd or iteration < self.warmup_iters or skip is True:
            used = moment
        else:
            used = _unless(skip, window.log().mean(0).exp(), moment)
        scale = None
        if iteration > max(self.renorm_after, self.warmup_iters) and skip is not True:
            ratio = ((used + self.eps) / (running + self.eps)).sqrt()
            scale = _unless(skip, ratio.clamp(1 / self.renorm_clip, self.renorm_clip), torch.ones_like(ratio))
        self.running_var.copy_(self.momentum * running + (1 - self.momentum) * used)
        return Call(iteration, used, used, scale, skip)

    def _mix_backward(self, call: Call, correlation: Tensor, energy: Tensor, finite: Tensor) -> Tensor:
        old = self.ema_gz.to(correlation.dtype)
        # Record the running value for an infinite gradient or an outlier.
        recorded = torch.where(finite, _unless(call.skip, correlation, old), old)
        self.buffer_gz[call.iteration % self.window_bkw] = recorded.to(self.buffer_gz.dtype)
        # Average over the window after warm-up, and update the running average.
        average = correlation
        early = call.iteration <= self.window_bkw or call.iteration < self.warmup_iters
        if not early:
            average = _unless(call.skip, self.buffer_gz.to(correlation.dtype).mean(0), correlation)
        new = self.momentum * old + (1 - self.momentum) * average
        self.ema_gz.copy_(torch.where(finite, new, old))
        return _unless(call.skip, new, correlation)

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return (
            f'{super().extra_repr()}, window_size=({self.window_fwd}, {self.window_bkw}), '
            f'warmup_iters={self.warmup_iters}, outlier_filtration={self.outlier_filtration}'
        )


def _unless(skip: bool | Tensor, ordinary: Tensor, skipped: Tensor) -> Tensor:
    """Choose ``skipped`` if ``skip``, else ``ordinary``."""
    if isinstance(skip, Tensor):
        return torch.where(skip, skipped, ordinary)
    return skipped if skip else ordinary
