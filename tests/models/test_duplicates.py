"""Non-maximum suppression of detections, on boxes whose IoU is computed by hand."""

import copy

import pytest
import torch
from mmengine.structures import InstanceData

from dinor1.models.detectors.duplicates import DuplicateRemoval, duplicate_removal, remove_duplicates
from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError


def instances(boxes, scores, labels) -> InstanceData:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return InstanceData(bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor(labels, dtype=torch.long))


@pytest.fixture
def found() -> InstanceData:
    """Boxes A and B of one class with IoU 80 / 120 = 2/3, box C of another class equal to B, and a distant box D."""
    boxes = [[0, 0, 10, 10], [2, 0, 12, 10], [2, 0, 12, 10], [50, 50, 60, 60]]
    return instances(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 0])


def test_remove_duplicates_of_no_detection_is_empty():
    assert len(remove_duplicates(instances([], [], []), DuplicateRemoval())) == 0


@pytest.mark.parametrize(
    ('threshold', 'agnostic', 'kept'),
    [
        (0.65, False, [0.9, 0.7, 0.6]),  # B overlaps A
        (0.68, False, [0.9, 0.8, 0.7, 0.6]),
        (0.68, True, [0.9, 0.8, 0.6]),  # C equals B
        (0.65, True, [0.9, 0.6]),  # B and C overlap A
        (1, True, [0.9, 0.8, 0.7, 0.6]),  # off, even for equal boxes
    ],
)
def test_remove_duplicates_compares_iou_with_the_threshold(found, threshold, agnostic, kept):
    result = remove_duplicates(found, DuplicateRemoval(iou_threshold=threshold, class_agnostic=agnostic))
    torch.testing.assert_close(result.scores, torch.tensor(kept))


def test_remove_duplicates_without_settings_keeps_everything(found):
    assert len(remove_duplicates(found, None)) == 4


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(iou_thr=0.5), "unknown key 'iou_thr'; did you mean 'iou_threshold'"),
        (dict(iou_threshold=70), r'number in \[0, 1\], got 70'),
        (dict(iou_threshold=float('nan')), r'number in \[0, 1\]'),
        (dict(type='soft_nms'), "type must be 'nms'"),
        (dict(class_agnostic=1), 'must be True or False'),
    ],
)
def test_duplicate_removal_rejects_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        duplicate_removal(settings)


@torch.no_grad()
def test_detector_removes_duplicates_only_if_configured(build_tiny, make_batch):
    inputs, samples = make_batch((1, 1))
    prompts = PromptSet.from_classes(torch.randn(2, 32), ['a', 'b'])
    # Every query gives a box for both classes.
    nms = dict(type='nms', iou_threshold=0.7, class_agnostic=True)
    overrides = {'model.test_cfg.max_per_img': 24}
    plain = build_tiny(**overrides).eval()
    removing = build_tiny(**overrides, **{'model.test_cfg.nms': nms}).eval()
    settings, removed = DuplicateRemoval(**nms), 0
    for whole, reduced in zip(
        plain.predict(inputs, copy.deepcopy(samples), prompts), removing.predict(inputs, samples, prompts), strict=True
    ):
        expected = remove_duplicates(whole.pred_instances, settings)
        assert torch.equal(reduced.pred_instances.bboxes, expected.bboxes)
        assert reduced.pred_instances.label_names == [('a', 'b')[i] for i in expected.labels.tolist()]
        removed += len(whole.pred_instances) - len(expected)
    assert removed > 0
