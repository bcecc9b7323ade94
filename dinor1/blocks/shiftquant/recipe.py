"""Settings of the quantization: the grid of each tensor of a layer."""

import functools
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dinor1.utils.errors import InputError
from dinor1.utils.precision import compute_dtype

from .grid import FLOAT_BITS, check_groups, is_bits
from .shift_quantizer import ShiftQuantizer
from .shift_tensor import ShiftTensor

_CHOICES = dict(
    backend=('sim', 'int8'),
    act_quant=('tensor', 'shift'),
    grad_rounding=('stochastic', 'nearest'),
    mode=('auto', 'preshift', 'masked'),
)


class Operand(NamedTuple):
    """A weight or an activation as operand of an integer product.

    Attributes:
        values: int8 codes, or floating-point numbers if ``scale`` is None.
        scale: () step of the codes.
        top: Bound of ``|values|``; 0 for floating-point numbers.
    """

    values: Tensor
    scale: Tensor | None
    top: int

    def dequantize(self) -> Tensor:
        """Values in floating point."""
        return self.values if self.scale is None else self.values.to(self.scale.dtype) * self.scale


@dataclass(frozen=True)
class IntegerRecipe:
    """Settings for training a layer in integers.

    Weights and activations are rounded to nearest with one scale per tensor, gradients by ShiftQuant over the output
    channels.

    Attributes:
        bits: Bits of weights, activations and gradients, 2 to 8 each; 32: floating point.
        groups: Groups of the gradient's channels, see :class:`ShiftQuantizer`; 1: one scale per tensor; None: by bits.
        backend: ``sim``: products of whole numbers in floating point. ``int8``: torch's int8 product. Both give bitwise
            equal results.
        act_quant: ``tensor``: one scale per activation. ``shift``: ShiftQuant (to nearest) over the channels.
        grad_rounding: ``stochastic``, or ``nearest``, which is biased and only for comparison.
        mode: Treatment of shifts in the product for the input's gradient. ``preshift``: one product of ``code <<
            shift``, which must fit int8; ``masked``: one product per group; ``auto``: ``preshift`` if it fits.
        independent_noise: Quantize the gradient separately for each of its two products.
        quantize_bias_grad: Sum the quantized gradient for the bias instead of the plain one.

    Raises:
        InputError: a value is out of range.
    """

    bits: tuple[int, int, int] = (4, 4, 4)
    groups: int | Literal['channel'] | None = None
    backend: Literal['sim', 'int8'] = 'sim'
    act_quant: Literal['tensor', 'shift'] = 'tensor'
    grad_rounding: Literal['stochastic', 'nearest'] = 'stochastic'
    mode: Literal['auto', 'preshift', 'masked'] = 'auto'
    independent_noise: bool = False
    quantize_bias_grad: bool = False

    def __post_init__(self) -> None:
        # Check the values.
        bits = tuple(self.bits) if isinstance(self.bits, tuple | list) else ()
        if len(bits) != 3 or not all(is_bits(b, floating=True) for b in bits):
            raise InputError(
                'bits must be three whole numbers from 2 to 8, or 32 for floating point, of weights, activations and '
                f'gradients; got {self.bits!r}'
            )
        object.__setattr__(self, 'bits', bits)
        check_groups('quantization', self.groups)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f'quantization: {name} must be one of {known}, got {getattr(self, name)!r}')
        # Check that shifted codes fit int8.
        quantizer = self._gradient_quantizer
        preshift = self.mode == 'preshift' and quantizer is not None and self.groups != 'channel'
        if preshift and quantizer.top << (quantizer.groups - 1) > 127:
            raise InputError(
                f'quantization: {quantizer.groups} groups at {bits[2]} bits do not fit int8 after the shift; use fewer '
                "groups or mode='masked'"
            )

    @property
    def is_float(self) -> bool:
        """Whether all tensors stay in floating point."""
        return self.bits == (FLOAT_BITS,) * 3

    @property
    def integer_products(self) -> int:
        """Number of integer products among a layer's three (output, input's gradient, weight's gradient)."""
        weight, activation, gradient = (bits != FLOAT_BITS for bits in self.bits)
        gradient = gradient and self.groups != 'channel'
        return (weight and activation) + (weight and gradient) + (activation and gradient)

    def weight(self, x: Tensor) -> Operand:
        """Quantize a weight."""
        return _operand(self._weight_quantizer, x)

    def activation(self, x: Tensor) -> Operand:
        """Quantize an activation, with channels on the last axis."""
        return _operand(self._activation_quantizer, x)

    def gradient(self, x: Tensor, generator: torch.Generator | None) -> ShiftTensor | Tensor:
        """Quantize a gradient (N, C); as floating-point numbers if the grid is not one of integers."""
        quantizer = self._gradient_quantizer
        if quantizer is None:
            return x.to(compute_dtype(x))
        return quantizer.fake(x, generator) if self.groups == 'channel' else quantizer(x, generator)

    def preshifts(self, x: ShiftTensor) -> bool:
        """Whether one product covers all groups of ``x``."""
        return x.fits_int8 and self.mode != 'masked'

    @functools.cached_property
    def _weight_quantizer(self) -> ShiftQuantizer | None:
        bits = self.bits[0]
        return None if bits == FLOAT_BITS else ShiftQuantizer(bits, groups=1, rounding='nearest')

    @functools.cached_property
    def _activation_quantizer(self) -> ShiftQuantizer | None:
        bits, groups = self.bits[1], 1 if self.act_quant == 'tensor' else None
        return None if bits == FLOAT_BITS else ShiftQuantizer(bits, groups=groups, rounding='nearest')

    @functools.cached_property
    def _gradient_quantizer(self) -> ShiftQuantizer | None:
        bits = self.bits[2]
        return None if bits == FLOAT_BITS else ShiftQuantizer(bits, self.groups, rounding=self.grad_rounding)


def _operand(quantizer: ShiftQuantizer | None, x: Tensor) -> Operand:
    if quantizer is None:
        return Operand(x.to(compute_dtype(x)), None, 0)
    quantized = quantizer(x)
    # Apply the shifts: with the default number of groups they always fit.
    return Operand(quantized.preshifted(), quantized.scale, quantized.top << quantized.max_shift)
