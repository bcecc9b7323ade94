"""The stand-in for MMCV's compiled operators, compared with torchvision, closed forms and examples by hand.

The tests call the operators as users do, through ``mmcv.ops``.
"""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision

from dinor1.ops import ms_deform_attn
from dinor1.ops.mmcv_ext import make_stand_in
from dinor1.utils.compat import has_mmcv_operators

# If MMCV has compiled operators, the other tests of this file check them; tests with this mark need the stand-in.
stand_in_only = pytest.mark.skipif(has_mmcv_operators(), reason='MMCV has its compiled operators')


def make_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 20), dim=1)
    return boxes, torch.rand(count, generator=generator)


# nms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [0, 1, 100])
def test_nms_equals_torchvision(count):
    from mmcv.ops import nms

    boxes, scores = make_boxes(count)
    dets, kept = nms(boxes, scores, iou_threshold=0.4)
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, 0.4))
    assert torch.equal(dets, torch.cat((boxes[kept], scores[kept, None]), dim=1))


def test_nms_equals_an_example_by_hand():
    """Box 1 overlaps box 0 by 8 of 12 columns: IoU 2/3, and 9/13 when the last pixel counts (offset 1)."""
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.8, 0.9, 0.7])
    assert nms(boxes, scores, iou_threshold=0.66)[1].tolist() == [1, 2]
    assert nms(boxes, scores, iou_threshold=0.67)[1].tolist() == [1, 0, 2]
    assert nms(boxes, scores, iou_threshold=0.68, offset=1)[1].tolist() == [1, 2]
    assert nms(boxes, scores, iou_threshold=0.67, max_num=2)[1].tolist() == [1, 0]
    assert nms(boxes, scores, iou_threshold=0.67, score_threshold=0.75)[1].tolist() == [1, 0]


@stand_in_only
def test_nms_accepts_scores_in_half_precision():
    from mmcv.ops import nms

    boxes, scores = make_boxes(20)
    expected = torchvision.ops.nms(boxes, scores.bfloat16().float(), 0.4)
    assert torch.equal(nms(boxes, scores.bfloat16(), 0.4)[1], expected)


def test_batched_nms_separates_classes():
    from mmcv.ops import batched_nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    scores, labels = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0])
    assert batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))[1].tolist() == [1, 2]


@pytest.mark.parametrize(('method', 'factor'), [('naive', 0.0), ('linear', 0.5), ('gaussian', np.exp(-0.5))])
def test_soft_nms_decays_the_overlapping_box(method, factor):
    """Box 1 is the left half of box 0: IoU 1/2; with sigma 1/2 the Gaussian decay is exp(-IoU**2 / sigma)."""
    from mmcv.ops import soft_nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.3])
    dets, kept = soft_nms(boxes, scores, iou_threshold=0.4, sigma=0.5, min_score=1e-3, method=method)
    expected = {0: 0.9, 1: 0.8 * factor, 2: 0.3}
    expected = sorted((kv for kv in expected.items() if kv[1] >= 1e-3), key=lambda kv: -kv[1])
    assert kept.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in expected]).float())
    assert torch.equal(dets[:, :4], boxes[kept])


def test_soft_nms_of_no_boxes_is_empty():
    from mmcv.ops import soft_nms

    dets, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)


# roi_align -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('aligned', 'sampling_ratio'), [(True, 0), (True, 2), (False, 2)])
def test_roi_align_equals_torchvision(aligned, sampling_ratio):
    from mmcv.ops import RoIAlign

    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 12, 16, dtype=torch.float64, generator=generator)
    rois = torch.tensor([[0.0, 4, 4, 40, 30], [1, 0, 0, 64, 48], [1, 50, 40, 80, 60]], dtype=torch.float64)
    direction = torch.rand(3, 3, 4, 5, dtype=torch.float64, generator=generator)

    def forward_backward(function):
        leaf = features.clone().requires_grad_()
        output = function(leaf)
        return output, *torch.autograd.grad(output, leaf, direction)

    # Compare output and gradient.
    ours = forward_backward(lambda x: RoIAlign((4, 5), 0.25, sampling_ratio, 'avg', aligned)(x, rois))
    reference = forward_backward(lambda x: torchvision.ops.roi_align(x, rois, (4, 5), 0.25, sampling_ratio, aligned))
    for got, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@stand_in_only
def test_roi_align_rejects_max_pooling():
    from mmcv.ops import RoIAlign

    with pytest.raises(NotImplementedError, match="pool_mode='max' needs compiled operators.*use .*'avg'"):
        RoIAlign(2, pool_mode='max')(torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 4, 4]]))


# sigmoid focal loss (MMCV's own exists on GPU only) --------------------------------------------------------


@stand_in_only
@pytest.mark.parametrize(('dtype', 'atol'), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_sigmoid_focal_loss_equals_its_formula(dtype, atol, reduction):
    """Target 3 of three classes is background. ``mean`` divides by the number of rows, as in MMCV."""
    from mmcv.ops import SigmoidFocalLoss

    gamma, alpha = 1.5, 0.3
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(5, 3, dtype=torch.float64, generator=generator) * 3).to(dtype)
    target = torch.tensor([0, 1, 2, 3, 1])
    one_hot = torch.eye(4, dtype=torch.float64)[target, :3]

    exact = logits.double().requires_grad_()
    p = exact.sigmoid()
    loss = -alpha * one_hot * (1 - p) ** gamma * p.log()
    loss = loss - (1 - alpha) * (1 - one_hot) * p**gamma * (1 - p).log()
    loss = dict(none=loss, mean=loss.sum() / 5, sum=loss.sum())[reduction]
    (expected_grad,) = torch.autograd.grad(loss.sum(), exact)

    logits.requires_grad_()
    output = SigmoidFocalLoss(gamma, alpha, reduction=reduction)(logits, target)
    (grad,) = torch.autograd.grad(output.sum(), logits)
    assert output.dtype == grad.dtype == dtype
    # The sums are below 20, so that float32 rounds at 1e-6.
    torch.testing.assert_close(output.double(), loss, rtol=1e-6, atol=atol)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-6, atol=atol)


@stand_in_only
def test_sigmoid_focal_loss_rejects_class_weights():
    from mmcv.ops import SigmoidFocalLoss

    with pytest.raises(NotImplementedError, match='class weights needs compiled operators'):
        SigmoidFocalLoss(2.0, 0.25, weight=torch.ones(3))(torch.zeros(2, 3), torch.tensor([0, 1]))


# deformable attention --------------------------------------------------------------------------------------


@stand_in_only
def test_deformable_attention_function_equals_ours():
    """MMCV's code for GPUs, called on CPU tensors: its backward function gives the gradients of our operator."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    generator = torch.Generator().manual_seed(0)
    shapes, starts = torch.tensor([[4, 5], [2, 3]]), torch.tensor([0, 20])
    sizes = [(2, 26, 3, 4), (2, 7, 3, 2, 4, 2), (2, 7, 3, 2, 4)]
    leaves = [torch.rand(size, dtype=torch.float64, generator=generator).requires_grad_() for size in sizes]
    direction = torch.rand(2, 7, 12, dtype=torch.float64, generator=generator)

    output = MultiScaleDeformableAttnFunction.apply(leaves[0], shapes, starts, leaves[1], leaves[2], 64)
    expected = ms_deform_attn(leaves[0], shapes, starts, *leaves[1:])
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    grads = torch.autograd.grad(output, leaves, direction)
    for got, reference in zip(grads, torch.autograd.grad(expected, leaves, direction), strict=True):
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-12)


def test_deformable_attention_module_runs_and_learns():
    from mmcv.ops import MultiScaleDeformableAttention

    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(32, 4, 2, 2, dropout=0.0, batch_first=True)
    query = torch.rand(2, 26, 32)
    output = module(
        query,
        reference_points=torch.rand(2, 26, 2, 2),
        spatial_shapes=torch.tensor([[4, 5], [2, 3]]),
        level_start_index=torch.tensor([0, 20]),
    )
    output.sum().backward()
    assert output.shape == (2, 26, 32)
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert module.sampling_offsets.weight.grad.abs().sum() > 0


# module ----------------------------------------------------------------------------------------------------


@stand_in_only
def test_missing_operator_error_names_operator_reason_and_remedy():
    from mmcv.ops import DeformConv2d

    sentence = (
        "mmcv operator 'deform_conv_forward' needs compiled operators, and MMCV was installed without them; "
        'install a build of mmcv with operators for this torch and CUDA, or choose a model without this operator'
    )
    with pytest.raises(NotImplementedError) as error:
        DeformConv2d(1, 1, 3)(torch.zeros(1, 1, 8, 8), torch.zeros(1, 18, 6, 6))
    assert str(error.value) == sentence


@stand_in_only
def test_stand_in_can_be_inspected_as_a_module():
    """MMEngine reads the module's spec, MMCV its compiler; ``inspect`` reads dunder names of all modules."""
    from mmcv.utils import collect_env
    from mmengine.utils.dl_utils import mmcv_full_available

    assert mmcv_full_available()
    assert 'plain torch' in collect_env()['MMCV Compiler']
    assert inspect.getmodule(test_stand_in_can_be_inspected_as_a_module).__name__ == __name__
    assert not hasattr(sys.modules['mmcv._ext'], '__file__')


def test_stand_in_has_every_name_except_dunder_names():
    ext = make_stand_in()
    assert ext.__name__ == 'mmcv._ext'
    assert ext is not sys.modules.get('mmcv._ext')
    assert not hasattr(ext, '__file__')
    with pytest.raises(NotImplementedError, match="mmcv operator 'carafe_forward' needs compiled operators"):
        ext.carafe_forward(torch.zeros(1))


def test_stand_in_does_not_import_mmcv():
    code = 'import sys; from dinor1.ops import mmcv_ext; mmcv_ext.make_stand_in(); assert "mmcv" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)
