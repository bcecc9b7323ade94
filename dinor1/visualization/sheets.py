"""Contact sheets: several images on one canvas."""

from collections.abc import Sequence

import cv2
import numpy as np

from .text import draw_text

_BACKGROUND = 245
_FONT_SIZE = 11


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, gap: int = 8) -> np.ndarray:
    """Arrange images (H, W, 3) of any size in rows, each centred in a cell of the largest size.

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError('a contact sheet needs at least one image')
    # Make a canvas with a cell for each image.
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(p.shape[0] for p in images) + gap
    width = max(p.shape[1] for p in images) + gap
    sheet = np.full((rows * height + gap, columns * width + gap, 3), _BACKGROUND, np.uint8)
    # Copy each image to the centre of its cell.
    for i, image in enumerate(images):
        y = gap + (i // columns) * height + (height - gap - image.shape[0]) // 2
        x = gap + (i % columns) * width + (width - gap - image.shape[1]) // 2
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet


def prompt_strip(
    crops: Sequence[np.ndarray], names: Sequence[str], colors: Sequence[tuple[int, int, int]], size: int = 96
) -> np.ndarray:
    """Arrange exemplars side by side, each framed in the colour of its class with the name below.

    Args:
        crops: BGR images of the exemplars.
        names: Class names.
        colors: BGR colours of the classes.
        size: Side of a crop in pixels.
    """
    tiles = []
    for crop, name, color in zip(crops, names, colors, strict=True):
        # Scale the crop to the tile; a thin crop keeps at least one pixel.
        tile = np.full((size + 18, size + 8, 3), _BACKGROUND, np.uint8)
        scale = (size - 4) / max(crop.shape[:2])
        height, width = (min(size - 4, max(1, round(side * scale))) for side in crop.shape[:2])
        small = cv2.resize(crop, (width, height))
        y, x = (size - small.shape[0]) // 2, 4 + (size - small.shape[1]) // 2
        tile[y : y + small.shape[0], x : x + small.shape[1]] = small
        # Add frame and name.
        cv2.rectangle(tile, (5, 1), (size + 2, size - 2), color, 2)
        draw_text(tile, name[:18], (4, size + 2), _FONT_SIZE, (0, 0, 0))
        tiles.append(tile)
    return contact_sheet(tiles, columns=12, gap=2)
