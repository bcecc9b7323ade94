"""Entry points of multi-scale deformable attention, Deformable DETR (https://arxiv.org/abs/2010.04159), Eq. (3).

:func:`ms_deform_attn` takes locations and weights. :func:`ms_deform_attn_predicted` takes the outputs of the linear
layers of an attention module, and never writes locations and weights to memory. Both check their arguments, then call
a backend of :mod:`dinor1.ops.ms_deform_attn.backends`; all backends agree with
:mod:`dinor1.ops.ms_deform_attn.reference`.
"""

import torch
from torch import Tensor

from dinor1.ops.ms_deform_attn.backends import ms_deform_attn_backend, named_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn.checks import (
    LevelShapes,
    LevelStarts,
    check_prediction_shapes,
    check_sampling_shapes,
    check_tensors,
    checked_levels,
    level_tensors,
)
from dinor1.ops.ms_deform_attn.library import ms_deform_attn_op, ms_deform_attn_predicted_op
from dinor1.ops.ms_deform_attn.reference import ms_deform_attn_reference, sampling_from_offsets
from dinor1.utils.precision import compute_dtype


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: LevelShapes,
    level_start_index: LevelStarts,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    deterministic: bool | None = None,
) -> Tensor:
    """Weighted sum of bilinear samples of a feature pyramid, for every query and head.

    The value of a pixel is located at its centre, ``((x + 0.5) / W, (y + 0.5) / H)``; values outside a level are zero.
    Gradients flow to ``value``, ``sampling_locations`` and ``attention_weights``. A location that is NaN or infinite
    reads nothing out of bounds; it makes the output of its own query and head NaN (except with the backend
    ``reference`` on CUDA, where torch's ``grid_sample`` treats such a location as outside of the level).

    Half-precision input is sampled in float32, since 8 bits cannot address a pixel. On a CPU, result and gradients are
    deterministic. On CUDA, the gradient of ``value`` is summed by atomic additions unless ``deterministic`` is True.

    Args:
        value: Features, ``(B, N, H, D)``: by level, within a level row by row, ``H`` heads of ``D`` channels.
        spatial_shapes: ``(L, 2)``, (height, width) of each level. Numbers on a GPU are not checked, since the host
            would have to wait; wrong numbers give wrong results, but no access out of bounds.
        level_start_index: ``(L,)``, index in ``N`` where each level begins.
        sampling_locations: ``(B, Q, H, L, P, 2)``, (x, y) as fractions of the level: [0, 1] is the image.
        attention_weights: ``(B, Q, H, L, P)``, usually with sum 1 over levels and points.
        deterministic: Whether gradients must be bitwise reproducible. Default: the setting of
            :func:`torch.use_deterministic_algorithms`.

    Returns:
        ``(B, Q, H * D)`` in the dtype of ``value``.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or the named backend cannot run.
    """
    # Check the arguments.
    check_tensors(
        value, sampling_locations=(sampling_locations, 'BQHLP2'), attention_weights=(attention_weights, 'BQHLP')
    )
    shapes, starts = level_tensors(value, spatial_shapes, level_start_index)
    check_sampling_shapes(value, len(shapes), sampling_locations, attention_weights)
    # Call the reference directly, so that autograd differentiates it, or one of the operators.
    named = named_ms_deform_attn_backend()
    if ms_deform_attn_backend(value.device, attention_weights.numel(), named) == 'reference':
        levels = checked_levels(spatial_shapes, level_start_index, value.shape[1])
        return ms_deform_attn_reference(value, levels, sampling_locations, attention_weights)
    return ms_deform_attn_op(
        value, shapes, starts, sampling_locations, attention_weights, _is_deterministic(deterministic), named
    )


def ms_deform_attn_predicted(
    value: Tensor,
    spatial_shapes: LevelShapes,
    level_start_index: LevelStarts,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    deterministic: bool | None = None,
) -> Tensor:
    """:func:`ms_deform_attn` from the predictions of an attention module; computes softmax and locations itself.

    ``attention_weights`` are the softmax of ``attention_logits`` over levels and points. For a reference point,
    ``sampling_locations`` are the point plus offsets in pixels of each level; for a box, they are its centre plus
    offsets in units of 1 / ``P`` of the distance from the centre to the border.

    Args:
        value: Features, ``(B, N, H, D)``.
        spatial_shapes: ``(L, 2)``, (height, width) of each level.
        level_start_index: ``(L,)``, index in ``N`` where each level begins.
        reference_points: ``(B, Q, L, 2)`` points (x, y) or ``(B, Q, L, 4)`` boxes cxcywh, as fractions of the level.
            They may be in single precision if the predictions are in half precision.
        sampling_offsets: ``(B, Q, H, L, P, 2)``.
        attention_logits: ``(B, Q, H, L, P)``.
        deterministic: As in :func:`ms_deform_attn`.

    Returns:
        ``(B, Q, H * D)`` in the dtype of ``value``.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or the named backend cannot run.
    """
    # Check the arguments.
    check_tensors(
        value,
        reference_points=(reference_points, ('B', 'Q', 'L', '2 or 4')),
        sampling_offsets=(sampling_offsets, 'BQHLP2'),
        attention_logits=(attention_logits, 'BQHLP'),
    )
    shapes, starts = level_tensors(value, spatial_shapes, level_start_index)
    check_prediction_shapes(value, len(shapes), reference_points, sampling_offsets, attention_logits)
    # Call the reference directly, so that autograd differentiates it, or one of the operators.
    inputs = (reference_points, sampling_offsets, attention_logits)
    named = named_ms_deform_attn_backend()
    if ms_deform_attn_backend(value.device, attention_logits.numel(), named) == 'reference':
        levels = checked_levels(spatial_shapes, level_start_index, value.shape[1])
        locations, weights = sampling_from_offsets(levels, *inputs, dtype=compute_dtype(value, *inputs))
        return ms_deform_attn_reference(value, levels, locations, weights)
    return ms_deform_attn_predicted_op(value, shapes, starts, *inputs, _is_deterministic(deterministic), named)


def _is_deterministic(wanted: bool | None) -> bool:
    return torch.are_deterministic_algorithms_enabled() if wanted is None else wanted
