"""Warped copies of the shapes world: geometry, boxes, files, and bad arguments."""

import json

import cv2
import numpy as np
import pytest

from dinor1.datasets import CocoPromptDataset
from dinor1.datasets.shapes_warped import CANVAS, VARIANTS, generate_warped, warp
from dinor1.datasets.shapes_world import RenderedImage, box_of_mask, generate, render_split
from dinor1.utils.errors import InputError


def rectangle(height=120, width=140, box=(30, 40, 60, 20)):
    """A bright rectangle ``(x, y, width, height)`` on black, and its silhouette."""
    x, y, w, h = box
    mask = np.zeros((1, height, width), dtype=bool)
    mask[0, y : y + h, x : x + w] = True
    return RenderedImage(np.repeat(mask[0, :, :, None] * np.uint8(255), 3, axis=2), mask)


def test_warp_of_no_objects_has_no_masks():
    image = warp(RenderedImage(np.full((128, 130, 3), 7, np.uint8), np.zeros((0, 128, 130), bool)), np.eye(2))
    assert image.masks.shape == (0, CANVAS, CANVAS)
    assert image.pixels.shape == (CANVAS, CANVAS, 3)
    assert (image.pixels[64:192, 63:193] == 7).all()
    assert (image.pixels == 7).all(-1).sum() == 128 * 130
    assert (image.pixels[0, 0] == 114).all()


@pytest.mark.parametrize('name', VARIANTS)
def test_warped_boxes_are_those_of_mapped_corners(name):
    """A rectangle is mapped to a parallelogram, whose tight box is that of its corners, within one pixel."""
    matrix, (x, y, w, h) = VARIANTS[name], (30, 40, 60, 20)
    image = warp(rectangle(), matrix)
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]], dtype=float)
    mapped = (corners - [70, 60]) @ matrix.T + CANVAS / 2
    left, top, width, height = box_of_mask(image.masks[0])
    got = np.array([left, top, left + width, top + height])
    np.testing.assert_allclose(got, [*mapped.min(0), *mapped.max(0)], atol=1.1)
    # Areas scale with the determinant, and the image agrees with the silhouette.
    assert image.masks.sum() == pytest.approx(w * h * np.linalg.det(matrix), rel=0.05)
    assert image.pixels[image.masks[0]].mean() > 200


def test_warp_by_quarter_turn_is_exact_and_clockwise():
    """With y downwards, a rotation by +90 degrees maps x to y."""
    turned = warp(rectangle(), np.array([[0.0, -1.0], [1.0, 0.0]]))
    still = warp(rectangle(), np.eye(2))
    assert np.array_equal(turned.masks, np.rot90(still.masks, -1, axes=(1, 2)))
    assert np.array_equal(turned.pixels, np.rot90(still.pixels, -1))


def test_generate_warped_identity_has_original_boxes(tmp_path):
    # Write the original and two warped copies.
    sizes = dict(train=1, val_base=3, val_novel=1, support_novel=1)
    generate(tmp_path / 'shapes', sizes=sizes)
    generate_warped(tmp_path / 'warped', ['identity', 'scale-0.5'], size=3)
    original = json.loads((tmp_path / 'shapes/annotations/val_base.json').read_text())
    same, half = (
        json.loads((tmp_path / f'warped/annotations/{name}.json').read_text()) for name in ('identity', 'scale-0.5')
    )
    assert same['categories'] == original['categories']
    assert len(same['annotations']) == len(half['annotations']) == len(original['annotations'])
    # Boxes of the identity are shifted by the border of the canvas; those of scale 0.5 are half as large.
    sizes = {image['id']: (image['width'], image['height']) for image in original['images']}
    for ours, theirs, small in zip(same['annotations'], original['annotations'], half['annotations'], strict=True):
        width, height = sizes[theirs['image_id']]
        shift = [(CANVAS - width) // 2, (CANVAS - height) // 2, 0, 0]
        assert np.subtract(ours['bbox'], shift).tolist() == theirs['bbox']
        assert ours['area'] == theirs['area']
        assert ours['category_id'] == theirs['category_id']
        np.testing.assert_allclose(small['bbox'][2:], np.divide(theirs['bbox'][2:], 2), atol=1.6)
    # The data set reads the files.
    dataset = CocoPromptDataset(
        data_root=str(tmp_path / 'warped'),
        ann_file='annotations/scale-0.5.json',
        data_prefix=dict(img='images/scale-0.5/'),
        test_mode=True,
        pipeline=[],
    )
    assert len(dataset) == 3
    assert cv2.imread(dataset.get_data_info(0)['img_path']).shape == (CANVAS, CANVAS, 3)


def test_render_split_equals_written_files(tmp_path):
    generate(tmp_path / 'shapes', sizes=dict(train=1, val_base=2, val_novel=1, support_novel=1))
    for number, (_, image) in enumerate(render_split(0, 'val_base', 2), 1):
        written = cv2.imread(str(tmp_path / f'shapes/images/val_base/{number:06d}.png'))
        assert np.array_equal(image.pixels, written)


def test_generate_warped_rejects_bad_arguments(tmp_path):
    with pytest.raises(InputError, match='unknown variant'):
        generate_warped(tmp_path / 'a', ['rotation-31'])
    with pytest.raises(InputError, match='unknown variant'):
        generate_warped(tmp_path / 'a', [])
    with pytest.raises(InputError, match='split must be train or val_base'):
        generate_warped(tmp_path / 'a', split='val_novel')
    with pytest.raises(InputError, match='give at least 1'):
        generate_warped(tmp_path / 'a', size=0)
    with pytest.raises(InputError, match='exists; choose another folder'):
        generate_warped(tmp_path)
    with pytest.raises(InputError, match='invertible 2 x 2 matrix'):
        warp(rectangle(), np.zeros((2, 2)))
    with pytest.raises(InputError, match='needs a canvas of 420 pixels'):
        warp(rectangle(), 3 * np.eye(2))
    assert not list(tmp_path.iterdir())
