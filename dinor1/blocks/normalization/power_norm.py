"""PowerNorm: S. Shen, Z. Yao, A. Gholami, M. Mahoney and K. Keutzer, ICML 2020, arXiv 2003.07845."""

import torch
from torch import Tensor

from .base import check_numbers
from .moment_norm import Call, MomentNorm


class PowerNorm(MomentNorm):
    """Divide each channel by the root of a running second moment; no centring.

    Step ``t`` on a batch with moment ``v``, running moment ``phi``, warm-up ``W``::

        u = x / sqrt(mean of x^2 over the token's group of channels + eps)       (if group_num)
        z = u / sqrt((v if t <= W else phi) + eps),   y = weight * z + bias
        phi <- (t-1)/t phi + v/t   (if t < W);   phi <- alpha_fwd phi + (1 - alpha_fwd) v

        qt = q - (1 - alpha_bkw) e z;   e <- e + mean_n(qt z);   du = qt / sqrt(v + eps),   q = g_out weight

    In the paper's terms ``nu = (1 - alpha_bkw) e``, with the same recursion. The gradient is divided by the batch's
    moment, as in the authors' code, not by the running moment, as in the paper's text. In evaluation ``phi`` divides.

    Reset ``iters`` to zero before fine-tuning, or there is no warm-up. State of training: ``running_phi`` and
    ``ema_gz`` (C,), which may be loaded from the (1, C, 1, 1) of published checkpoints, and ``iters``.

    Args:
        num_features: Channels C.
        eps: Added to moments.
        alpha_fwd: Share of ``phi`` kept per step.
        alpha_bkw: Share of ``e`` kept per step if mean_n(z^2) is 1.
        warmup_iters: Steps ``W`` of warm-up.
        group_num: Number of groups of channels that are scaled per token first, a stabiliser of the authors' code.
            None: no groups, so that the layer is constant in evaluation. The authors use the number of attention heads.
        affine, channel_dim, sync, exact_padding: As in :class:`MomentNorm`.
        approx_backward: False: the paper's PN-V, where ``v`` always divides and the gradient is exact.
        max_moment_ratio: Bound on mean_n(z^2) in the recursion of ``e``, which otherwise diverges if batches stay
            more than ``2 / (1 - alpha_bkw)`` times above the running moment. None = no bound, as published.

    Raises:
        ValueError: ``group_num`` does not divide ``num_features``, or a number is out of range.
    """

    _abbr_ = 'pn'
    _needs_energy = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        alpha_fwd: float = 0.9,
        alpha_bkw: float = 0.9,
        warmup_iters: int = 10000,
        group_num: int | None = 1,
        affine: bool = True,
        channel_dim: int = -1,
        sync: bool = False,
        exact_padding: bool = False,
        approx_backward: bool = True,
        max_moment_ratio: float | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, channel_dim, sync, exact_padding)
        # Check the arguments.
        check_numbers(self, alpha_fwd=alpha_fwd, alpha_bkw=alpha_bkw, warmup_iters=warmup_iters)
        if max_moment_ratio is not None:
            check_numbers(self, max_moment_ratio=max_moment_ratio)
        if group_num is not None:
            check_numbers(self, group_num=group_num)
            if num_features % group_num:
                raise ValueError(f'PowerNorm: group_num {group_num} does not divide {num_features} channels')
        # Store the settings, and create the running state.
        self.alpha_fwd = alpha_fwd
        self.alpha_bkw = alpha_bkw
        self.warmup_iters = warmup_iters
        self.group_num = group_num
        self.approx_backward = approx_backward
        self.max_moment_ratio = max_moment_ratio
        self.register_buffer('running_phi', torch.ones(num_features))
        self.register_buffer('ema_gz', torch.zeros(num_features))

    def running_moment(self) -> Tensor:
        """See :meth:`MomentNorm.running_moment`."""
        return self.running_phi

    def _prepare(self, x: Tensor) -> Tensor:
        if self.group_num is None:
            return x
        axis = self.channel_dim % x.dim()
        grouped = x.unflatten(axis, (self.group_num, -1))
        mean_square = grouped.square().mean(axis + 1, keepdim=True)
        return (grouped * torch.rsqrt(mean_square + self.eps)).flatten(axis, axis + 1)

    def _mix_forward(self, iteration: int, moment: Tensor) -> Call:
        phi = self.running_phi.to(moment.dtype)
        # The batch divides during the warm-up, and if the backward pass is exact; otherwise the running moment does.
        batch_divides = iteration <= self.warmup_iters or not self.approx_backward
        call = Call(iteration, moment if batch_divides else phi.clone(), moment)
        # Average the moments of the warm-up, and mix in the moment of the batch.
        if iteration < self.warmup_iters:
            phi = phi * ((iteration - 1) / iteration) + moment / iteration
        self.running_phi.copy_(self.alpha_fwd * phi + (1 - self.alpha_fwd) * moment)
        return call

    def _mix_backward(self, call: Call, correlation: Tensor, energy: Tensor, finite: Tensor) -> Tensor:
        if not self.approx_backward:
            return correlation
        coefficient = (1 - self.alpha_bkw) * self.ema_gz.to(correlation.dtype)
        if self.max_moment_ratio is not None:
            energy = energy.clamp(max=self.max_moment_ratio)
        # This is mean_n((q - coefficient z) z), from the two means that were reduced over processes.
        change = correlation - coefficient * energy
        self.ema_gz.add_(torch.where(finite, change, 0))
        return coefficient

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        for name in ('running_phi', 'ema_gz'):
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor) and value.shape == (1, self.num_features, 1, 1):
                state_dict[prefix + name] = value.flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{super().extra_repr()}, group_num={self.group_num}, warmup_iters={self.warmup_iters}'
