"""L1 batch norm and layer norm for training in integers.

See :mod:`dinor1.blocks.shiftquant.l1_function` for the equations. :mod:`dinor1.blocks.normalization` has L1 norms in
floating point for every axis and with masks. The norms here are the counterparts of ``nn.BatchNorm*`` and
``nn.LayerNorm`` for a model in integers; without quantization both agree (a test compares them). Neither block depends
on the other.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dinor1.utils.errors import InputError
from dinor1.utils.precision import compute_dtype
from dinor1.utils.recomputation import is_recomputing

from .grid import FLOAT_BITS
from .l1_function import L1Normalise
from .noise import NoiseSource
from .recipe import IntegerRecipe

_GAUSS = math.sqrt(math.pi / 2)


class _L1Norm(nn.Module):
    """``y = weight (x - mean) / (kappa mean|x - mean| + eps) + bias``.

    Attributes:
        enabled: Whether the norm quantizes.
    """

    def __init__(
        self,
        num_features: int,
        eps: float,
        affine: bool,
        gaussian_correction: bool,
        quantized: bool,
        recipe: IntegerRecipe | None,
        seed: int | None,
    ) -> None:
        super().__init__()
        self.recipe, self.noise, self.enabled = recipe or IntegerRecipe(), NoiseSource(seed), quantized
        if self.recipe.bits[1] == FLOAT_BITS and quantized:
            raise InputError(f'{type(self).__name__}: bits of activations must be 2 to 8; or give quantized=False')
        self.num_features, self.eps = num_features, eps
        self.kappa = _GAUSS if gaussian_correction else 1.0
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def host_state(self) -> int:
        """Snapshot of the state in Python: the position of the noise."""
        return self.noise.position

    def set_host_state(self, state: int) -> None:
        """Restore a snapshot of :meth:`host_state`."""
        self.noise.position = state

    def _normalise(self, x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise ``x`` with channels last; returns the result, the mean and the deviation."""
        if self.enabled:
            return L1Normalise.apply(x, self.weight, self.bias, axes, self.kappa, self.eps, self.recipe, self.noise)
        # Without quantization, normalise in float32 at least.
        full = x.to(compute_dtype(x))
        mean = full.mean(axes, keepdim=True)
        centred = full - mean
        sigma = self.kappa * centred.abs().mean(axes, keepdim=True)
        return self._affine(centred / (sigma + self.eps)).to(x.dtype), mean.detach(), sigma.detach()

    def _affine(self, z: Tensor) -> Tensor:
        return z if self.weight is None else z * self.weight + self.bias

    def extra_repr(self) -> str:
        """Sizes and bits; bits are None if the norm does not quantize."""
        bits = self.recipe.bits if self.enabled else None
        return f'{self.num_features}, eps={self.eps}, kappa={self.kappa:.4f}, bits={bits}'


class L1LayerNorm(_L1Norm):
    """L1 layer norm: each token over its channels.

    Args:
        normalized_shape: Channels C, the last axis.
        eps: Added to the deviation, outside of any root.
        affine: Whether there are ``weight`` and ``bias``.
        gaussian_correction: Multiply the deviation by sqrt(pi / 2), which gives a Gaussian's standard deviation,
            for weights that were trained with an L2 norm.
        quantized: False: plain floating point.
        recipe: Settings of the quantization; input and output have the bits of activations, the gradient those of
            gradients. None: the defaults of :class:`IntegerRecipe`.
        seed: Seed of the noise; None: torch's initial seed.

    Raises:
        InputError: ``quantized`` is true, but the recipe leaves activations in floating point.
    """

    def __init__(
        self,
        normalized_shape: int,
        eps: float = 1e-5,
        affine: bool = True,
        gaussian_correction: bool = False,
        quantized: bool = True,
        recipe: IntegerRecipe | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, affine, gaussian_correction, quantized, recipe, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C); keeps the shape."""
        if x.shape[-1:] != (self.num_features,):
            raise ValueError(f'L1LayerNorm({self.num_features}): expected (..., {self.num_features}), got {x.shape}')
        return x.clone() if x.numel() == 0 else self._normalise(x, (-1,))[0]


class _L1BatchNorm(_L1Norm):
    """See :class:`L1BatchNorm2d`; subclasses set the allowed numbers of axes."""

    _dims: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        gaussian_correction: bool = False,
        quantized: bool = True,
        recipe: IntegerRecipe | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, gaussian_correction, quantized, recipe, seed)
        self.momentum = momentum
        self.register_buffer('running_mean', torch.zeros(num_features))
        self.register_buffer('running_sigma', torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, ...); keeps the shape."""
        if x.dim() not in self._dims or x.shape[1] != self.num_features:
            raise ValueError(
                f'{type(self).__name__}({self.num_features}): expected {self.num_features} channels on axis 1 of '
                f'{" or ".join(map(str, self._dims))} axes, got {tuple(x.shape)}'
            )
        rows = x.movedim(1, -1)
        # In training, normalise by the batch.
        if self.training and x.numel():
            y, mean, sigma = self._normalise(rows, tuple(range(x.dim() - 1)))
            # A forward pass that is repeated must not update the statistics twice.
            if not is_recomputing():
                self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
                self.running_sigma.lerp_(sigma.flatten().to(self.running_sigma.dtype), self.momentum)
        else:
            y = self._by_running_statistics(rows)
        return y.movedim(-1, 1)

    def _by_running_statistics(self, rows: Tensor) -> Tensor:
        full = rows.to(compute_dtype(rows))
        if self.enabled:
            full = _rounded(full, self.recipe)
        y = self._affine((full - self.running_mean) / (self.running_sigma + self.eps))
        return (_rounded(y, self.recipe) if self.enabled else y).to(rows.dtype)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        variance = state_dict.pop(f'{prefix}running_var', None)
        state_dict.pop(f'{prefix}num_batches_tracked', None)
        if variance is not None:
            # Convert as for a Gaussian, whose mean absolute deviation is sqrt(2 var / pi).
            state_dict[f'{prefix}running_sigma'] = variance.sqrt() * (self.kappa / _GAUSS)
        super()._load_from_state_dict(state_dict, prefix, *args)


class L1BatchNorm1d(_L1BatchNorm):
    """:class:`L1BatchNorm2d` for (B, C) and (B, C, L), with the same arguments."""

    _dims = (2, 3)


class L1BatchNorm2d(_L1BatchNorm):
    """L1 batch norm: each channel of (B, C, H, W) over batch and positions.

    In evaluation the buffers ``running_mean`` and ``running_sigma``, both (C,), replace the batch's statistics.
    ``running_sigma`` is the divisor itself, with the Gaussian correction and without a correction for the size of the
    batch. A state dict of ``nn.BatchNorm2d`` can be loaded: its ``running_var`` becomes the deviation of Gaussian data.

    Args:
        num_features: Channels C, axis 1.
        eps: Added to the deviation, outside of any root.
        momentum: Share of the new batch in the running statistics.
        affine: Whether there are ``weight`` and ``bias``.
        gaussian_correction: As in :class:`L1LayerNorm`.
        quantized: False: plain floating point.
        recipe: As in :class:`L1LayerNorm`.
        seed: Seed of the noise; None: torch's initial seed.

    Raises:
        InputError: ``quantized`` is true, but the recipe leaves activations in floating point.
    """

    _dims = (4,)


def _rounded(x: Tensor, recipe: IntegerRecipe) -> Tensor:
    """Round ``x`` to the activation's grid; the gradient is 1."""
    return x + (recipe.activation(x).dequantize() - x).detach()
