"""L1 normalisation of integer codes, forward and backward, as one autograd function.

Forward over the m numbers that are normalised together, x = scale q (arXiv 2411.10948, section 4: the L2 norm of the
deviations becomes an L1 norm; arXiv 1802.09769 for the batch norm)::

    c = m q - sum q,   A = sum |c|                                whole numbers, exact
    sigma = kappa scale A / m^2,   z = c scale / (m (sigma + eps))
    y = weight z + bias, rounded to the activation's grid

Backward, with a = weight dL/dy rounded by ShiftQuant over channels and s = sign c::

    dx = (a - mean a - kappa (s - mean s) mean(a z)) / (sigma + eps)

The integer sums and the positions of the grids are a design of this package, since the paper's were not available.
Weight and bias stay in floating point; their gradients are sums of the unquantized dL/dy.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .noise import NoiseSource
from .recipe import IntegerRecipe
from .shift_tensor import ShiftTensor


class L1Normalise(torch.autograd.Function):
    """``apply(x, weight, bias, axes, kappa, eps, recipe, noise)`` -> ``y, mean, sigma``, channels on the last axis.

    ``axes`` are normalised together: all but the last for a batch norm, the last for a layer norm. ``mean`` and
    ``sigma`` have no gradient and the shape of ``x`` with ``axes`` of size 1.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        axes: tuple[int, ...],
        kappa: float,
        eps: float,
        recipe: IntegerRecipe,
        noise: NoiseSource,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum codes, divide once per set of numbers, round the result."""
        # Sum the codes and their absolute deviations exactly.
        quantized = recipe.activation(x)
        codes, scale = quantized.values, quantized.scale
        count = math.prod(x.shape[axis] for axis in axes)
        total = codes.sum(axes, keepdim=True, dtype=_whole(count * quantized.top))
        deviations = _deviations(codes, total, count, quantized.top)
        absolute = deviations.abs().sum(axes, keepdim=True, dtype=torch.int64)
        # Normalise, and round to the activation's grid.
        unit = scale / count
        sigma = absolute.to(scale.dtype) * (unit * (kappa / count))
        inverse = (sigma + eps).reciprocal()
        z = deviations.to(scale.dtype) * (unit * inverse)
        y = z if weight is None else torch.addcmul(bias, z, weight)
        y = recipe.activation(y).dequantize()
        # Save what the backward pass needs.
        ctx.save_for_backward(codes, total, unit * inverse, inverse, weight)
        ctx.axes, ctx.kappa, ctx.count, ctx.top = axes, kappa, count, quantized.top
        ctx.recipe, ctx.noise = recipe, noise
        ctx.dtypes = x.dtype, None if weight is None else weight.dtype
        mean = total.to(scale.dtype) * unit
        ctx.mark_non_differentiable(mean, sigma)
        return y.to(x.dtype), mean, sigma

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradient in the module's docstring."""
        codes, total, unit, inverse, weight = ctx.saved_tensors
        deviations = _deviations(codes, total, ctx.count, ctx.top)
        grad = grad.to(inverse.dtype)
        grad_weight = grad_bias = grad_x = None
        z = deviations.to(inverse.dtype).mul_(unit)
        # Gradients of weight and bias, from the unquantized gradient.
        outer = tuple(range(grad.dim() - 1))
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * z).sum(outer).to(ctx.dtypes[1])
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(outer).to(ctx.dtypes[1])
        # Gradient of the input, from the quantized gradient.
        if ctx.needs_input_grad[0]:
            pull = grad if weight is None else grad * weight
            pull = ctx.recipe.gradient(pull, ctx.noise.next_generator(grad.device))
            grad_x = _input_gradient(pull, deviations, z, inverse, ctx).to(ctx.dtypes[0])
        return grad_x, grad_weight, grad_bias, None, None, None, None, None


def _whole(bound: int) -> torch.dtype:
    """Cheapest integer format that holds ``bound``."""
    return torch.int32 if bound < 2**31 else torch.int64


def _deviations(codes: Tensor, total: Tensor, count: int, top: int) -> Tensor:
    """Compute ``count * codes - total``, whose magnitude is at most ``2 count top``."""
    whole = _whole(2 * count * top)
    return codes.to(whole).mul_(count).sub_(total.to(whole))


def _input_gradient(
    pull: ShiftTensor | Tensor, deviations: Tensor, z: Tensor, inverse: Tensor, ctx: FunctionCtx
) -> Tensor:
    axes, count = ctx.axes, ctx.count
    # Mean of the gradient, exact for codes.
    if isinstance(pull, ShiftTensor):
        whole = pull.q.to(torch.int32) * (1 << pull.shift.to(torch.int32))
        bound = count * (pull.top << pull.max_shift)
        mean = whole.sum(axes, keepdim=True, dtype=_whole(bound)).to(inverse.dtype) * (pull.scale / count)
        values = whole.to(inverse.dtype).mul_(pull.scale)
    else:
        values = pull
        mean = values.mean(axes, keepdim=True)
    # Subtract the part through the deviation.
    sign = deviations.sign()
    tilt = sign.sum(axes, keepdim=True, dtype=_whole(count)).to(inverse.dtype) / count
    along = (values * z).sum(axes, keepdim=True).mul_(ctx.kappa / count)
    sign = sign.to(inverse.dtype).sub_(tilt).mul_(along)
    return (values - mean).sub_(sign).mul_(inverse)
