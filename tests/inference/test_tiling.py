"""Tiles: their positions, the rules at the seams on boxes by hand, and an image with 2,000 objects."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.tiling import View, detect_views, image_views, merge_views
from dinor1.utils.errors import InputError
from tests.model_files import random_image

NUM_QUERIES = 100


def instances(boxes, scores=None, labels=None) -> InstanceData:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.ones(len(boxes)) if scores is None else torch.tensor(scores)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.tensor(labels)
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)


def coloured_objects(images) -> list[InstanceData]:
    """Detect the bright regions of each image exactly, but at most NUM_QUERIES of them."""
    found = []
    for image in images:
        _, _, stats, _ = cv2.connectedComponentsWithStats((image[..., 0] > 127).astype(np.uint8), connectivity=4)
        x, y, w, h = stats[1 : NUM_QUERIES + 1, :4].T
        found.append(instances(np.stack([x, y, x + w, y + h], 1).tolist()))
    return found


def dense_image(columns: int, rows: int, pitch: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image with an object in every cell of a grid, of random size and position; and the boxes."""
    rng = np.random.default_rng(seed)
    image, boxes = np.zeros((rows * pitch, columns * pitch, 3), np.uint8), []
    for row in range(rows):
        for column in range(columns):
            w, h = rng.integers(12, pitch - 8, 2)
            x, y = column * pitch + rng.integers(1, pitch - w), row * pitch + rng.integers(1, pitch - h)
            image[y : y + h, x : x + w] = 255
            boxes.append([x, y, x + w, y + h])
    return image, np.array(boxes)


def test_views_of_an_image_not_larger_than_a_tile_are_the_image():
    assert image_views(640, 480, 640, 0.2) == [View(0, 0, 640, 480)]


def test_views_cover_the_image_with_the_required_overlap():
    assert image_views(250, 100, 100, 0.5)[1:] == [
        View(0, 0, 100, 100),
        View(50, 0, 150, 100),
        View(100, 0, 200, 100),
        View(150, 0, 250, 100),
    ]
    for width, overlap in ((1001, 0.2), (641, 0.0), (3000, 0.33)):
        whole, *tiles = image_views(width, 300, 640, overlap)
        assert whole == View(0, 0, width, 300)
        assert (tiles[0].x1, tiles[-1].x2) == (0, width)
        for left, right in zip(tiles[:-1], tiles[1:], strict=True):
            assert left.x2 - right.x1 >= overlap * 640 - 1  # rounding to pixels
            assert right.x2 - right.x1 == 640


@pytest.mark.parametrize(
    ('tile', 'overlap', 'message'),
    [
        (16, 0.2, 'at least 32 pixels, got 16'),
        (640.0, 0.2, 'tile must be an integer'),
        (640, 1, r'overlap must be a number in \[0, 0.9\]'),
        (640, 20, r'overlap must be a number in \[0, 0.9\]'),
        (640, float('nan'), r'overlap must be a number in \[0, 0.9\]'),
    ],
)
def test_views_reject_bad_tiles(tile, overlap, message):
    with pytest.raises(InputError, match=message):
        image_views(1000, 1000, tile, overlap)


# Two tiles that overlap by 20 pixels.
VIEWS = [View(0, 0, 180, 100), View(0, 0, 100, 100), View(80, 0, 180, 100)]


def test_merge_of_no_detection_is_empty():
    assert len(merge_views([instances([])] * 3, VIEWS)) == 0


def test_merge_keeps_the_better_of_equal_objects():
    left, right = instances([[84, 10, 97, 30]], [0.6]), instances([[84, 10, 97, 31]], [0.7])
    merged = merge_views([instances([]), left, right], VIEWS)
    assert merged.bboxes.tolist() == [[84, 10, 97, 31]]


def test_merge_drops_cut_boxes_if_a_view_shows_the_whole_object():
    # The left tile sees the left quarter of an object, with a better score than the right tile, which sees it whole.
    left, right = instances([[90, 10, 100, 30]], [0.9]), instances([[90, 10, 130, 30]], [0.6])
    assert merge_views([instances([]), left, right], VIEWS).bboxes.tolist() == [[90, 10, 130, 30]]
    # Its part is kept if it is of another class, or if the whole is not detected.
    other = instances([[90, 10, 130, 30]], [0.6], [1])
    assert len(merge_views([instances([]), left, other], VIEWS)) == 2
    assert len(merge_views([instances([]), left, instances([])], VIEWS)) == 1


def test_merge_takes_objects_longer_than_the_overlap_from_the_whole_image():
    parts = instances([[20, 10, 100, 30]], [0.9]), instances([[80, 10, 160, 30]], [0.9])
    merged = merge_views([instances([[20, 10, 160, 30]], [0.5]), *parts], VIEWS)
    assert merged.bboxes.tolist() == [[20, 10, 160, 30]]


def test_merge_does_not_take_an_edge_of_the_image_for_a_cut():
    # A small object inside of a larger one, at the left edge of the image.
    left = instances([[0, 10, 60, 50], [0, 20, 10, 30]], [0.9, 0.8])
    assert len(merge_views([instances([]), left, instances([])], VIEWS)) == 2


def test_detect_views_finds_2000_objects_once():
    image, boxes = dense_image(columns=50, rows=40, pitch=48)
    assert len(boxes) == 2000
    found = detect_views(image, coloured_objects, tile=320, overlap=0.2).bboxes.numpy()
    assert sorted(found.tolist()) == sorted(boxes.astype(float).tolist())
    # On the whole image alone, the detector finds as many as it has queries.
    assert len(detect_views(image, coloured_objects, tile=4000)) == NUM_QUERIES


def test_detect_views_with_flip_joins_the_image_and_its_mirror():
    # A detector that finds only the leftmost object of what it sees.
    def leftmost(images):
        return [found[found.bboxes[:, 0] == found.bboxes[:, :1].min()] for found in coloured_objects(images)]

    image = np.zeros((40, 100, 3), np.uint8)
    image[5:20, 10:30] = image[10:30, 60:95] = 255
    assert detect_views(image, leftmost, None).bboxes.tolist() == [[10, 5, 30, 20]]
    found = detect_views(image, leftmost, None, flip=True).bboxes.tolist()
    assert sorted(found) == [[10, 5, 30, 20], [60, 10, 95, 30]]
    # What both find remains once.
    assert sorted(detect_views(image, coloured_objects, None, flip=True).bboxes.tolist()) == sorted(found)


def test_detect_views_with_flip_and_tiles_finds_2000_objects_once():
    image, boxes = dense_image(columns=50, rows=40, pitch=48)
    found = detect_views(image, coloured_objects, tile=320, overlap=0.2, flip=True).bboxes.numpy()
    assert sorted(found.tolist()) == sorted(boxes.astype(float).tolist())


@pytest.fixture(scope='module')
def inferencer(model_files):
    inferencer = DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')
    inferencer.set_prompts(visual=[(random_image(60, 80), [[5, 5, 30, 40], [40, 10, 70, 50]], ['cat', 'dog'])])
    return inferencer


def test_predict_with_tiles_merges_the_detections_of_its_crops(inferencer, tmp_path):
    image = random_image(90, 160)
    cv2.imwrite(str(tmp_path / 'wide.png'), image)
    # One tile more than the width of the image needs without overlap: 90 x 90 at 0, 35 and 70.
    views = image_views(160, 90, 90, 0.5)
    assert len(views) == 4
    found = []
    for view in views:
        (sample,) = inferencer.predict(image[view.y1 : view.y2, view.x1 : view.x2].copy(), 1, score_thr=0.01)
        sample.pred_instances.bboxes += torch.tensor([view.x1, view.y1, view.x1, view.y1])
        found.append(sample.pred_instances)
    expected = merge_views(found, views)
    (sample,) = inferencer.predict(tmp_path / 'wide.png', 1, score_thr=0.01, tile=90, overlap=0.5)
    assert len(found[0]) < len(expected) <= sum(map(len, found))
    torch.testing.assert_close(sample.pred_instances.bboxes, expected.bboxes)
    assert sample.pred_instances.label_names == expected.label_names
    assert (sample.img_path, sample.ori_shape) == (str(tmp_path / 'wide.png'), (90, 160))
    best = max(float(part.scores.max()) for part in found)
    assert max(sample.best_scores.values()) == pytest.approx(best)


def test_predict_with_tiles_of_a_small_image_equals_predict(inferencer):
    image = random_image(60, 80)
    (tiled,), (plain,) = (inferencer.predict(image, score_thr=0.01, **o) for o in (dict(tile=640), dict()))
    kept = merge_views([plain.pred_instances], [View(0, 0, 80, 60)])
    assert torch.equal(tiled.pred_instances.bboxes, kept.bboxes)
    with pytest.raises(InputError, match='tile must be an integer'):
        inferencer.predict([], tile=0)


def test_predict_with_flip_merges_both_images(inferencer, tmp_path):
    image = random_image(60, 80)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    found = []
    for pixels in (image, np.ascontiguousarray(image[:, ::-1])):
        (sample,) = inferencer.predict(pixels, 1, score_thr=0.01)
        found.append(sample.pred_instances)
    x1, y1, x2, y2 = found[1].bboxes.T
    found[1].bboxes = torch.stack([80 - x2, y1, 80 - x1, y2], 1)
    expected = merge_views(found, [View(0, 0, 80, 60)] * 2)
    (sample,) = inferencer.predict(tmp_path / 'a.png', score_thr=0.01, flip=True)
    torch.testing.assert_close(sample.pred_instances.bboxes, expected.bboxes)
    assert sample.pred_instances.label_names == expected.label_names
    assert sample.img_path == str(tmp_path / 'a.png')
    assert len(expected) > len(found[0])
    with pytest.raises(InputError, match='flip must be True or False'):
        inferencer.predict([], flip=1)
