"""Sizes of drawings, and positions and colours of what is drawn."""

import numpy as np
import pytest

from dinor1.visualization import class_colors, contact_sheet, draw_boxes, prompt_strip

GREY = np.full((60, 80, 3), 100, np.uint8)


def test_class_colors_are_distinct():
    assert class_colors(0) == []
    assert len(set(class_colors(80))) == 80


def test_draw_boxes_without_boxes_returns_a_copy():
    drawn = draw_boxes(GREY, np.zeros((0, 4)), [], [], scale=1.0)
    assert np.array_equal(drawn, GREY)
    assert drawn is not GREY


def test_draw_boxes_draws_at_the_position_and_keeps_the_input():
    drawn = draw_boxes(GREY, np.array([[10, 20, 40, 50]]), [''], [(0, 0, 255)], scale=2.0, thickness=1)
    assert drawn.shape == (120, 160, 3)
    red = (drawn == (0, 0, 255)).all(-1)
    rows, columns = np.nonzero(red)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 100, 20, 80)
    assert (GREY == 100).all()


def test_draw_boxes_enlarges_small_images():
    assert max(draw_boxes(GREY, np.array([[0, 0, 5, 5]]), ['name 0.99'], [(0, 0, 0)]).shape[:2]) == 480


def test_contact_sheet_arranges_images_in_cells():
    with pytest.raises(ValueError, match='at least one'):
        contact_sheet([])
    sheet = contact_sheet([GREY, GREY[:30], GREY], columns=2, gap=4)
    assert sheet.shape == (2 * 64 + 4, 2 * 84 + 4, 3)
    assert (sheet == 100).all(-1).sum() == 60 * 80 * 2 + 30 * 80


@pytest.mark.parametrize('shape', [(1, 200), (300, 1), (2, 400), (1, 1)])
def test_prompt_strip_shows_thin_exemplars(shape):
    strip = prompt_strip([np.zeros((*shape, 3), np.uint8)], ['thin'], [(0, 0, 255)])
    assert strip.ndim == 3
    assert (strip == 0).all(-1).any()


def test_prompt_strip_frames_each_crop():
    strip = prompt_strip([GREY, GREY[:20]], ['a', 'b'], [(0, 0, 255), (255, 0, 0)])
    assert (strip == (0, 0, 255)).all(-1).any()
    assert (strip == (255, 0, 0)).all(-1).any()
