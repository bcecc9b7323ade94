"""Means of feature maps over boxes compared with sums over sub-cells, and a backbone with known features."""

import numpy as np
import pytest
import torch

from dinor1.benchmarks.training_free.frozen_features import FrozenFeatures, mean_over_boxes
from dinor1.utils.errors import InputError
from tests.benchmarks.training_free import block_means  # noqa: F401, registers a backbone


def test_mean_over_boxes_equals_sum_over_subcells():
    """Every cell is divided into 10 x 10 sub-cells, which are inside or outside a box."""
    level = torch.randn(3, 5, 7)
    boxes = torch.tensor([[0, 0, 7, 5], [1.2, 0.5, 3.9, 4.1], [2.1, 2.2, 2.4, 2.9], [-3, 4, 2, 9], [6.9, 4.9, 7, 5]])
    fine = level.repeat_interleave(10, 1).repeat_interleave(10, 2)
    expected = []
    for x1, y1, x2, y2 in (boxes * 10).round().long().tolist():
        expected.append(fine[:, max(y1, 0) : min(y2, 50), max(x1, 0) : min(x2, 70)].mean((1, 2)))
    torch.testing.assert_close(mean_over_boxes(level, boxes), torch.stack(expected), atol=1e-5, rtol=0)


def test_mean_over_boxes_without_area_is_that_of_the_cell():
    level = torch.randn(2, 4, 4)
    points = torch.tensor([[1.5, 2.5, 1.5, 2.5], [4.0, 4, 4, 4], [9, 9, 12, 12], [-5, -5, -1, -1]])
    expected = torch.stack([level[:, 2, 1], level[:, 3, 3], level[:, 3, 3], level[:, 0, 0]])
    torch.testing.assert_close(mean_over_boxes(level, points), expected, atol=1e-4, rtol=0)
    assert mean_over_boxes(level, torch.zeros(0, 4)).shape == (0, 2)


@pytest.fixture
def features() -> FrozenFeatures:
    return FrozenFeatures(dict(type='BlockMeans'), longer_side=128, crop_size=32)


@pytest.mark.parametrize('size', [(64, 128), (128, 100), (30, 256)])
def test_frozen_features_of_equal_objects_are_equal(features, size):
    """Two red squares and a blue one, on images that are enlarged, reduced and padded."""
    image = np.full((*size, 3), 127, dtype=np.uint8)
    unit = min(size) // 5
    boxes = np.array([[i * unit, unit, (i + 1) * unit, 3 * unit] for i in (0, 2, 4)], dtype=float)
    for (x1, y1, x2, y2), colour in zip(boxes.astype(int), ((0, 0, 255), (0, 0, 255), (255, 0, 0)), strict=True):
        image[y1:y2, x1:x2] = colour
    for vectors in (features.boxes(image, boxes), features.crops(image, boxes)):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
        similarity = vectors @ vectors.t()
        assert similarity[0, 1] > 0.95
        assert similarity[0, 2] < 0.5
    assert features.boxes(image, np.zeros((0, 4))).shape == (0, 6)


def test_frozen_features_of_boxes_beyond_the_image(features):
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    boxes = np.array([[-10, -10, 500, 500], [59.5, 39.5, 60, 40], [70, 70, 80, 80]], dtype=float)
    assert features.crops(image, boxes).shape == (3, 3)
    assert torch.isfinite(features.boxes(image, boxes)).all()


def test_frozen_features_rejects_zero_length():
    with pytest.raises(InputError, match='lengths must be positive, got 0 and 128'):
        FrozenFeatures(dict(type='BlockMeans'), longer_side=0)
