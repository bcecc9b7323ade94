"""Visual prompts as users give them, and checks of their boxes and names."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dinor1.datasets.validation import TOLERANCE
from dinor1.utils.errors import InputError

from .image_input import ImageLike


class VisualPrompt(NamedTuple):
    """Boxes on one reference image; a plain tuple of the same three values is accepted too.

    Attributes:
        image: Path, BGR array (H, W, 3) of uint8, or PIL image; it may be the target image itself.
        boxes: (m, 4) or (4,) pixel xyxy of this image; or points (m, 2) or (2,) pixel xy, which become small boxes; or
            masks (m, H, W) or (H, W) of bool, which become their bounding boxes
            (:func:`~dinor1.inference.prompt_regions.region_boxes`).
        names: m class names, or one name for all boxes.
    """

    image: ImageLike
    boxes: Sequence[Sequence[float]] | Sequence[float] | np.ndarray | Tensor
    names: str | Sequence[str]


def as_boxes(boxes: Any, where: str) -> np.ndarray:
    """Check boxes, and convert them to an array (m, 4) of float64, m >= 1.

    Args:
        boxes: (m, 4) or (4,) pixel xyxy.
        where: Name of the image, for error messages.

    Raises:
        InputError: there is no box, or a box is not four finite numbers with x1 < x2 and y1 < y2.
    """
    # Convert the boxes to an array of four columns.
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu()
    try:
        array = np.atleast_2d(np.asarray(boxes, dtype=np.float64))
    except (TypeError, ValueError):
        raise InputError(f'{where}: box {boxes} is not four numbers x1, y1, x2, y2') from None
    if array.ndim != 2 or array.shape[1] != 4 or not len(array):
        raise InputError(f'{where}: expected at least one box of four numbers x1, y1, x2, y2, got {boxes}')
    # Check the numbers.
    for box in array:
        if not np.isfinite(box).all():
            raise InputError(f'{where}: box {_text(box)} is not four finite numbers')
        if not (box[:2] < box[2:]).all():
            raise InputError(f'{where}: box {_text(box)} has no area; expected x1, y1, x2, y2 with x1 < x2 and y1 < y2')
    return array


def clip_boxes(boxes: np.ndarray, image_size: tuple[int, int], where: str) -> np.ndarray:
    """Clip boxes (m, 4) to their image; up to one pixel beyond the edge is accepted as rounding.

    Args:
        boxes: From :func:`as_boxes`.
        image_size: Height and width in pixels.
        where: Name of the image, for error messages.

    Raises:
        InputError: a box extends further beyond the image.
    """
    height, width = image_size
    clipped = boxes.clip(0, [width, height, width, height])
    for box, inside in zip(boxes, clipped, strict=True):
        if np.abs(box - inside).max() > TOLERANCE or not (inside[:2] < inside[2:]).all():
            raise InputError(
                f'{where}: box {_text(box)} leaves the image of {width} x {height} pixels; give pixels of this image'
            )
    return clipped


def as_names(names: str | Sequence[str], num_boxes: int, where: str) -> list[str]:
    """List one class name per box.

    Args:
        names: A name for each box, or one name for all boxes.
        num_boxes: Number of boxes.
        where: Name of the image, for error messages.

    Raises:
        InputError: the numbers of names and boxes differ, or a name is not a non-empty string.
    """
    as_list = [names] * num_boxes if isinstance(names, str) else list(names)
    if len(as_list) != num_boxes or not all(isinstance(name, str) and name.strip() for name in as_list):
        raise InputError(f'{where}: expected one class name per box ({num_boxes}) or one name for all, got {names!r}')
    return as_list


def _text(box: np.ndarray) -> str:
    """A box as text, for error messages."""
    return f'({", ".join(f"{value:g}" for value in box)})'
