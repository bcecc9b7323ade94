"""Visual prompts as users give them, and checks of their boxes and names."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dinor1.datasets.validation import TOLERANCE
from dinor1.utils.class_names import check_class_name
from dinor1.utils.errors import InputError

from .image_input import ImageLike

# Numbers beyond [0, 1] that are accepted as rounding of normalised boxes.
_ROUNDING = 1e-3


class VisualPrompt(NamedTuple):
    """Boxes on one reference image; a plain tuple of the same values, with or without the last, is accepted too.

    Attributes:
        image: Path, BGR array (H, W, 3) of uint8, or PIL image; it may be the target image itself.
        boxes: (m, 4) or (4,) xyxy in pixels of this image; or points (m, 2) or (2,) pixel xy, which become small boxes;
            or masks (m, H, W) or (H, W) of bool, which become their bounding boxes
            (:func:`~dinor1.inference.prompt_regions.region_boxes`).
        names: m class names, or one name for all boxes.
        normalized: Whether the boxes are given in parts of width and height, in [0, 1], instead of pixels.
        source: Name of the image in messages; empty: its path, or its position in the list.
    """

    image: ImageLike
    boxes: Sequence[Sequence[float]] | Sequence[float] | np.ndarray | Tensor
    names: str | Sequence[str]
    normalized: bool = False
    source: str = ''


def as_boxes(boxes: Any, where: str, normalized: bool = False) -> np.ndarray:
    """Check boxes, and convert them to an array (m, 4) of float64, m >= 1.

    Args:
        boxes: (m, 4) or (4,) xyxy in pixels, or normalised by the size of the image.
        where: Name of the image, for error messages.
        normalized: Whether the boxes are normalised.

    Raises:
        InputError: there is no box, or a box is not four finite numbers with x1 < x2 and y1 < y2; a box in pixels is
            thinner than one pixel, or looks normalised because its numbers are at most 1; a normalised box is not in
            [0, 1].
    """
    # Convert the boxes to an array of four columns.
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu()
    try:
        if has_boolean(boxes):
            raise TypeError
        array = np.atleast_2d(np.asarray(boxes, dtype=np.float64))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f'{where}: box {_in_one_line(boxes)} is not four numbers x1, y1, x2, y2') from None
    if array.ndim != 2 or array.shape[1] != 4 or not len(array):
        raise InputError(
            f'{where}: expected at least one box of four numbers x1, y1, x2, y2, got {_in_one_line(boxes)}'
        )
    # Check the numbers.
    for box in array:
        if not np.isfinite(box).all():
            raise InputError(f'{where}: box {_text(box)} is not four finite numbers')
        if not (box[:2] < box[2:]).all():
            raise InputError(f'{where}: box {_text(box)} has no area; expected x1, y1, x2, y2 with x1 < x2 and y1 < y2')
        if normalized:
            if np.abs(box - box.clip(0, 1)).max() > _ROUNDING:
                raise InputError(f'{where}: box {_text(box)} is not within 0..1, as a normalized box is')
        elif (box <= 1).all():
            raise InputError(
                f'{where}: boxes are pixels x1,y1,x2,y2, and all numbers of box {_text(box)} are at most 1; multiply '
                'them by width and height, or give --normalized, in Python normalized=True'
            )
        else:
            _require_a_pixel(box, where)
    return array


def _in_one_line(value: Any) -> str:
    """An argument as text of at most 80 characters; arrays have several lines."""
    text = ' '.join(str(value).split())
    return text if len(text) <= 80 else f'{text[:77]}...'


def scale_boxes(boxes: np.ndarray, image_size: tuple[int, int], where: str) -> np.ndarray:
    """Convert normalised boxes (m, 4) to pixels.

    Args:
        boxes: From :func:`as_boxes`.
        image_size: Height and width in pixels.
        where: Name of the image, for error messages.

    Raises:
        InputError: a box is thinner than one pixel.
    """
    height, width = image_size
    scaled = boxes.clip(0, 1) * [width, height, width, height]
    for box in scaled:
        _require_a_pixel(box, where)
    return scaled


def clip_boxes(boxes: np.ndarray, image_size: tuple[int, int], where: str) -> np.ndarray:
    """Clip boxes (m, 4) to their image; up to one pixel beyond the edge is accepted as rounding.

    Args:
        boxes: From :func:`as_boxes`.
        image_size: Height and width in pixels.
        where: Name of the image, for error messages.

    Raises:
        InputError: a box extends further beyond the image, or is thinner than one pixel within it.
    """
    height, width = image_size
    clipped = boxes.clip(0, [width, height, width, height])
    for box, inside in zip(boxes, clipped, strict=True):
        if np.abs(box - inside).max() > TOLERANCE or not (inside[:2] < inside[2:]).all():
            raise InputError(
                f'{where}: box {_text(box)} leaves the image of {width} x {height} pixels; give pixels of this image'
            )
        _require_a_pixel(inside, where)
    return clipped


def as_names(names: str | Sequence[str], num_boxes: int, where: str) -> list[str]:
    """List one class name per box, without surrounding blanks.

    Args:
        names: A name for each box, or one name for all boxes.
        num_boxes: Number of boxes.
        where: Name of the image, for error messages.

    Raises:
        InputError: the numbers of names and boxes differ, or a name is not a non-empty string of valid Unicode.
    """
    # Repeat a single name.
    is_list = isinstance(names, Iterable) and not isinstance(names, str | bytes)
    as_list = list(names) if is_list else [names] * num_boxes
    if len(as_list) != num_boxes:
        raise InputError(f'{where}: expected one class name per box ({num_boxes}) or one name for all, got {names!r}')
    # Check the names.
    return [check_class_name(name, where) for name in as_list]


def has_boolean(boxes: Any) -> bool:
    """Whether a box or a point has a boolean, which would count as 0 or 1."""
    if isinstance(boxes, list | tuple):
        return any(has_boolean(item) for item in boxes)
    if isinstance(boxes, np.ndarray) and boxes.dtype == object:
        return has_boolean(boxes.tolist())
    return isinstance(boxes, bool) or getattr(boxes, 'dtype', None) in (np.bool_, torch.bool)


def _require_a_pixel(box: np.ndarray, where: str) -> None:
    """Raise an error for a box (4,) in pixels that is thinner than one pixel."""
    if min(box[2:] - box[:2]) < 1:
        raise InputError(f'{where}: box {_text(box)} is thinner than 1 pixel; boxes are pixels x1,y1,x2,y2')


def _text(box: np.ndarray) -> str:
    """A box as text, for error messages."""
    return f'({", ".join(f"{value:g}" for value in box)})'
