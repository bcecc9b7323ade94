"""Deformable attention as torch operators, so that ``torch.compile`` and ``torch.export`` see one node.

The operators are ``dinor1::ms_deform_attn`` and ``dinor1::ms_deform_attn_predicted``, each with a backward operator.
Levels are tensors, so that one graph serves every image size. ``named`` is the backend that the user had named when the
forward pass was called, so that the backward pass uses the same backend; ``'auto'`` is resolved when an operator runs,
not when it is traced. The backend ``'reference'`` is not available here: its operations must stay traceable.
"""

import math

import torch
from torch import Tensor

from dinor1.ops.ms_deform_attn import embedding_bag
from dinor1.ops.ms_deform_attn.backends import ms_deform_attn_backend
from dinor1.ops.ms_deform_attn.checks import checked_levels
from dinor1.ops.ms_deform_attn.sampling import Needed, Operands, make_sampling


def _triton():
    # Imported on first use: Triton is optional, and importing it takes a second.
    from dinor1.ops.ms_deform_attn import triton_launch

    return triton_launch


def _on_triton(value: Tensor, named: str) -> bool:
    return ms_deform_attn_backend(value.device, named=named) == 'triton'


def _output(value: Tensor, queries: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], queries.shape[1], value.shape[2] * value.shape[3])


def _forward(operands: Operands, named: str) -> Tensor:
    """Compute the output with the chosen backend."""
    if _on_triton(operands.value, named):
        return _triton().forward(operands)
    value, spatial_shapes, level_start_index, inputs = operands
    shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
    return embedding_bag.forward(value, shapes, make_sampling(value, shapes, inputs))


def _gradients(
    grad: Tensor, operands: Operands, output: Tensor | None, deterministic: bool, named: str, needed: Needed
) -> list[Tensor]:
    """Gradients of value and inputs; gradients that are not needed are empty, since operators must return tensors."""
    if _on_triton(operands.value, named):
        return _triton().backward(grad, operands, output, deterministic, needed)
    value, spatial_shapes, level_start_index, inputs = operands
    shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
    wanted = needed.per_tensor(operands.predicted)
    sampling = make_sampling(value, shapes, inputs)
    # Compute all gradients of the inputs if one of them is needed.
    grad_value, grad_inputs = embedding_bag.backward(grad, value, shapes, sampling, needed.value, any(wanted[1:]))
    grads = (grad_value, *(grad_inputs or [None] * len(inputs)))
    tensors = (value, *inputs)
    return [g if want else t.new_empty(0) for g, want, t in zip(grads, wanted, tensors, strict=True)]


def _fake_gradients(operands: Operands, needed: Needed) -> list[Tensor]:
    """Tensors of the shapes and dtypes that :func:`_gradients` returns."""
    tensors = (operands.value, *operands.inputs)
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format) if wanted else tensor.new_empty(0)
        for tensor, wanted in zip(tensors, needed.per_tensor(operands.predicted), strict=True)
    ]


# -----------------------------------------------------------------------------------------------------------
# Operators that take locations and weights


@torch.library.custom_op('dinor1::ms_deform_attn', mutates_args=())
def ms_deform_attn_op(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    deterministic: bool,
    named: str,
) -> Tensor:
    """See :func:`dinor1.ops.ms_deform_attn`."""
    inputs = (sampling_locations, attention_weights)
    return _forward(Operands(value, spatial_shapes, level_start_index, inputs), named)


@ms_deform_attn_op.register_fake
def _(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, deterministic, named):
    return _output(value, sampling_locations)


@torch.library.custom_op('dinor1::ms_deform_attn_backward', mutates_args=())
def ms_deform_attn_backward_op(
    grad: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    deterministic: bool,
    named: str,
    need_value: bool,
    need_sampling: bool,
) -> list[Tensor]:
    """Gradients of value, locations and weights."""
    operands = Operands(value, spatial_shapes, level_start_index, (sampling_locations, attention_weights))
    return _gradients(grad, operands, None, deterministic, named, Needed(need_value, need_sampling))


@ms_deform_attn_backward_op.register_fake
def _(grad, value, spatial_shapes, level_start_index, *rest):
    *inputs, _, _, need_value, need_sampling = rest
    operands = Operands(value, spatial_shapes, level_start_index, tuple(inputs))
    return _fake_gradients(operands, Needed(need_value, need_sampling))


def _setup(ctx, inputs, output) -> None:
    *tensors, ctx.deterministic, ctx.named = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    value, shapes, starts, *inputs = ctx.saved_tensors
    need_value, _, _, *need_inputs, _, _ = ctx.needs_input_grad
    grads = ms_deform_attn_backward_op(
        grad, value, shapes, starts, *inputs, ctx.deterministic, ctx.named, need_value, any(need_inputs)
    )
    grad_value, *grad_inputs = _needed(grads, (need_value, *need_inputs))
    return grad_value, None, None, *grad_inputs, None, None


def _needed(grads: list[Tensor], needed: tuple[bool, ...]) -> list[Tensor | None]:
    return [grad if need else None for grad, need in zip(grads, needed, strict=True)]


ms_deform_attn_op.register_autograd(_backward, setup_context=_setup)


# -----------------------------------------------------------------------------------------------------------
# Operators that compute locations and weights from predictions


@torch.library.custom_op('dinor1::ms_deform_attn_predicted', mutates_args=())
def ms_deform_attn_predicted_op(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    deterministic: bool,
    named: str,
) -> Tensor:
    """See :func:`dinor1.ops.ms_deform_attn_predicted`."""
    inputs = (reference_points, sampling_offsets, attention_logits)
    return _forward(Operands(value, spatial_shapes, level_start_index, inputs), named)


@ms_deform_attn_predicted_op.register_fake
def _(
    value,
    spatial_shapes,
    level_start_index,
    reference_points,
    sampling_offsets,
    attention_logits,
    deterministic,
    named,
):
    return _output(value, sampling_offsets)


@torch.library.custom_op('dinor1::ms_deform_attn_predicted_backward', mutates_args=())
def ms_deform_attn_predicted_backward_op(
    grad: Tensor,
    output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    deterministic: bool,
    named: str,
    need_value: bool,
    need_reference: bool,
    need_sampling: bool,
) -> list[Tensor]:
    """Gradients of value, reference points, offsets and logits; ``need_sampling`` refers to the last two."""
    inputs = (reference_points, sampling_offsets, attention_logits)
    operands = Operands(value, spatial_shapes, level_start_index, inputs)
    needed = Needed(need_value, need_sampling, need_reference)
    return _gradients(grad, operands, output, deterministic, named, needed)


@ms_deform_attn_predicted_backward_op.register_fake
def _(grad, output, value, spatial_shapes, level_start_index, *rest):
    *inputs, _, _, need_value, need_reference, need_sampling = rest
    operands = Operands(value, spatial_shapes, level_start_index, tuple(inputs))
    return _fake_gradients(operands, Needed(need_value, need_sampling, need_reference))


def _setup_predicted(ctx, inputs, output) -> None:
    *tensors, ctx.deterministic, ctx.named = inputs
    ctx.save_for_backward(output, *tensors)


def _backward_predicted(ctx, grad):
    output, value, shapes, starts, *inputs = ctx.saved_tensors
    need_value, _, _, need_reference, *need_sampling, _, _ = ctx.needs_input_grad
    needed = (need_value, need_reference, any(need_sampling))
    grads = ms_deform_attn_predicted_backward_op(
        grad, output, value, shapes, starts, *inputs, ctx.deterministic, ctx.named, *needed
    )
    grad_value, *grad_inputs = _needed(grads, (need_value, need_reference, *need_sampling))
    return grad_value, None, None, *grad_inputs, None, None


ms_deform_attn_predicted_op.register_autograd(_backward_predicted, setup_context=_setup_predicted)


# -----------------------------------------------------------------------------------------------------------
# FLOP counts


def register_flops() -> None:
    """Register FLOP formulas of the operators with torch's FLOP counter; further calls have no effect.

    This does not happen on import, because the module of the registry imports Triton.
    """
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    operators = [torch.ops.dinor1.ms_deform_attn, torch.ops.dinor1.ms_deform_attn_predicted]
    if not set(operators) <= set(flop_registry):
        register_flop_formula(operators)(_flops)


def _flops(value_shape, *input_shapes, out_shape=None, **kwargs) -> int:
    """Number of operations: a multiplication and an addition for each of four corners of every sample and channel.

    The last three of ``input_shapes`` belong to the weights ``(B, Q, H, L, P)``, a flag and a name.
    """
    return 2 * 4 * math.prod(input_shapes[-3]) * value_shape[-1]
