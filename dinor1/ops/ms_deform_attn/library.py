"""Deformable attention as torch operators, so that ``torch.compile`` and ``torch.export`` see one node.

``dinor1::ms_deform_attn`` and ``dinor1::ms_deform_attn_predicted`` with their backward operators. Levels are tensors
here: a graph then holds for every image size. ``named`` is what the user named when the forward pass was called, so
that the backward pass computes by the same; ``'auto'`` is decided when an operator runs, not when it is traced.
``definition`` is no backend of theirs, since it exists to be seen through.
"""

import math

import torch
from torch import Tensor

from dinor1.ops.ms_deform_attn import embedding_bag as msda_bags
from dinor1.ops.ms_deform_attn.backends import ms_deform_attn_backend
from dinor1.ops.ms_deform_attn.checks import checked_levels
from dinor1.ops.ms_deform_attn.sampling import GivenSampling, PredictedSampling, Sampling


def _triton():
    # Imported where it is used: Triton is optional, and importing it takes a second.
    from dinor1.ops.ms_deform_attn import triton_launch as msda_triton

    return msda_triton


def _on_triton(value: Tensor, named: str) -> bool:
    return ms_deform_attn_backend(value.device, named=named) == 'triton'


def _output(value: Tensor, queries: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], queries.shape[1], value.shape[2] * value.shape[3])


def _empty_like(tensor: Tensor, wanted: bool) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format) if wanted else tensor.new_empty(0)


def _bags_backward(
    grad: Tensor,
    value: Tensor,
    shapes: list[tuple[int, int]],
    sampling: Sampling,
    inputs: tuple[Tensor, ...],
    need_value: bool,
    need_sampling: bool,
) -> list[Tensor]:
    """Gradients of value and inputs; one that is not needed is empty, since an operator returns tensors."""
    grad_value, grads = msda_bags.backward(grad, value, shapes, sampling, need_value, need_sampling)
    grad_value = _empty_like(value, False) if grad_value is None else grad_value
    return [grad_value, *(grads or (_empty_like(t, False) for t in inputs))]


# -----------------------------------------------------------------------------------------------------------
# locations and weights given


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
    if _on_triton(value, named):
        return _triton().forward(value, spatial_shapes, level_start_index, inputs)
    shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
    return msda_bags.forward(value, shapes, GivenSampling(value, *inputs))


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
    inputs = (sampling_locations, attention_weights)
    if _on_triton(value, named):
        return _triton().backward(
            grad, value, spatial_shapes, level_start_index, inputs, None, deterministic, need_value, need_sampling
        )
    shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
    return _bags_backward(grad, value, shapes, GivenSampling(value, *inputs), inputs, need_value, need_sampling)


@ms_deform_attn_backward_op.register_fake
def _(grad, value, spatial_shapes, level_start_index, *rest):
    *inputs, _, _, need_value, need_sampling = rest
    needed = (need_value, need_sampling, need_sampling)
    return [_empty_like(t, n) for t, n in zip((value, *inputs), needed, strict=True)]


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
# locations and weights computed inside


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
    if _on_triton(value, named):
        return _triton().forward(value, spatial_shapes, level_start_index, inputs)
    shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
    return msda_bags.forward(value, shapes, PredictedSampling(value, shapes, *inputs))


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
    """Gradients of value, reference points, offsets and logits; ``need_sampling`` is meant for the last two."""
    inputs = (reference_points, sampling_offsets, attention_logits)
    if _on_triton(value, named):
        return _triton().backward(
            grad,
            value,
            spatial_shapes,
            level_start_index,
            inputs,
            output,
            deterministic,
            need_value,
            need_sampling,
            need_reference,
        )
    shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
    sampling = PredictedSampling(value, shapes, *inputs)
    grads = _bags_backward(grad, value, shapes, sampling, inputs, need_value, need_sampling or need_reference)
    needed = (need_value, need_reference, need_sampling, need_sampling)
    return [g if need else _empty_like(g, False) for g, need in zip(grads, needed, strict=True)]


@ms_deform_attn_predicted_backward_op.register_fake
def _(grad, output, value, spatial_shapes, level_start_index, *rest):
    *inputs, _, _, need_value, need_reference, need_sampling = rest
    needed = (need_value, need_reference, need_sampling, need_sampling)
    return [_empty_like(t, n) for t, n in zip((value, *inputs), needed, strict=True)]


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
# what counters of operations see


def register_flops() -> None:
    """Let torch's counter of operations, and whatever reads its registry, see the operators. Idempotent.

    Not done on import, because the module that holds the registry imports Triton.
    """
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    operators = [torch.ops.dinor1.ms_deform_attn, torch.ops.dinor1.ms_deform_attn_predicted]
    if not set(operators) <= set(flop_registry):
        register_flop_formula(operators)(_flops)


def _flops(value_shape, *input_shapes, out_shape=None, **kwargs) -> int:
    """Four corners of every sample and channel, a multiplication and an addition each.

    The last three of ``input_shapes`` are those of the weights ``(B, Q, H, L, P)``, a flag and a name.
    """
    return 2 * 4 * math.prod(input_shapes[-3]) * value_shape[-1]
