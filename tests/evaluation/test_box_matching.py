"""Matching of detections and boxes: curves of matches compared with pycocotools, and a case by hand."""

import copy

import numpy as np
import pytest

from dinor1.evaluation.bootstrap import weighted_ap
from dinor1.evaluation.box_matching import match_boxes, match_image, pairwise_iou
from dinor1.evaluation.coco_metric import coco_curves
from tests.evaluation.synthetic import as_detections, coco


def test_match_image_of_no_detections_is_empty():
    assert match_image(np.zeros((0, 4)), np.zeros((3, 4)), np.zeros(3, dtype=bool)).shape == (0, 10)
    assert (match_image(np.ones((2, 4)), np.zeros((0, 4)), np.zeros(0, dtype=bool)) == -1).all()
    content = dict(images=[dict(id=4)], annotations=[], categories=[])
    matches = match_boxes(content, as_detections([], [1]), np.array([1]))
    assert (matches.hit.shape, matches.positives.tolist()) == ((0, 10), [[0]])


def test_pairwise_iou_equals_hand_computation():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 1, 1], [3, 3, 0, 0]], dtype=float)
    crowd = np.array([False, True, False, False])
    expected = [[1, 0.5, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(pairwise_iou(np.array([[0, 0, 10, 10.0], [0, 50, 0, 0]]), boxes, crowd), expected)
    assert pairwise_iou(boxes[:1], boxes[1:2])[0, 0] == pytest.approx(1 / 3)


def test_match_image_equals_hand_computation():
    """Detections take free boxes in order of their scores; the crowd matches all others."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 100, 100]], dtype=float)
    crowd = np.array([False, False, True])
    found = match_image(boxes[[0, 0, 1, 1, 0]], boxes, crowd, np.array([0.5, 0.9]))
    # At 0.5, the second detection takes the second box (IoU 0.8); at 0.9, it matches the crowd.
    assert found.T.tolist() == [[0, 1, 2, 2, 2], [0, 2, 1, 2, 2]]


@pytest.mark.parametrize('seed', range(20))
def test_average_precision_equals_pycocotools(seed):
    """Cases have crowds, equal scores and, in every fourth case, more than 100 detections of a class."""
    rng = np.random.default_rng(seed)
    content, results = coco(rng, 7, 3, 8, 220 if seed % 4 == 0 else 25)
    for number, annotation in enumerate(content['annotations'], 1):
        annotation['id'] = number
    ids = [category['id'] for category in content['categories']]
    precision, _ = coco_curves(copy.deepcopy(content), copy.deepcopy(results), ids, 'pycocotools')
    matches = match_boxes(content, as_detections(results, ids), np.array(ids))
    ap = weighted_ap(matches, np.ones((1, 7), dtype=int))[0]
    expected = precision[..., 0, -1].mean(1).T[np.argsort(np.argsort(ids))]
    np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-12)
