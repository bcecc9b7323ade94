"""Boxes with names and scores on an image."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from .text import draw_text, text_size

_FONT_SIZE = 13


def class_colors(num_classes: int) -> list[tuple[int, int, int]]:
    """``num_classes`` distinct BGR colours with evenly spread hues and alternating brightness."""
    colors = []
    for i in range(num_classes):
        red, green, blue = colorsys.hsv_to_rgb(i / num_classes, 0.85, 1.0 if i % 2 == 0 else 0.75)
        colors.append((round(255 * blue), round(255 * green), round(255 * red)))
    return colors


def draw_boxes(
    image: np.ndarray,
    bboxes: np.ndarray,
    captions: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    scale: float | None = None,
    thickness: int = 2,
) -> np.ndarray:
    """Draw boxes with captions.

    Args:
        image: (H, W, 3) BGR uint8; not changed.
        bboxes: (n, 4) pixel xyxy of ``image``.
        captions: n texts; a box with an empty text has no caption.
        colors: n BGR colours.
        scale: Factor by which the image is enlarged first, so that captions are readable on small images. Default:
            enlarge the longer side to at least 480 pixels.
        thickness: Line width in pixels of the result.

    Returns:
        A new BGR image.
    """
    # Resize the image.
    if scale is None:
        scale = max(1.0, 480 / max(image.shape[:2]))
    interpolation = cv2.INTER_NEAREST if scale >= 2 else cv2.INTER_LINEAR if scale >= 1 else cv2.INTER_AREA
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=interpolation)
    # Draw the boxes in order.
    for box, caption, color in zip(np.asarray(bboxes).reshape(-1, 4), captions, colors, strict=True):
        x1, y1, x2, y2 = (round(float(v) * scale) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness)
        if caption:
            _caption(canvas, caption, (x1, y1), color)
    return canvas


def _caption(canvas: np.ndarray, text: str, corner: tuple[int, int], color: tuple[int, int, int]) -> None:
    """Draw a text on a filled bar above its box, or inside the box at the upper edge of the image."""
    width, height = text_size(text, _FONT_SIZE)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    cv2.rectangle(canvas, (x, y), (x + width, y + height - 1), color, cv2.FILLED)
    dark = sum(color) > 380
    draw_text(canvas, text, (x, y), _FONT_SIZE, (0, 0, 0) if dark else (255,) * 3)
