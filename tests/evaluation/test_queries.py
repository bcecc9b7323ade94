"""Query statistics of scenes with known results."""

import numpy as np
import pytest
import torch

from dinor1.evaluation import QueryStatistics, query_statistics
from dinor1.models.losses import pad_targets

SIZE = (100, 200)  # height, width


def scene(gt, labels, queries, classes, num_classes=2):
    """``queries``: pixel xyxy boxes for each layer; ``classes``: class of each query for each layer."""
    targets = pad_targets([torch.tensor(gt).reshape(-1, 4)], [torch.eye(num_classes)[labels]], [SIZE])
    boxes = torch.tensor(queries)
    scale = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    centres = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1) / scale
    logits = torch.nn.functional.one_hot(torch.tensor(classes), num_classes) * 8.0 - 4
    return logits[:, None], centres[:, None], targets


BOX, FAR, SHIFTED = [10.0, 20, 50, 60], [150.0, 10, 190, 50], [14.0, 20, 54, 60]  # IoU of the last: 36 / 44


def test_query_statistics_of_no_object_are_empty():
    empty = query_statistics(*scene([], [], [[BOX, FAR]], [[0, 0]]))
    assert empty.summary() == dict(objects=0)
    assert empty.covering.shape == (1, 0)
    full = query_statistics(*scene([BOX], [0], [[BOX, FAR]], [[0, 0]]))
    assert QueryStatistics.concatenate([empty, full, empty]).summary() == full.summary()
    with pytest.raises(ValueError, match='at least one'):
        QueryStatistics.concatenate([])


def test_object_matched_to_different_queries():
    """In the first layer query 2 has the exact box, in the second query 0."""
    queries = [[SHIFTED, FAR, BOX], [BOX, FAR, SHIFTED]]
    result = query_statistics(*scene([BOX], [0], queries, [[0, 0, 0], [0, 0, 1]]))
    assert result.matched.tolist() == [[2], [0]]
    assert result.distinct.tolist() == [2]
    assert result.covering.tolist() == [[2], [2]]
    # In the second layer, query 2 covers the object but predicts another class.
    assert result.responding.tolist() == [[2], [1]]
    assert result.ever_responding.tolist() == [2]
    np.testing.assert_allclose(result.iou, 1, rtol=1e-6)
    # Two centres that are 4 pixels apart have a distance of 2 from their mean; the object has 40 x 40 pixels.
    np.testing.assert_allclose(result.spread, 2 / 40, rtol=1e-5)


def test_object_matched_to_one_query_and_object_without_covering_query():
    gt, queries = [BOX, [100.0, 70, 120, 90]], [[BOX, FAR], [BOX, FAR]]
    result = query_statistics(*scene(gt, [0, 1], queries, [[0, 1], [0, 1]]))
    assert result.distinct.tolist() == [1, 1]
    assert result.covering.tolist() == [[1, 0], [1, 0]]
    assert np.isnan(result.spread).all()
    assert result.iou[:, 1].tolist() == [0, 0]
    summary = result.summary()
    assert summary['spread'] == [None, None]
    assert summary['covering'] == [0.5, 0.5]
    assert summary['matched_place'] == [0.5, 0.5]


def test_objects_without_a_matched_query():
    result = query_statistics(*scene([BOX, FAR, SHIFTED], [0, 1, 0], [[BOX, FAR]], [[0, 1]]))
    # The third object has no query: its index is the number of queries, and its IoU is 0.
    assert result.matched.tolist() == [[0, 1, 2]]
    assert result.iou[0, 2] == 0


def test_queries_do_not_respond_with_classes_that_are_not_offered():
    logits, boxes, targets = scene([BOX], [0], [[BOX, FAR]], [[0, 1]])
    logits[..., 1] = float('-inf')
    result = query_statistics(logits, boxes, targets)
    assert result.matched.tolist() == [[0]]
    assert result.responding.tolist() == [[1]]


def test_permutation_of_queries_changes_only_their_indices():
    torch.manual_seed(3)
    targets = pad_targets([torch.tensor([BOX, FAR])], [torch.eye(2)], [SIZE])
    logits, boxes = torch.randn(3, 1, 12, 2), torch.rand(3, 1, 12, 4) * 0.3 + 0.2
    order = torch.randperm(12)
    plain, moved = (
        query_statistics(logits, boxes, targets),
        query_statistics(logits[:, :, order], boxes[:, :, order], targets),
    )
    assert np.array_equal(order.numpy()[moved.matched], plain.matched)
    for name in ('distinct', 'covering', 'responding', 'ever_responding'):
        assert np.array_equal(getattr(moved, name), getattr(plain, name))
