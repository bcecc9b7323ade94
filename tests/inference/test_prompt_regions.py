"""Points and masks as prompts: the boxes that they become, by hand."""

import numpy as np
import pytest
import torch

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.inference.prompt_regions import as_regions, region_boxes
from dinor1.utils.errors import InputError
from tests.model_files import random_image

SIZE = (200, 400)  # height, width


def boxes(regions, size=SIZE):
    return region_boxes(as_regions(regions, 'a.jpg'), size, 'a.jpg').tolist()


def mask(y1, y2, x1, x2):
    filled = np.zeros(SIZE, dtype=bool)
    filled[y1:y2, x1:x2] = True
    return filled


def test_regions_reject_an_empty_list():
    for nothing in ([], np.zeros((0, 4)), np.zeros((0, *SIZE), dtype=bool)):
        with pytest.raises(InputError, match=r'a.jpg: expected .*at least one'):
            as_regions(nothing, 'a.jpg')


def test_region_boxes_of_boxes_are_the_boxes():
    assert boxes([[10, 20, 30, 40]]) == boxes([10, 20, 30, 40]) == [[10, 20, 30, 40]]


def test_region_boxes_of_points_are_squares_of_a_twentieth_of_the_shorter_side():
    assert boxes([[100, 50], [300, 60]]) == [[95, 45, 105, 55], [295, 55, 305, 65]]
    assert boxes(torch.tensor([1.0, 50.0])) == [[0, 45, 6, 55]]  # clipped
    assert boxes([5, 5], (10, 10)) == [[4, 4, 6, 6]]  # at least two pixels


def test_region_boxes_of_masks_contain_all_their_pixels():
    both = np.stack([mask(10, 30, 5, 25), mask(0, 200, 399, 400)])
    both[0, 100, 50] = True
    assert boxes(both) == [[5, 10, 51, 101], [399, 0, 400, 200]]
    assert boxes(torch.from_numpy(both[0])) == [[5, 10, 51, 101]]


@pytest.mark.parametrize(
    ('regions', 'message'),
    [
        ([401, 5], r'point \(401, 5\) leaves the image of 400 x 200 pixels'),
        ([5, float('nan')], 'not two finite numbers'),
        ([0.3, 0.4], r'points are pixels x,y, and both numbers of point \(0.3, 0.4\) are at most 1; multiply'),
        ([[100, 50], [0, 1]], r'both numbers of point \(0, 1\) are at most 1'),
        ([5, True], 'not four numbers'),
        ([[True, True]], 'not four numbers'),
        ([1, 2, 3], 'at least one box of four numbers'),
        ([[1, 2], [1, 2, 3, 4]], 'not four numbers'),
        (np.zeros(SIZE, dtype=bool), 'mask 0 is empty'),
        (np.ones((20, 10), dtype=bool), 'masks of 10 x 20 pixels on an image of 400 x 200'),
    ],
)
def test_regions_reject_bad_input(regions, message):
    with pytest.raises(InputError, match=message):
        boxes(regions)


def test_set_prompts_embeds_points_and_masks_as_their_boxes(model_files):
    inferencer = DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')
    image = random_image(*SIZE)
    for regions, box in (([[100, 50]], [95, 45, 105, 55]), (mask(10, 30, 5, 25), [5, 10, 25, 30])):
        expected = inferencer.set_prompts(visual=[(image, [box], 'cat')]).embeddings
        assert torch.equal(inferencer.set_prompts(visual=[(image, regions, 'cat')]).embeddings, expected)
