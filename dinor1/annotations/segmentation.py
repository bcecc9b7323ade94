"""Boxes of segmentations: polygons and run-length encodings of COCO."""

import re
from typing import Any

from pycocotools import mask as coco_mask

from .structure import is_finite

# COCO's compressed run lengths: a character from 0 to o has five bits of a number; P to o continue it.
_COMPRESSED = re.compile('[0-o]*[0-O]')


def segmentation_box(segmentation: Any, height: float, width: float) -> list[float] | None:
    """The box around a segmentation.

    Args:
        segmentation: Polygons, lists ``[x1, y1, x2, y2, ...]`` in pixels; or a run-length encoding, with ``size``
            (height, width) and ``counts`` as a list or as compressed text.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        (x, y, width, height) in pixels; None if there is no segmentation, or it is not in one of COCO's formats.
    """
    # COCO's run-length encoding is a dict.
    if isinstance(segmentation, dict):
        return _box_of_runs(segmentation, height, width)
    # Collect the corners of all polygons.
    polygons = segmentation if isinstance(segmentation, list) else []
    points: list[tuple[float, float]] = []
    for polygon in polygons:
        is_polygon = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not is_polygon or not all(type(v) in (int, float) and is_finite(v) for v in polygon):
            return None
        points += zip(polygon[::2], polygon[1::2], strict=True)
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return box if box[2] > 0 and box[3] > 0 else None


def _box_of_runs(runs: dict, height: float, width: float) -> list[float] | None:
    # Check the size of the image.
    size, counts = runs.get('size'), runs.get('counts')
    if not isinstance(size, list) or [v for v in size if type(v) in (int, float)] != [height, width]:
        return None
    # Decode the runs, and compute their box.
    try:
        if isinstance(counts, list):
            if sum(counts) != height * width or min(counts) < 0:
                return None
            runs = coco_mask.frPyObjects(runs, int(height), int(width))
        elif not isinstance(counts, str) or not _COMPRESSED.fullmatch(counts):
            return None  # pycocotools would read beyond the end of such a text
        box = coco_mask.toBbox(runs).tolist()
    except (TypeError, ValueError):
        return None
    return box if box[2] > 0 and box[3] > 0 else None
