"""Text on drawings, in a font that has its characters."""

import functools
import logging
from collections.abc import Sequence

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageDraw, ImageFont


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of the area that :func:`draw_text` needs; the height depends on ``size`` only.

    Args:
        text: One line of text.
        size: Size of the font in pixels.
    """
    font, text = _font_for(text, size)
    ascent, descent = font.getmetrics()
    return -(-int(64 * font.getlength(text)) // 64), ascent + descent


def draw_text(canvas: np.ndarray, text: str, corner: tuple[int, int], size: int, color: Sequence[int]) -> None:
    r"""Draw a line of text.

    Characters that no installed font has are drawn as their code points, such as ``\u4e2d``; a warning says so once.

    Args:
        canvas: (H, W, 3) of uint8, changed in place; what lies outside of it is not drawn.
        text: One line of text.
        corner: x and y of the upper left corner of the text's area, see :func:`text_size`.
        size: Size of the font in pixels.
        color: Colour in the channel order of the canvas.
    """
    # Find the part of the canvas that the text covers.
    font, text = _font_for(text, size)
    (width, height), (x, y) = text_size(text, size), corner
    part = canvas[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)]
    if not part.size:
        return
    # Draw on a copy of this part.
    image = Image.fromarray(part)
    ImageDraw.Draw(image).text((min(0, x), min(0, y)), text, tuple(color), font)
    part[:] = np.asarray(image)


@functools.lru_cache(maxsize=4096)
def _font_for(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """A font for a text, and the text with code points instead of characters that no font has."""
    # Blanks and line breaks of all kinds are drawn as a blank.
    text = ' '.join(text.split())
    # Use the first font that has all characters.
    needed = {ord(character) for character in text}
    files = _font_files()
    for file in files:
        if needed <= _characters(file):
            return _load(file, size), text
    # Or the default font, without what it lacks.
    known = _characters(files[0])
    _warn(''.join(sorted({character for character in text if ord(character) not in known})))
    escaped = (character if ord(character) in known else ascii(character)[1:-1] for character in text)
    return _load(files[0], size), ''.join(escaped)


@functools.cache
def _warn(missing: str) -> None:
    """Warn once about characters that no font has."""
    print_log(
        f'drawings: no installed font has all of the characters {missing!r}, which are drawn as code points; install a '
        'font of their script, such as Noto Sans',
        logger='current',
        level=logging.WARNING,
    )


@functools.cache
def _font_files() -> tuple[str, ...]:
    """Font files in the order of preference: DejaVu Sans, which comes with Matplotlib, then the installed fonts."""
    from matplotlib import font_manager, get_data_path  # Imported here, because it takes a second.

    default = f'{get_data_path()}/fonts/ttf/DejaVuSans.ttf'
    return default, *sorted(file for file in font_manager.findSystemFonts() if file != default)


@functools.cache
def _characters(file: str) -> frozenset[int]:
    """Code points that a font can draw; none if the font cannot be used at any size."""
    from matplotlib.ft2font import FT2Font

    try:
        _load(file, 13)
        return frozenset(FT2Font(file).get_charmap())
    except Exception:  # fonts of bitmaps, and damaged files
        return frozenset()


@functools.lru_cache(maxsize=64)
def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
