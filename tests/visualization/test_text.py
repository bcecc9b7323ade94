"""Text on drawings: scripts, missing characters, and edges of the canvas."""

import numpy as np
import pytest

from dinor1.visualization import draw_boxes, prompt_strip
from dinor1.visualization.text import draw_text, text_size

# A private code point, which no font has.
UNKNOWN = '\U0010fffd'


def drawn(text, corner=(2, 2), shape=(24, 200)):
    canvas = np.full((*shape, 3), 255, np.uint8)
    draw_text(canvas, text, corner, 13, (0, 0, 0))
    return canvas


def test_draw_text_of_an_empty_text_draws_nothing():
    assert (drawn('') == 255).all()
    assert text_size('', 13)[0] == 0


@pytest.mark.parametrize(
    ('one', 'two'), [('cat', 'cap'), ('кошка', 'мышка'), ('γάτα', 'πάτα'), ('naïve', 'naive'), ('ąćę', 'łńó')]
)
def test_draw_text_shows_different_names_differently(one, two):
    assert (drawn(one) != drawn(two)).any()
    for name in (one, two):
        assert (drawn(name) != drawn('?' * len(name))).any()
        assert (drawn(name) != drawn('\ufffd' * len(name))).any()


def test_draw_text_draws_code_points_of_characters_without_a_font(logged_warnings):
    assert (drawn(f'a{UNKNOWN}b') == drawn('a\\U0010fffdb')).all()
    # Another score in the caption gives no second warning.
    drawn(f'a{UNKNOWN}b 0.51')
    (message,) = logged_warnings()
    assert f'no installed font has all of the characters {UNKNOWN!r}' in message


def test_draw_text_draws_line_breaks_as_blanks():
    assert (drawn('a\n\tb') == drawn('a b')).all()


@pytest.mark.parametrize('corner', [(-30, 2), (2, -8), (190, 2), (2, 20), (-500, 2), (2, 500)])
def test_draw_text_cuts_off_what_is_outside(corner):
    # Draw on a canvas with a margin of 600 pixels, and cut the margin off.
    wide = drawn('drawn text', (corner[0] + 600, corner[1] + 600), (24 + 1200, 200 + 1200))
    assert (drawn('drawn text', corner) == wide[600:624, 600:800]).all()


def test_text_size_encloses_the_text():
    for text in ('Ágj', 'кошка 0.50'):
        width, height = text_size(text, 13)
        rows, columns = np.nonzero((drawn(text, (0, 0), (60, 300)) != 255).any(-1))
        assert rows.max() < height
        assert width - 3 <= columns.max() < width


def test_draw_boxes_and_prompt_strip_show_cyrillic_names():
    image, box, color = np.zeros((200, 200, 3), np.uint8), np.array([[50, 80, 150, 180]]), [(0, 0, 255)]
    for draw in (
        lambda name: draw_boxes(image, box, [name], color, scale=1.0),
        lambda name: prompt_strip([image], [name], color),
    ):
        assert (draw('кошка') != draw('мышка')).any()
