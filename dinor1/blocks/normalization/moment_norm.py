"""Base of PowerNorm and Unified Normalization: second moment over positions, running state in both directions.

Both divide every channel by the root of its second moment over all positions, and both approximate the gradient with a
running average of ``mean_n(q * z)``, where ``q`` is ``weight`` times the gradient with respect to ``weight * x /
root``. They differ in how batch statistics and running statistics are mixed.
"""

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from dinor1.utils.precision import compute_dtype, full_precision
from dinor1.utils.recomputation import is_recomputing

from .base import StatisticsModule, check_channels, check_numbers, per_channel, position_mask

# Number of forward passes to remember until their backward pass. Only activation checkpointing reads them, each once;
# the bound is for training without it, and for forward passes without a backward pass.
_REMEMBERED_CALLS = 64
# Factor on numbers whose squares overflow; a power of two, so that it does not round.
_SHRINK = 2.0**-64


@dataclass
class Call:
    """Decisions of a training forward pass for its backward pass; other forward passes may come in between.

    Attributes:
        iteration: Step, from 1.
        forward_moment: (C,), the moment that divides the input.
        backward_moment: (C,), the moment that divides the gradient.
        gradient_scale: (C,) factor on the gradient of ``weight * z``, or None for 1.
        skip: Whether running statistics are skipped; a boolean tensor () if only the device knows.
        local_moment: (C,), this process's own moment; it identifies the batch.
        count: Number of positions in the statistics, over all processes.
        root: (C,) root of the batch's own moment, which divides input and gradient instead if the moment overflows
            float32; 0 otherwise.
    """

    iteration: int
    forward_moment: Tensor
    backward_moment: Tensor
    gradient_scale: Tensor | None = None
    skip: bool | Tensor = False
    local_moment: Tensor | None = None
    count: float | Tensor = 0
    root: Tensor | None = None


class MomentNorm(StatisticsModule):
    """Base of :class:`PowerNorm` and :class:`UnifiedNorm`; subclasses define the mixing rules.

    Every training forward pass is one step: gradient accumulation has one per micro-batch, and each process has its own
    unless ``sync``. Forward state changes in the order of forward passes, backward state in that of backward passes.
    The backward pass reads its state from the module, not from saved tensors, so that a layer may be called several
    times before a backward pass. A forward pass that activation checkpointing repeats uses the numbers of the first one
    and changes nothing. A batch of finite numbers whose moment overflows, such as 1e20 in float32, is divided by its
    own root and does not enter the forward state. An empty batch, or one of padding only, is normalised by the running
    moment and changes nothing. Infinity or NaN in a batch or in its gradient does not enter the state, since such steps
    are normal with a dynamic loss scale. (The backward state averages *scaled* gradients: after a change of scale it is
    off by that factor for some steps.)

    Args:
        num_features: Channels C.
        eps: Added to moments.
        affine: Whether there are ``weight`` and ``bias``.
        channel_dim: Axis of the channels: -1 for tokens, 1 for (B, C, H, W).
        sync: Average the statistics over all processes of the default group, in forward and backward pass. Every
            process must then call the layer the same number of times.
        exact_padding: Exclude padding from the backward statistics too; the published code includes it.
    """

    # Whether `_mix_backward` needs mean_n(z^2), which costs a pass over the batch.
    _needs_energy = False

    def __init__(
        self, num_features: int, eps: float, affine: bool, channel_dim: int, sync: bool, exact_padding: bool
    ) -> None:
        super().__init__()
        check_numbers(self, num_features=num_features, eps=eps)
        self.num_features = num_features
        self.eps = eps
        self.channel_dim = channel_dim
        self.sync = sync
        self.exact_padding = exact_padding
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer('iters', torch.zeros(1, dtype=torch.int64))
        # Copy of `iters` in Python, with the tensor and its version that were copied.
        self._iteration = 0
        self._iters_seen: tuple[Tensor, int | None] = (self.iters, _version(self.iters))
        self._calls: deque[Call] = deque(maxlen=_REMEMBERED_CALLS)

    def running_moment(self) -> Tensor:
        """Moment of the inference formula, (C,)."""
        raise NotImplementedError

    def _mix_forward(self, iteration: int, moment: Tensor) -> Call:
        """Choose the moments of a step from the batch's ``moment`` (C,), and update the forward state."""
        raise NotImplementedError

    def _mix_backward(self, call: Call, correlation: Tensor, energy: Tensor, finite: Tensor) -> Tensor:
        """Return the coefficient (C,) of ``z`` in ``q - coefficient * z``; update the backward state if ``finite`` ().

        ``correlation`` is mean_n(q * z) and ``energy`` is mean_n(z^2), or 0 without ``_needs_energy``; both (C,).
        """
        raise NotImplementedError

    def _prepare(self, x: Tensor) -> Tensor:
        """Differentiable transformation of the input; the identity here."""
        return x

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: Any shape with ``num_features`` channels on axis ``channel_dim``.
            pad_mask: Boolean, the shape of ``x`` without its channel axis, or (B, N) with all positions of an image in
                one axis. True = padding: normalised like other positions, but excluded from the statistics. In training
                on a GPU a mask costs one synchronisation, to find out whether every position is padding.

        Returns:
            The shape and dtype of ``x``.

        Raises:
            ValueError: ``x`` or ``pad_mask`` does not fit.
        """
        check_channels(self, x, self.channel_dim, min_dim=2)
        keep = None if pad_mask is None else position_mask(self, x, pad_mask)
        with full_precision(x.device):
            full = self._prepare(x.to(compute_dtype(x)))
            # In training, measure the batch first; without positions there is nothing to measure.
            call = self._begin(full.detach(), keep) if self.training else None
            if call is None:
                y = self._infer(full)
            else:
                y = _MomentNormFunction.apply(full, self.weight, self.bias, keep, self, call)
        return y.to(x.dtype)

    def _infer(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(self.running_moment().to(x.dtype) + self.eps)
        if self.weight is None:
            return x * self._per_channel(scale, x)
        scale = scale * self.weight.to(x.dtype)
        return torch.addcmul(self._per_channel(self.bias.to(x.dtype), x), x, self._per_channel(scale, x))

    @torch.no_grad()
    def _begin(self, x: Tensor, keep: Tensor | None) -> Call | None:
        """Measure the batch and update the forward state; None if there is nothing to measure."""
        # Measure this process's batch.
        valid = _kept(x, keep)
        total = self._sum(valid.square())
        # Without a mask the count is known without a synchronisation.
        count = x.numel() // self.num_features if keep is None else int(keep.sum())
        # Numbers whose squares overflow are summed again, scaled down; to look whether there are any would synchronise.
        large = self._sum((valid * _SHRINK).square())
        local_moment = torch.where(total.isfinite(), total, large) / max(count, 1)
        # Reuse the call that activation checkpointing repeats.
        if is_recomputing() and self._calls and (count > 0 or self._synchronised()):
            return self._recall(local_moment)
        if self._synchronised():
            # Reduce sums and count together. A process without positions must take part.
            reduced = torch.cat([total, large, total.new_full((1,), count)])
            dist.all_reduce(reduced)
            total, large = reduced[:-1].view(2, -1)
            global_count = reduced[-1]
            if count == 0 and not bool(global_count > 0):
                return None
            count = global_count
        elif count == 0:
            return None
        # Choose the moments, and remember the call.
        moment = total / count
        root = torch.where(moment.isfinite(), moment.sqrt(), (large / count).sqrt() / _SHRINK)
        overflows = ~moment.isfinite().all() & root.isfinite().all()
        moment = torch.where(moment.isfinite().all(), moment, self.running_moment().to(moment.dtype))
        iteration = self._read_iters() + 1
        call = self._mix_forward(iteration, moment)
        call.local_moment, call.count = local_moment, count
        call.root = torch.where(overflows, root, torch.zeros_like(root))
        self._write_iters(iteration)
        self._calls.append(call)
        return call

    def host_state(self) -> tuple[Call, ...]:
        """Forward passes that may still be repeated, for :meth:`set_host_state`; without buffers."""
        return tuple(self._calls)

    def set_host_state(self, state: tuple[Call, ...]) -> None:
        """Restore the forward passes of :meth:`host_state`."""
        self._calls = deque(state, maxlen=_REMEMBERED_CALLS)

    def _recall(self, local_moment: Tensor) -> Call:
        """Find the call that is being repeated by its moment. Synchronises only if there are several calls."""
        index = 0
        if len(self._calls) > 1:
            known = torch.stack([call.local_moment for call in self._calls])
            index = int((known - local_moment).abs().sum(-1).argmin())
        call = self._calls[index]
        del self._calls[index]
        return call

    def inverse_root(self, call: Call, moment: Tensor) -> Tensor:
        """(C,) factor ``1 / sqrt(moment + eps)`` of a training step; see :attr:`Call.root`."""
        inverse = torch.rsqrt(moment + self.eps)
        return inverse if call.root is None else torch.where(call.root > 0, 1 / call.root, inverse)

    def _read_iters(self) -> int:
        """Number of steps so far; reads the buffer only after external changes (a load, a reset)."""
        tensor, version = self._iters_seen
        if self.iters is not tensor or version is None or self.iters._version != version:
            self._iteration = int(self.iters)
        return self._iteration

    def _write_iters(self, iteration: int) -> None:
        self.iters.fill_(iteration)
        self._iteration = iteration
        self._iters_seen = (self.iters, _version(self.iters))

    def _per_channel(self, values: Tensor, x: Tensor) -> Tensor:
        return per_channel(values, x, self.channel_dim)

    def _sum(self, x: Tensor) -> Tensor:
        """Sum over all axes except the channels, (C,)."""
        return x.sum([axis for axis in range(x.dim()) if axis != self.channel_dim % x.dim()])

    def _synchronised(self) -> bool:
        return self.sync and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{self.num_features}, eps={self.eps}, channel_dim={self.channel_dim}, sync={self.sync}'


def _version(tensor: Tensor) -> int | None:
    """Number of writes to ``tensor``; None for a tensor made in inference mode, which has no counter."""
    return None if tensor.is_inference() else tensor._version


def _kept(x: Tensor, keep: Tensor | None) -> Tensor:
    """Set padding to zero, even if it contains NaN."""
    return x if keep is None else x.masked_fill(~keep, 0)


class _MomentNormFunction(torch.autograd.Function):
    """Division by given moments and the affine part, with the layer's approximate gradient.

    Forward: ``z = x / sqrt(forward_moment + eps)`` and ``y = weight * z + bias``. Backward::

        q = g_out * weight * gradient_scale
        dx = (q - coefficient * z) / sqrt(backward_moment + eps)
        dweight = sum_n(g_out * gradient_scale * z),   dbias = sum_n(g_out)
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        keep: Tensor | None,
        layer: MomentNorm,
        call: Call,
    ) -> Tensor:
        # Divide by the root of the moment.
        z = x * layer._per_channel(layer.inverse_root(call, call.forward_moment), x)
        ctx.save_for_backward(z, weight, keep)
        ctx.layer, ctx.call = layer, call
        # Apply weight and bias.
        if weight is None:
            return z
        weight, bias = weight.to(z.dtype), bias.to(z.dtype)
        return torch.addcmul(layer._per_channel(bias, z), z, layer._per_channel(weight, z))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, keep = ctx.saved_tensors
        layer, call = ctx.layer, ctx.call
        with full_precision(grad.device):
            # Weight and gradient_scale are constant over positions, so one sum gives both dweight and the statistic.
            slope = z.new_ones(layer.num_features) if weight is None else weight.to(z.dtype)
            grad_z = layer._sum(grad * z)
            if call.gradient_scale is not None:
                slope, grad_z = slope * call.gradient_scale, grad_z * call.gradient_scale
            # Measure mean_n(q z) and mean_n(z^2), over all processes.
            masked = keep is not None and layer.exact_padding
            correlation = grad_z if weight is None else grad_z * weight.to(z.dtype)
            energy = torch.zeros_like(correlation)
            if layer._needs_energy:
                energy = layer._sum((_kept(z, keep) if masked else z).square())
            count = z.numel() // layer.num_features
            if layer._synchronised():
                reduced = torch.cat([correlation, energy, correlation.new_full((1,), count)])
                dist.all_reduce(reduced)
                correlation, energy = reduced[:-1].view(2, -1)
                count = reduced[-1]
            count = call.count if masked else count
            # Update the backward state, and compute the gradient.
            finite = correlation.isfinite().all()
            coefficient = layer._mix_backward(call, correlation / count, energy / count, finite)
            inverse = layer.inverse_root(call, call.backward_moment)
            pull = z * layer._per_channel(coefficient * inverse, z)
            grad_x = grad * layer._per_channel(slope * inverse, z) - (_kept(pull, keep) if masked else pull)
            if weight is None:
                return grad_x, None, None, None, None, None
            grad_bias = layer._sum(grad)
        return grad_x, grad_z.to(weight.dtype), grad_bias.to(weight.dtype), None, None, None
