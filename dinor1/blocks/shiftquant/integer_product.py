"""The three products of a layer on integer grids, as one autograd function.

With X (N, Ci), W (Co, Ci) and D = dL/dY (N, Co) as integers. The equations follow arXiv 2411.10948 as far as its text
was available; the rest is a design of this package::

    Y  = Xq Wq^T     over input channels; X and W with one scale each, rounded to nearest
    dX = Dq Wq       over output channels; D by ShiftQuant over them, rounded stochastically
    dW = Dq^T Xq     over N; the same Dq, with one shift per row of the result

Every sum is a whole number, exact in both backends, and is multiplied by its scale once, at the end. Gradients pass the
rounding of X and W unchanged, and nothing is clipped. For fixed Xq and Wq the expectations are therefore
``E[dX] = D Wq`` and ``E[dW] = D^T Xq``.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from dinor1.utils.precision import full_precision

from .gradient_stats import GradientStats
from .im2col import Dense, Im2ColConv
from .int_matmul import exact_dtype, exact_product
from .noise import NoiseSource
from .recipe import IntegerRecipe, Operand
from .shift_tensor import ShiftTensor


class IntegerProduct(torch.autograd.Function):
    """``apply(x, weight, bias, geometry, recipe, noise, stats)`` for linear layers and convolutions.

    ``x`` is (..., Ci); ``weight`` is (Co, K), where K is the number of the kernel's taps times the channels of a group,
    channels last; ``geometry`` turns ``x`` into rows of K numbers. The result is (N, Co), in the dtype of ``x``.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Dense | Im2ColConv,
        recipe: IntegerRecipe,
        noise: NoiseSource,
        stats: GradientStats | None,
    ) -> Tensor:
        """Quantize both operands and multiply."""
        # Quantize, and multiply group by group.
        activation, kernel = recipe.activation(x), recipe.weight(weight)
        parts = [
            _product(activation._replace(values=geometry.columns(values)), kernel._replace(values=rows.t()), recipe)
            for values, rows in _grouped(geometry, activation.values, kernel.values)
        ]
        y = _join(parts, 1)
        if bias is not None:
            y.add_(bias)
        # Save the codes for the backward pass.
        ctx.save_for_backward(activation.values, activation.scale, kernel.values, kernel.scale)
        ctx.tops = activation.top, kernel.top
        ctx.dtypes = x.dtype, weight.dtype
        ctx.geometry, ctx.recipe, ctx.noise, ctx.stats = geometry, recipe, noise, stats
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Quantize the gradient (once for both products by default) and multiply."""
        # Restore the operands of the forward pass.
        values, scale, rows, row_scale = ctx.saved_tensors
        activation, kernel = Operand(values, scale, ctx.tops[0]), Operand(rows, row_scale, ctx.tops[1])
        recipe, geometry = ctx.recipe, ctx.geometry

        def draw() -> ShiftTensor | Tensor:
            return recipe.gradient(grad, ctx.noise.next_generator(grad.device))

        # Quantize the gradient.
        quantized = draw()
        if ctx.stats is not None and isinstance(quantized, ShiftTensor):
            ctx.stats.add(quantized)
        # Multiply for each input that needs a gradient.
        grad_x = grad_weight = grad_bias = None
        with full_precision(grad.device):
            if ctx.needs_input_grad[0]:
                grad_x = _input_gradient(quantized, kernel, geometry, values.shape, recipe).to(ctx.dtypes[0])
            if ctx.needs_input_grad[2]:
                summand = quantized if recipe.quantize_bias_grad else grad
                grad_bias = _bias_gradient(summand).to(ctx.dtypes[1])
            if ctx.needs_input_grad[1]:
                if recipe.independent_noise:
                    quantized = draw()
                grad_weight = _weight_gradient(quantized, activation, geometry, recipe).to(ctx.dtypes[1])
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _product(a: Operand, b: Operand, recipe: IntegerRecipe) -> Tensor:
    if a.scale is None or b.scale is None:
        with full_precision(a.values.device):
            return a.dequantize() @ b.dequantize()
    total = exact_product(a.values, b.values, a.top * b.top, recipe.backend)
    return _rescaled(total, a.scale * b.scale, a.values.shape[1] * a.top * b.top)


def _input_gradient(
    grad: ShiftTensor | Tensor,
    kernel: Operand,
    geometry: Dense | Im2ColConv,
    shape: tuple[int, ...],
    recipe: IntegerRecipe,
) -> Tensor:
    """Gradient dX (..., Ci) of shape ``shape`` from D (N, Co)."""
    # Without integers on both sides, multiply in floating point.
    if kernel.scale is None or not isinstance(grad, ShiftTensor):
        dense = grad.dequantize() if isinstance(grad, ShiftTensor) else grad
        products = [
            geometry.adjoint_columns(columns, shape) @ geometry.adjoint_kernel(rows)
            for columns, rows in _grouped(geometry, dense, kernel.dequantize())
        ]
        return _join(products, 1).view(shape)
    # Use one product of shifted codes if these fit int8, else one product per group.
    room = 1 << grad.max_shift
    max_term = grad.top * kernel.top
    if recipe.preshifts(grad):
        slices = [(grad.preshifted(), 1)]
        max_term, room = max_term * room, 1
    else:
        slices = [(grad.q * (grad.shift == h).to(torch.int8), 1 << h) for h in range(grad.groups)]
    # Multiply, and add the groups with their powers of two.
    total, inner = None, 0
    for codes, power in slices:
        parts = []
        for columns, rows in _grouped(geometry, codes, kernel.values):
            columns, rows = geometry.adjoint_columns(columns, shape), geometry.adjoint_kernel(rows)
            inner = rows.shape[0]
            parts.append(exact_product(columns, rows, max_term, recipe.backend, room))
        part = _join(parts, 1)
        total = part if total is None else total.add_(part, alpha=power)
    return _rescaled(total, grad.scale * kernel.scale, inner * max_term * room).view(shape)


def _weight_gradient(
    grad: ShiftTensor | Tensor, activation: Operand, geometry: Dense | Im2ColConv, recipe: IntegerRecipe
) -> Tensor:
    """Gradient dW (Co, K) from D (N, Co)."""
    parts = []
    # Without integers on both sides, multiply in floating point.
    if activation.scale is None or not isinstance(grad, ShiftTensor):
        dense = grad.dequantize() if isinstance(grad, ShiftTensor) else grad
        for columns, values in _grouped(geometry, dense, activation.dequantize(), axes=(-1, -1)):
            parts.append(columns.t() @ geometry.columns(values))
        return _join(parts, 0)
    # Multiply codes; the shifts scale rows of the result.
    max_term = grad.top * activation.top
    for codes, values in _grouped(geometry, grad.q, activation.values, axes=(-1, -1)):
        parts.append(exact_product(codes.t(), geometry.columns(values), max_term, recipe.backend))
    scale = (grad.factor() * activation.scale).unsqueeze(1)
    return _rescaled(_join(parts, 0), scale, grad.q.shape[0] * max_term)


def _bias_gradient(grad: ShiftTensor | Tensor) -> Tensor:
    if isinstance(grad, ShiftTensor):
        return grad.q.sum(0, dtype=torch.int64) * grad.factor()
    return grad.sum(0)


def _rescaled(total: Tensor, scale: Tensor, bound: int) -> Tensor:
    """Compute ``total * scale`` with one rounding; ``total`` is below ``bound`` and overwritten where possible."""
    dtype = torch.promote_types(exact_dtype(bound), scale.dtype)
    return total.to(dtype).mul_(scale.to(dtype)).to(scale.dtype)


def _grouped(
    geometry: Dense | Im2ColConv, *tensors: Tensor, axes: tuple[int, ...] = (-1, 0)
) -> list[tuple[Tensor, ...]]:
    """Split each tensor along its axis into the groups of the convolution."""
    if geometry.groups == 1:
        return [tensors]
    return list(zip(*(t.chunk(geometry.groups, axis) for t, axis in zip(tensors, axes, strict=True)), strict=True))


def _join(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)
