"""What one exemplar found on an image: found, missed and false boxes in different colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .detections import draw_boxes
from .text import draw_text, text_size

FOUND, MISSED, FALSE, EXEMPLAR = (80, 190, 60), (60, 60, 230), (30, 160, 250), (255, 255, 255)
_FONT_SIZE = 13


@dataclass
class FoundObjects:
    """Boxes of one class on an image, each (n, 4) in pixel xyxy.

    Attributes:
        found: Detections of an object.
        missed: Objects that no detection covers.
        false: Detections of no object, and repeated detections.
        exemplar: The exemplar, (1, 4), or (0, 4) if it is on another image.
        found_scores: Scores of ``found``.
        false_scores: Scores of ``false``.
    """

    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray
    exemplar: np.ndarray
    found_scores: Sequence[float]
    false_scores: Sequence[float]

    def summary(self) -> str:
        """Such as ``found 2 of 3, 1 false``."""
        return f'found {len(self.found)} of {len(self.found) + len(self.missed)}, {len(self.false)} false'


def draw_found(image: np.ndarray, objects: FoundObjects, title: str, side: int = 360) -> np.ndarray:
    """Draw the boxes: found green, missed red, false orange, the exemplar white with a black outline.

    Args:
        image: (H, W, 3) BGR uint8.
        objects: Boxes in pixels of the image.
        title: Text above the image; it is cut to the width.
        side: Length of the longer side of the drawn image in pixels.

    Returns:
        A new BGR image, higher than the drawn image by a line with the title.
    """
    # Draw the boxes, the important ones last.
    scale = side / max(image.shape[:2])
    canvas = draw_boxes(image, np.zeros((0, 4)), [], [], scale)
    for boxes, scores, color in (
        (objects.false, objects.false_scores, FALSE),
        (objects.missed, None, MISSED),
        (objects.found, objects.found_scores, FOUND),
    ):
        captions = [''] * len(boxes) if scores is None else [f'{score:.2f}' for score in scores]
        canvas = draw_boxes(canvas, boxes * scale, captions, [color] * len(boxes), 1.0)
    for thickness, color in ((4, (0, 0, 0)), (2, EXEMPLAR)):
        count = len(objects.exemplar)
        canvas = draw_boxes(canvas, objects.exemplar * scale, [''] * count, [color] * count, 1.0, thickness)
    # Add the title.
    while title and text_size(title, _FONT_SIZE)[0] > canvas.shape[1]:
        title = title[:-1]
    band = np.full((20, canvas.shape[1], 3), 245, np.uint8)
    draw_text(band, title, (2, 1), _FONT_SIZE, (0, 0, 0))
    return cv2.vconcat([band, canvas])
