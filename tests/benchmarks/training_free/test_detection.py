"""Detection by similar proposals, compared with values computed by hand; nearest neighbour and its interval."""

import numpy as np
import pytest
import torch

from dinor1.benchmarks.training_free.detection import detect
from dinor1.benchmarks.training_free.nearest_neighbour import accuracy_interval, nearest_labels

BOXES = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [50, 0, 60, 10], [80, 0, 90, 40], [70, 50, 80, 60]], dtype=float)
# With prompts along the axes: similar to the first, more similar to it, to the second, to the first, to none.
FEATURES = torch.tensor([[4.0, 3], [1, 0], [0, 1], [1, 0], [-1, -1]])
PROMPTS = torch.eye(2)


def test_detect_with_prompts_from_other_images():
    """The second proposal suppresses the first one; proposals with equal scores keep their order."""
    found = detect(7, BOXES, FEATURES, PROMPTS, np.array([5, 3]))
    assert found.image.tolist() == [7] * 4
    assert found.label.tolist() == [5, 3, 5, 5]
    assert found.score.tolist() == pytest.approx([1, 1, 1, 0.5 - 0.125**0.5])
    assert found.box[0].tolist() == [2, 0, 10, 10]


def test_detect_with_exemplars_on_the_image():
    """Exemplars suppress proposals that overlap them; the tall proposal is too tall for an exemplar."""
    exemplars = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=float)
    found = detect(7, BOXES, FEATURES, PROMPTS, np.array([5, 3]), exemplars)
    rows = sorted(zip(found.label.tolist(), found.box[:, 0].tolist(), strict=True))
    assert rows == [(3, 20), (3, 50), (5, 0), (5, 70)]


def test_detect_without_prompts_or_proposals():
    none = np.zeros(0, dtype=np.int64)
    assert len(detect(7, BOXES, FEATURES, PROMPTS[:0], none)) == 0
    assert len(detect(7, BOXES[:0], FEATURES[:0], PROMPTS, np.array([5, 3]))) == 0
    assert len(detect(7, BOXES[:0], FEATURES[:0], PROMPTS, np.array([5, 3]), BOXES[2:4])) == 2


def test_nearest_labels_by_hand():
    gallery, labels = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]), np.array([4, 9, 2])
    assert nearest_labels(gallery, labels, torch.tensor([[0.8, 0.6], [1, 0], [-1, 0]])).tolist() == [2, 4, 9]


def test_accuracy_interval_samples_images():
    """The bootstrap samples images, not boxes: seven equal boxes per image give the interval of one box per image."""
    right = np.arange(100) % 2 == 0
    interval = accuracy_interval(right.repeat(7), np.arange(100).repeat(7), 2000)
    assert interval.value == 0.5
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * 0.05, rel=0.1)
    assert np.isnan(accuracy_interval(right[:0], right[:0]).value)
