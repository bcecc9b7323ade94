"""Gaps of third parties, filled when this module is imported: one function per gap, called by :func:`apply`.

Each function says what is missing, since when, and when it can go; where nothing is missing it does nothing.
This is the only module of the package whose import has side effects.
"""

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import io
import sys
import types
from collections.abc import Callable, Iterator

import mmcv
import numpy as np
import torch
import torchvision
from torch import Tensor

from dinor1.ops import ms_deform_attn


def apply() -> None:
    """Fill every gap. Idempotent."""
    fill_mmcv_ext()
    fill_tokenizer_batch_encode_plus()
    fill_lvis_numpy_float()
    silence_onedl_message()
    fill_bert_pairwise_mask()
    trust_one_cycle_scheduler()


# -----------------------------------------------------------------------------------------------------------
# mmcv: compiled operators


def fill_mmcv_ext() -> None:
    """Put a stand-in at ``mmcv._ext`` where MMCV came without its compiled operators.

    What: ``mmcv.ops``, and with it every MMDetection model, does not even import without the extension,
    because MMCV looks up all its operators at import. The stand-in has every name: the operators that common
    detectors use compute in torch and torchvision, the others raise one sentence when called. MMCV's own
    form of deformable attention on CPU gives way to :func:`dinor1.ops.ms_deform_attn`, which has the same
    result, is faster and checks its input.
    Since: always, for a plain ``pip install``; a build with operators exists only for some torch releases.
    Goes: when MMCV looks up its operators where they are called.
    """
    if importlib.util.find_spec('mmcv._ext') is not None:
        return
    ext = types.ModuleType('mmcv._ext', 'Stand-in for the compiled operators of MMCV.')
    # MMEngine's mmcv_full_available() asks for the module's spec, and raises on a module that has none.
    ext.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', loader=None)
    for operator in _OPERATORS:
        setattr(ext, operator.__name__.removeprefix('_'), operator)
    ext.__getattr__ = _missing_operator
    sys.modules['mmcv._ext'] = ext
    mmcv._ext = ext

    from mmcv.ops import multi_scale_deform_attn

    multi_scale_deform_attn.multi_scale_deformable_attn_pytorch = functools.update_wrapper(
        _multi_scale_deformable_attn_pytorch, multi_scale_deform_attn.multi_scale_deformable_attn_pytorch
    )


@contextlib.contextmanager
def mmcv_attention() -> Iterator[None]:
    """Within this block, MMCV's attention module computes on a CPU in MMCV's own form, to be compared with."""
    from mmcv.ops import multi_scale_deform_attn as module

    ours = module.multi_scale_deformable_attn_pytorch
    module.multi_scale_deformable_attn_pytorch = getattr(ours, '__wrapped__', ours)
    try:
        yield
    finally:
        module.multi_scale_deformable_attn_pytorch = ours


def has_mmcv_operators() -> bool:
    """Whether MMCV came with its compiled operators."""
    spec = importlib.util.find_spec('mmcv._ext')
    # The stand-in has a specification, too, but was not loaded from anywhere.
    return spec is not None and spec.loader is not None


def _missing_operator(name: str) -> Callable:
    """``__getattr__`` of the stand-in: any operator that it lacks is a function that says so."""
    if name.startswith('__'):  # what the import system probes for must stay absent
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv operator '{name}' needs compiled operators, and MMCV was installed without them; install "
            'a build of mmcv with operators for this torch and CUDA, or choose a model that does not use it'
        )

    return missing


def _get_compiler_version() -> str:
    return 'none (operators in plain torch)'


def _get_compiling_cuda_version() -> str:
    return 'none (operators in plain torch)'


def _multi_scale_deformable_attn_pytorch(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """:func:`dinor1.ops.ms_deform_attn` under the signature that MMCV's attention module calls on CPU."""
    shapes = value_spatial_shapes.tolist()
    return ms_deform_attn(value, shapes, _level_starts(shapes), sampling_locations, attention_weights)


def _level_starts(shapes: list[list[int]]) -> list[int]:
    return [sum(height * width for height, width in shapes[:level]) for level in range(len(shapes))]


def _ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    return ms_deform_attn(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights)


def _ms_deform_attn_backward(
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
    """Fill the three gradients in place; MMCV keeps no graph from the forward pass, so it is built anew."""
    inputs = [t.detach().requires_grad_() for t in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn(inputs[0], value_spatial_shapes, value_level_start_index, inputs[1], inputs[2])
    grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept ``(N, 4)`` xyxy boxes, best first; ``offset`` 1 counts the last pixel in."""
    # On CPU torchvision has no NMS in half precision; scores may come out of autocast in another dtype.
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    corner = boxes.new_tensor([0, 0, offset, offset], dtype=dtype)
    return torchvision.ops.nms(boxes.to(dtype) + corner, scores.to(dtype), iou_threshold)


def _softnms(
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
    corner = boxes.new_tensor([0, 0, offset, offset])
    remaining, left_scores = torch.arange(len(boxes)), scores.clone()
    kept = []
    while len(remaining):
        best = left_scores.argmax()
        index = remaining[best]
        dets[len(kept)] = torch.cat((boxes[index], left_scores[best, None]))
        kept.append(index)
        others = torch.arange(len(remaining)) != best
        remaining, left_scores = remaining[others], left_scores[others]
        iou = torchvision.ops.box_iou(boxes[index, None] + corner, boxes[remaining] + corner)[0]
        if method == 2:
            left_scores = left_scores * torch.exp(-iou.square() / sigma)
        else:
            decay = 1 - iou if method == 1 else torch.zeros_like(iou)
            left_scores = torch.where(iou >= iou_threshold, left_scores * decay, left_scores)
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


def _roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options
) -> None:
    output.copy_(_roi_align(input, rois, **options))


def _roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options
) -> None:
    # Average pooling is linear in the features, so its gradient is the same at any features: zeros do.
    features = torch.zeros_like(grad_input, requires_grad=True)
    with torch.enable_grad():
        output = _roi_align(features, rois, **options)
    grad_input.copy_(torch.autograd.grad(output, features, grad_output)[0])


def _sigmoid_focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss per element of ``input (N, C)`` logits; ``target (N,)`` outside [0, C) is background."""
    if weight.numel():
        raise NotImplementedError(
            "mmcv operator 'sigmoid_focal_loss' with class weights needs compiled operators, and MMCV was "
            'installed without them; weigh the loss after the call'
        )
    one_hot = (target[:, None] == torch.arange(input.size(1), device=input.device)).to(input.dtype)
    return torchvision.ops.sigmoid_focal_loss(input, one_hot, alpha, gamma)


def _sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    output.copy_(_sigmoid_focal_loss(input, target, weight, gamma, alpha))


def _sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    logits = input.detach().requires_grad_()
    with torch.enable_grad():
        loss = _sigmoid_focal_loss(logits, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(loss, logits)[0])


_OPERATORS = (
    _get_compiler_version,
    _get_compiling_cuda_version,
    _ms_deform_attn_backward,
    _ms_deform_attn_forward,
    _nms,
    _roi_align_backward,
    _roi_align_forward,
    _sigmoid_focal_loss_backward,
    _sigmoid_focal_loss_forward,
    _softnms,
)


# -----------------------------------------------------------------------------------------------------------
# transformers


def fill_tokenizer_batch_encode_plus() -> None:
    """Give Hugging Face tokenizers back ``batch_encode_plus``, which MMDetection's ``BertModel`` calls.

    What: the method was a synonym of calling the tokenizer on a list of texts. MMEngine imports transformers
    with its optimizers in any case, so that importing it here costs nothing more.
    Since: transformers 5.0.
    Goes: when MMDetection calls the tokenizer itself.
    """
    from transformers import PreTrainedTokenizerBase

    if hasattr(PreTrainedTokenizerBase, 'batch_encode_plus'):
        return

    def batch_encode_plus(self, batch_text_or_text_pairs, **kwargs):
        return self(batch_text_or_text_pairs, **kwargs)

    PreTrainedTokenizerBase.batch_encode_plus = batch_encode_plus


# -----------------------------------------------------------------------------------------------------------
# lvis


def fill_lvis_numpy_float() -> None:
    """Let ``lvis.eval`` find ``np.float``, which NumPy no longer has.

    What: ``LVISEval.accumulate`` casts to ``np.float``. Its module gets a copy of NumPy's namespace that has
    the name, while NumPy itself stays as it is for everybody else.
    Since: NumPy 1.24, with lvis up to 0.5.3.
    Goes: when lvis writes ``float``.
    """
    if 'float' in vars(np):
        return
    import lvis.eval

    namespace = types.ModuleType('numpy', 'NumPy with the names that lvis needs.')
    vars(namespace).update(vars(np), float=float)
    lvis.eval.np = namespace


# -----------------------------------------------------------------------------------------------------------
# mmdet


def silence_onedl_message() -> None:
    """Import ``mmdet.datasets`` once without its two lines "Could not import OneDL" on standard output.

    What: MMDetection logs at debug level, but without a logger, which prints whatever the level; every
    command of ours would start with it, and one that prints JSON would not print JSON.
    Since: onedl-mmdetection 3.4.5 or earlier, where the optional package ``onedl`` is not installed.
    Goes: when MMDetection gives the message a logger.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module('mmdet.datasets')


def fill_bert_pairwise_mask() -> None:
    """Let MMDetection's ``BertModel`` keep the phrases of a caption apart (``use_sub_sentence_represent``).

    What: for Grounding DINO it hands Hugging Face's BERT a mask of token pairs, (bs, num_tokens, num_tokens).
    BERT now takes either a mask of tokens, (bs, num_tokens), or an additive one that has an axis for heads.
    Since: transformers 5.0.
    Goes: when MMDetection passes four axes.
    """
    import transformers
    from mmdet.models.language_models.bert import BertEncoder

    if int(transformers.__version__.split('.')[0]) < 5 or hasattr(BertEncoder.forward, '__wrapped__'):
        return
    forward = BertEncoder.forward

    @functools.wraps(forward)
    def forward_with_heads_axis(self, x: dict) -> dict:
        mask = x['attention_mask']
        if mask.dim() != 3:
            return forward(self, x)
        dtype = next(self.parameters()).dtype
        additive = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask.bool(), torch.finfo(dtype).min)
        results = forward(self, dict(x, attention_mask=additive[:, None]))
        results['masks'] = mask  # the detector's own text layers go on with the mask of pairs
        return results

    BertEncoder.forward = forward_with_heads_axis


# -----------------------------------------------------------------------------------------------------------
# mmengine


def trust_one_cycle_scheduler() -> None:
    """Let checkpoints of one-cycle runs load in torch's safe mode.

    What: such a checkpoint holds a class of MMEngine's that is missing in MMEngine's own list of what a checkpoint may
    hold; loading it printed a page of warnings and went on in the unsafe mode.
    Since: torch 2.6, whose default is the safe mode.
    Goes: when MMEngine lists the class.
    """
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    torch.serialization.add_safe_globals([OneCycleParamScheduler])
