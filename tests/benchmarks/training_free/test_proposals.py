"""Proposals: coverage of sliding windows, and boxes of a result file."""

import json

import cv2
import numpy as np
import pytest

from dinor1.benchmarks.training_free.proposals import proposals_from, selective_search, sliding_windows
from dinor1.evaluation.box_matching import pairwise_iou
from dinor1.utils.errors import InputError


def xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)


@pytest.mark.parametrize('shape', [(240, 320, 3), (300, 80, 3), (7, 5, 3)])
def test_sliding_windows_cover_the_image(shape):
    windows = sliding_windows(np.zeros(shape, dtype=np.uint8))
    height, width = shape[:2]
    assert (windows[:, :2] > -1e-9).all()
    assert (windows[:, 2:] < [width + 1e-9, height + 1e-9]).all()
    assert (windows[:, 2:] > windows[:, :2]).all()
    np.testing.assert_allclose([windows.min(0)[:2], windows.max(0)[2:]], [[0, 0], [width, height]], atol=1e-9)
    assert 1000 < len(windows) < 8000


def test_sliding_windows_overlap_most_objects():
    """Of 300 boxes with sides of 0.1 to 0.5 of the image, 90 % have a window with an IoU of at least 0.5."""
    rng = np.random.default_rng(0)
    size = rng.uniform(0.1, 0.5, (300, 2)) * 320
    boxes = np.concatenate([rng.uniform(0, 1, (300, 2)) * (320 - size), size], 1)
    best = pairwise_iou(boxes, xywh(sliding_windows(np.zeros((320, 320, 3), dtype=np.uint8)))).max(1)
    assert (best >= 0.5).mean() > 0.9


def test_proposals_from_result_file(tmp_path):
    results = [
        dict(image_id=3, category_id=1, bbox=[1, 2, 10, 20], score=0.5),
        dict(image_id=3, category_id=2, bbox=[1, 2, 10, 20], score=0.4),
        dict(image_id=3, category_id=1, bbox=[5, 5, 1, 1], score=0.3),
    ]
    path = tmp_path / 'run.bbox.json'
    path.write_text(json.dumps(results))
    look_up = proposals_from(str(path))
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    assert look_up(image, 3).tolist() == [[1, 2, 11, 22], [5, 5, 6, 6]]
    assert look_up(image, 4).shape == (0, 4)
    path.write_text(json.dumps([dict(image_id=3)]))
    with pytest.raises(InputError, match='not COCO results'):
        proposals_from(str(path))


def test_proposals_from_name():
    assert proposals_from('windows') is sliding_windows
    with pytest.raises(InputError, match='expected windows, selective-search or a file of results'):
        proposals_from('everything')
    if hasattr(cv2, 'ximgproc'):
        image = np.zeros((60, 60, 3), dtype=np.uint8)
        image[10:30, 10:30] = 255
        assert pairwise_iou(np.array([[10, 10, 20, 20.0]]), xywh(selective_search(image))).max() > 0.5
    else:
        with pytest.raises(InputError, match='needs OpenCV with its extra modules'):
            selective_search(np.zeros((8, 8, 3), dtype=np.uint8))
