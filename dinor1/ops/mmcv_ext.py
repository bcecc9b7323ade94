"""A stand-in for ``mmcv._ext``, the module of MMCV's compiled operators, in torch and torchvision.

MMCV looks up all its operators by name when ``mmcv.ops`` is imported. The stand-in has every name. The operators
that common detectors use are implemented, with the signatures of the compiled operators; any other operator raises an
error with one sentence when it is called. This module does not import MMCV;
:func:`dinor1.utils.compat.fill_mmcv_ext` installs the stand-in.
"""

import importlib.machinery
import types
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from dinor1.ops.ms_deform_attn import ms_deform_attn


def make_stand_in() -> types.ModuleType:
    """Make a module ``mmcv._ext``, without adding it to ``sys.modules``."""
    ext = types.ModuleType('mmcv._ext', 'Stand-in for the compiled operators of MMCV.')
    # Add a spec: MMEngine's mmcv_full_available() raises on a module without one.
    ext.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', loader=None)
    # Add the operators, and a fallback for all other names.
    for operator in OPERATORS:
        setattr(ext, operator.__name__, operator)
    setattr(ext, '__getattr__', _missing_operator)  # noqa: B010  (a type checker takes the attribute for a method)
    return ext


def _missing_operator(name: str) -> Callable:
    """``__getattr__`` of the stand-in: an operator that is not implemented is a function that raises an error."""
    if name.startswith('__'):  # the import system tests for these names, which must stay absent
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv operator '{name}' needs compiled operators, and MMCV was installed without them; install "
            'a build of mmcv with operators for this torch and CUDA, or choose a model without this operator'
        )

    return missing


def get_compiler_version() -> str:
    """The compiler of the operators, as MMCV reports it."""
    return 'none (operators in plain torch)'


def get_compiling_cuda_version() -> str:
    """The CUDA version that the operators were compiled with, as MMCV reports it."""
    return 'none (operators in plain torch)'


def multi_scale_deformable_attn_pytorch(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """:func:`dinor1.ops.ms_deform_attn` with the signature that MMCV's attention module calls on a CPU.

    It is not part of ``mmcv._ext``: it replaces the function of this name in ``mmcv.ops.multi_scale_deform_attn``.
    """
    shapes = value_spatial_shapes.tolist()
    starts = [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]
    return ms_deform_attn(value, shapes, starts, sampling_locations, attention_weights)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """:func:`dinor1.ops.ms_deform_attn`; ``im2col_step`` is ignored, it is a setting of the compiled operator."""
    return ms_deform_attn(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients in place."""
    # Run the forward pass again: MMCV keeps no graph of it.
    inputs = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn(inputs[0], value_spatial_shapes, value_level_start_index, inputs[1], inputs[2])
    # Compute the gradients, and copy them to the tensors of the caller.
    grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept ``(N, 4)`` xyxy boxes, best first; with ``offset`` 1, boxes include their last pixel."""
    # torchvision has no NMS in half precision on a CPU, and autocast may give the scores another dtype.
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    corner = boxes.new_tensor([0, 0, offset, offset], dtype=dtype)
    return torchvision.ops.nms(boxes.to(dtype) + corner, scores.to(dtype), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (https://arxiv.org/abs/1704.04503): fill ``dets (N, 5)`` with kept boxes and decayed scores.

    ``method`` is 0 for hard suppression, 1 for linear and 2 for Gaussian decay. Returns the kept indices.
    """
    # Keep the best remaining box until none is left.
    corner = boxes.new_tensor([0, 0, offset, offset])
    remaining, left_scores = torch.arange(len(boxes)), scores.clone()
    kept: list[Tensor] = []
    while len(remaining):
        best = left_scores.argmax()
        index = remaining[best]
        dets[len(kept)] = torch.cat((boxes[index], left_scores[best, None]))
        kept.append(index)
        # Decay the scores of boxes that overlap with it.
        others = torch.arange(len(remaining)) != best
        remaining, left_scores = remaining[others], left_scores[others]
        iou = torchvision.ops.box_iou(boxes[index, None] + corner, boxes[remaining] + corner)[0]
        if method == 2:
            left_scores = left_scores * torch.exp(-iou.square() / sigma)
        else:
            decay = 1 - iou if method == 1 else torch.zeros_like(iou)
            left_scores = torch.where(iou >= iou_threshold, left_scores * decay, left_scores)
        # Drop boxes whose score became too low.
        alive = left_scores >= min_score
        remaining, left_scores = remaining[alive], left_scores[alive]
    return torch.stack(kept) if kept else remaining


def _roi_align(
    features: Tensor,
    rois: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    if pool_mode != 1:
        raise NotImplementedError(
            "mmcv operator 'roi_align' with pool_mode='max' needs compiled operators, and MMCV was installed "
            "without them; use pool_mode='avg'"
        )
    size = (aligned_height, aligned_width)
    return torchvision.ops.roi_align(features, rois.to(features.dtype), size, spatial_scale, sampling_ratio, aligned)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options
) -> None:
    """Fill ``output (K, C, h, w)`` from ``input (B, C, H, W)`` and ``rois (K, 5)``: image index and xyxy box."""
    output.copy_(_roi_align(input, rois, **options))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options
) -> None:
    """Fill ``grad_input``, the gradient of the features."""
    # Use zeros as features: average pooling is linear, so that its gradient does not depend on them.
    features = torch.zeros_like(grad_input, requires_grad=True)
    with torch.enable_grad():
        output = _roi_align(features, rois, **options)
    grad_input.copy_(torch.autograd.grad(output, features, grad_output)[0])


def _sigmoid_focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss per element of ``input (N, C)`` logits; ``target (N,)`` outside [0, C) is background."""
    if weight.numel():
        raise NotImplementedError(
            "mmcv operator 'sigmoid_focal_loss' with class weights needs compiled operators, and MMCV was "
            'installed without them; weight the loss after the call'
        )
    one_hot = (target[:, None] == torch.arange(input.size(1), device=input.device)).to(input.dtype)
    return torchvision.ops.sigmoid_focal_loss(input, one_hot, alpha, gamma)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output (N, C)`` with the focal loss of every logit."""
    output.copy_(_sigmoid_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input (N, C)``, the gradient of the summed loss."""
    logits = input.detach().requires_grad_()
    with torch.enable_grad():
        loss = _sigmoid_focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(loss, logits)[0])


OPERATORS = (
    get_compiler_version,
    get_compiling_cuda_version,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    nms,
    roi_align_backward,
    roi_align_forward,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softnms,
)
