"""EvoNorm, normalisation and activation in one layer.

H. Liu, A. Brock, K. Simonyan and Q. V. Le, NeurIPS 2020, arXiv 2004.02967.

The running variance has the factor n / (n - 1), as in timm's implementation, from which the reference numbers come. The
authors' implementation uses the biased variance (``unbiased=False``).
"""

import torch
from torch import Tensor, nn

from dinor1.utils.precision import compute_dtype, full_precision
from dinor1.utils.recomputation import is_recomputing

from .base import StatisticsModule, check_channels, check_numbers, per_channel


class EvoNorm(StatisticsModule):
    """Base of the six EvoNorms: norm over images with channels on axis 1, activation and affine part.

    Without ``apply_act`` only the affine part is computed.
    """

    _abbr_ = 'evo'
    # Whether the activation has a slope ``v`` per channel.
    _has_slope = False

    def __init__(self, num_features: int, eps: float, apply_act: bool, zero_init: bool) -> None:
        super().__init__()
        check_numbers(self, num_features=num_features, eps=eps)
        self.num_features = num_features
        self.eps = eps
        self.apply_act = apply_act
        self.weight = nn.Parameter(torch.zeros(num_features) if zero_init else torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        if self._has_slope:
            self.v = nn.Parameter(torch.ones(num_features)) if apply_act else None

    def _activate(self, x: Tensor) -> Tensor:
        """Compute the paper's formula without its affine part."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate ``x``, (B, num_features, H, W); the result has its shape and dtype.

        Raises:
            ValueError: ``x`` is not a batch of images with ``num_features`` channels.
        """
        if x.dim() != 4:
            raise ValueError(
                f'{type(self).__name__} normalises images (B, C, H, W), got shape {tuple(x.shape)}: tokens have no H '
                'and W to take statistics over; use UN, PN, RMSNorm or L1LN for them'
            )
        check_channels(self, x, 1)
        with full_precision(x.device):
            y = x.to(compute_dtype(x))
            if self.apply_act and x.numel():
                y = self._activate(y)
            elif getattr(self, 'v', None) is not None:
                # Use ``v`` although nothing is normalised: DistributedDataParallel needs a gradient of every parameter.
                y = y * per_channel(self.v, y, 1)
            y = y * per_channel(self.weight, y, 1) + per_channel(self.bias, y, 1)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{self.num_features}, eps={self.eps}, apply_act={self.apply_act}'


class EvoNormB(EvoNorm):
    """Batch variants: ``y = x / max(sB, term(x)) * weight + bias``, ``sB = sqrt(var over (B, H, W) + eps)``."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        apply_act: bool = True,
        zero_init: bool = False,
        unbiased: bool = True,
    ) -> None:
        super().__init__(num_features, eps, apply_act, zero_init)
        check_numbers(self, momentum=momentum)
        self.momentum = momentum
        self.unbiased = unbiased
        self.register_buffer('running_var', torch.ones(num_features))

    def _activate(self, x: Tensor) -> Tensor:
        variance = x.var((0, 2, 3), correction=0) if self.training else self.running_var.to(x.dtype)
        if self.training and not is_recomputing():
            self._track(variance.detach(), x.numel() // self.num_features)
        batch_std = (variance + self.eps).sqrt()
        return x / torch.maximum(per_channel(batch_std, x, 1), self._term(x))

    @torch.no_grad()
    def _track(self, variance: Tensor, count: int) -> None:
        if self.unbiased and count > 1:
            variance = variance * (count / (count - 1))
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

    def _term(self, x: Tensor) -> Tensor:
        """Second argument of the maximum; it grows with ``x`` and so makes the layer non-linear."""
        raise NotImplementedError


class EvoNormS(EvoNorm):
    """Sample variants: ``y = gate(x) / (deviation of the group) * weight + bias``; no running state."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        groups: int = 32,
        group_size: int | None = None,
        apply_act: bool = True,
        zero_init: bool = False,
    ) -> None:
        super().__init__(num_features, eps, apply_act, zero_init)
        self.groups = _num_groups(type(self).__name__, num_features, groups, group_size)

    def _activate(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.groups, -1))
        root = (self._square_deviation(grouped) + self.eps).sqrt()
        return (self._gate(x).unflatten(1, (self.groups, -1)) / root).flatten(1, 2)

    def _square_deviation(self, grouped: Tensor) -> Tensor:
        return grouped.var((2, 3, 4), correction=0, keepdim=True)

    def _gate(self, x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return f'{super().extra_repr()}, groups={self.groups}'


class EvoNormB0(EvoNormB):
    """``x / max(sB, v x + sqrt(var over (H, W) + eps)) * weight + bias``.

    timm's default ``eps`` is 1e-3 for this variant only; the authors use 1e-5 for all, as here. Statistics are per
    process: neither reference synchronises them.

    Args:
        num_features: Channels C.
        eps: Added to variances, inside every root.
        momentum: Share of the new batch in ``running_var``.
        apply_act: False: only ``weight * x + bias``, without ``v``, for layers that must stay linear.
        zero_init: ``weight`` starts at 0, for the last norm of a residual branch.
        unbiased: Whether ``running_var`` has the factor n / (n - 1).

    Raises:
        ValueError: a number is out of range.
    """

    _has_slope = True

    def _term(self, x: Tensor) -> Tensor:
        deviation = (x.var((2, 3), correction=0, keepdim=True) + self.eps).sqrt()
        return x * per_channel(self.v, x, 1) + deviation


class EvoNormB1(EvoNormB):
    """``x / max(sB, (x + 1) sqrt(mean over (H, W) of x^2 + eps)) * weight + bias``; arguments as in EvoNormB0."""

    def _term(self, x: Tensor) -> Tensor:
        return (x + 1) * _root_mean_square(x, self.eps)


class EvoNormB2(EvoNormB):
    """``x / max(sB, sqrt(mean over (H, W) of x^2 + eps) - x) * weight + bias``; arguments as in EvoNormB0."""

    def _term(self, x: Tensor) -> Tensor:
        return _root_mean_square(x, self.eps) - x


class EvoNormS0(EvoNormS):
    """``x sigmoid(v x) / sqrt(var over (H, W, group) + eps) * weight + bias``.

    Args:
        num_features: Channels C.
        eps: Added to variances, inside the root.
        groups: Groups of channels; if it does not divide ``num_features``, the next lower divisor is used,
            as in the authors' code.
        group_size: Channels per group; replaces ``groups``.
        apply_act: False: only ``weight * x + bias``, without ``v``.
        zero_init: ``weight`` starts at 0, for the last norm of a residual branch.

    Raises:
        ValueError: ``group_size`` does not divide ``num_features``, or a number is out of range.
    """

    _has_slope = True

    def _gate(self, x: Tensor) -> Tensor:
        return x * (x * per_channel(self.v, x, 1)).sigmoid()


class EvoNormS1(EvoNormS):
    """``x sigmoid(x) / sqrt(var over (H, W, group) + eps) * weight + bias``; arguments as in EvoNormS0."""


class EvoNormS2(EvoNormS):
    """``x sigmoid(x) / sqrt(mean over (H, W, group) of x^2 + eps) * weight + bias``; arguments as in EvoNormS0."""

    def _square_deviation(self, grouped: Tensor) -> Tensor:
        return grouped.square().mean((2, 3, 4), keepdim=True)


def is_norm_act(layer: nn.Module) -> bool:
    """Whether ``layer`` includes the activation, so that the block around it must not apply another one."""
    return isinstance(layer, EvoNorm) and layer.apply_act


def _root_mean_square(x: Tensor, eps: float) -> Tensor:
    return (x.square().mean((2, 3), keepdim=True) + eps).sqrt()


def _num_groups(name: str, num_features: int, groups: int, group_size: int | None) -> int:
    if group_size is not None:
        if group_size < 1 or num_features % group_size:
            raise ValueError(f'{name}: group_size {group_size} does not divide {num_features} channels')
        return num_features // group_size
    if groups < 1:
        raise ValueError(f'{name}: groups must be at least 1, got {groups}')
    # Reduce the number of groups until it divides the channels.
    return next(number for number in range(min(groups, num_features), 0, -1) if num_features % number == 0)
