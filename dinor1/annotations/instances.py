"""Checks of annotations: their keys, their references to an image and a category, and their boxes."""

from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np

from .findings import Finding
from .structure import as_number, fits_int64, is_finite

# Boxes may leave their image by this many pixels: annotation tools round, and count from 0 or from 1.
TOLERANCE = 1.0
# With fewer boxes than this, the format of the boxes cannot be recognised.
_MIN_BOXES = {'normalised': 3, 'corners': 10}

_KEYS = {'id', 'image_id', 'category_id', 'bbox'}
_ID_TYPES = (int, str, float)

# Index of an annotation -> kind of its first defect, and details.
Defects = dict[int, tuple[str, str]]
# Image id -> (width, height) in pixels; infinite if the file does not give the size.
Sizes = Mapping[Any, tuple[float, float]]


def annotation_defects(annotations: list, sizes: Sizes, categories: set) -> Defects:
    """The first defect of every defective annotation.

    Args:
        annotations: COCO's ``annotations``; boxes are ``[x, y, width, height]`` in pixels.
        sizes: Sizes of the known images.
        categories: Ids of the known categories.
    """
    defects = _incomplete(annotations)
    defects |= _unknown_references(annotations, sizes, categories, _others(annotations, defects))
    defects |= _bad_boxes(annotations, sizes, _others(annotations, defects))
    return dict(sorted(defects.items()))


def box_form(annotations: list, sizes: Sizes) -> Finding | None:
    """Detect boxes that are not ``[x, y, width, height]`` in pixels, which only all boxes together show.

    Boxes within 0..1 are taken as fractions of the image. Boxes are taken as corners ``[x1, y1, x2, y2]`` if these are
    ordered and lie in the image for all boxes, while at least a fifth of the boxes, read as they should be, leaves the
    image.

    Returns:
        The defect, or None.
    """
    # Collect finite boxes and the sizes of their images.
    usable = [a for a in annotations if isinstance(a, dict) and a.keys() >= _KEYS and _known(a['image_id'], sizes)]
    boxes = box_array([a['bbox'] for a in usable])
    finite = np.isfinite(boxes).all(1)
    if finite.sum() < _MIN_BOXES['normalised']:
        return None
    limits = np.array([sizes[a['image_id']] for a in usable], dtype=np.float64)[finite]
    boxes = boxes[finite]
    # Check for fractions of the image.
    if boxes.max() <= 1 and boxes.min() >= 0 and limits.min() > 1:
        detail = f'all {len(boxes)} boxes lie within 0..1, such as {boxes[0].round(4).tolist()}'
        return Finding('normalised boxes', detail, 'annotations')
    if len(boxes) < _MIN_BOXES['corners']:
        return None
    # Check for corners.
    leaves = (boxes[:, :2] + boxes[:, 2:] > limits + TOLERANCE).any(1)
    ordered = (boxes[:, 2:] > boxes[:, :2]).all()
    inside = (boxes[:, 2:] <= limits + TOLERANCE).all() and boxes.min() >= -TOLERANCE
    if leaves.mean() >= 0.2 and ordered and inside:
        detail = f'{leaves.sum()} of {len(boxes)} boxes leave their image, and as x1, y1, x2, y2 all would fit'
        return Finding('boxes are corners', detail, 'annotations')
    return None


def annotation_warnings(annotations: list, defects: Defects, needs_iscrowd: bool = True) -> Iterator[Finding]:
    """Warnings about annotations that are legal, but that some readers leave out or fail on.

    Args:
        annotations: As for :func:`annotation_defects`.
        defects: Its result.
        needs_iscrowd: Whether the evaluation of this format reads ``iscrowd``.
    """
    seen = set()
    for index, annotation in enumerate(annotations):
        if index in defects:
            continue
        # The box.
        x, y, width, height = annotation['bbox']
        key = (annotation['image_id'], annotation['category_id'], x, y, width, height)
        if min(width, height) < 1:
            detail = f'bbox {annotation["bbox"]} is {width:g} x {height:g} pixels'
            yield Finding('box under one pixel', detail, 'annotations', index)
        elif key in seen:
            detail = f'an earlier one of image {annotation["image_id"]} has the same category and box'
            yield Finding('repeated annotation', detail, 'annotations', index)
        seen.add(key)
        # Optional keys.
        area = annotation.get('area')
        if area is None:
            yield Finding('no area', "it has no 'area'", 'annotations', index)
        elif not area > 0:
            yield Finding('area not positive', f'area {area!r} of bbox {annotation["bbox"]}', 'annotations', index)
        if needs_iscrowd and 'iscrowd' not in annotation:
            yield Finding('no iscrowd', "it has no 'iscrowd'", 'annotations', index)


def _others(annotations: list, defects: Defects) -> list[int]:
    return [index for index in range(len(annotations)) if index not in defects]


def _incomplete(annotations: list) -> Defects:
    defects = {}
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            defects[index] = ('wrong type', 'it is not an object')
            continue
        # A box and an id can be repaired, other missing keys cannot.
        missing = sorted(_KEYS - annotation.keys())
        # Tables write a missing id as null.
        if not missing and annotation['id'] is None:
            missing = ['id']
        if missing == ['bbox'] or missing == ['bbox', 'id']:
            shape = 'a segmentation' if annotation.get('segmentation') else 'no segmentation'
            defects[index] = ('no box', f"it has no 'bbox', and {shape}")
        elif missing == ['id']:
            defects[index] = ('no id', "it has no 'id'")
        elif missing:
            defects[index] = ('missing key', ', '.join(missing))
        else:
            defect = _bad_value(annotation)
            if defect is not None:
                defects[index] = defect
    return defects


def _bad_value(annotation: dict) -> tuple[str, str] | None:
    """Defect of a value of a complete annotation, other than its box; None if there is none."""
    # Check the ids.
    for key in ('id', 'image_id', 'category_id'):
        value = annotation[key]
        if not is_id(value):
            return 'wrong type', f'{key} {value!r} is neither a number of 64 bits nor text'
        if type(value) is float:
            return 'fractional type of id', f'{key} {value!r}'
    # Check the optional values.
    iscrowd, area = annotation.get('iscrowd', 0), annotation.get('area')
    if type(iscrowd) not in (int, bool) or iscrowd not in (0, 1):
        return 'invalid iscrowd', f'iscrowd {iscrowd!r} is neither 0 nor 1'
    if area is not None and type(area) not in (int, float):
        return 'invalid area', f'area {area!r} is not a number'
    if area is not None and not is_finite(area):
        return 'invalid area', 'area is not finite'
    return None


def is_id(value: Any) -> bool:
    """Whether a value may be an id: text, or a number of 64 bits, perhaps written as 1.0."""
    return type(value) in _ID_TYPES and fits_int64(value)


def _known(image_id: Any, sizes: Sizes) -> bool:
    return type(image_id) in _ID_TYPES and image_id in sizes


def _unknown_references(annotations: list, sizes: Sizes, categories: set, indices: list[int]) -> Defects:
    defects, seen = {}, set()
    for index in indices:
        annotation = annotations[index]
        # References to unknown images and categories.
        for key, known in (('image_id', sizes), ('category_id', categories)):
            value = annotation[key]
            if value in known or index in defects:
                continue
            listed = as_listed(value, known)
            if listed is not None:
                defects[index] = ('number as text', f'{key} {value!r} is {listed!r} in the list')
            else:
                kind = key.removesuffix('_id')
                defects[index] = (f'unknown {kind}', f'no {kind} has the id {value!r}')
        # Repeated ids.
        if annotation['id'] in seen and index not in defects:
            defects[index] = ('duplicate id', f'an earlier annotation has the id {annotation["id"]!r} as well')
        seen.add(annotation['id'])
    return defects


def as_listed(value: int | float | str, known: Container) -> int | float | str | None:
    """The id in ``known`` that equals ``value`` after conversion between text and number, or None."""
    converted = as_number(value) if isinstance(value, str) else str(value)
    return converted if converted is not None and converted in known else None


def _bad_boxes(annotations: list, sizes: Sizes, indices: list[int]) -> Defects:
    if not indices:
        return {}
    # Boxes and sizes of their images as arrays.
    annotations = [annotations[index] for index in indices]
    limits = np.array([sizes[annotation['image_id']] for annotation in annotations], dtype=np.float64)
    boxes = box_array([annotation['bbox'] for annotation in annotations])
    with np.errstate(invalid='ignore'):  # infinity minus infinity, in malformed boxes
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]

    # Find all defects in one pass.
    malformed = ~np.isfinite(boxes).all(1)
    flat = (boxes[:, 2:] <= 0).any(1)
    outside = (high <= 0).any(1) | (low >= limits).any(1)
    beyond = (low < -TOLERANCE).any(1) | (high > limits + TOLERANCE).any(1)

    # Describe the most serious defect of each box.
    defects = {}
    for row in np.flatnonzero(malformed | flat | outside | beyond):
        detail = f'bbox {annotations[row]["bbox"]}'
        if malformed[row]:
            kind, detail = 'malformed box', f'{detail} is not four finite numbers'
        elif flat[row]:
            kind, detail = 'box without area', f'{detail} needs a positive width and height'
        else:
            kind = 'box outside its image' if outside[row] else 'box partly outside its image'
            detail = f'{detail} (x, y, width, height) against {limits[row, 0]:g} x {limits[row, 1]:g} pixels'
        defects[indices[row]] = (kind, detail)
    return defects


def box_array(boxes: list) -> np.ndarray:
    """Boxes as a float64 array (n, 4); a box that is not four numbers becomes a row of NaN."""
    if not boxes:
        return np.empty((0, 4))
    # Convert all boxes together, which is fast and nearly always possible.
    try:
        array = np.array(boxes)
    except (ValueError, OverflowError):  # of different lengths, or with a huge number
        array = np.empty(0)
    if array.shape == (len(boxes), 4) and array.dtype.kind in 'iuf':
        return array.astype(np.float64)
    # Otherwise check them one by one.
    readable = [is_box(box) and not any(type(value) is int and not is_finite(value) for value in box) for box in boxes]
    rows = [box if good else [np.nan] * 4 for box, good in zip(boxes, readable, strict=True)]
    return np.array(rows, dtype=np.float64)


def is_box(box: Any) -> bool:
    """Whether ``box`` is a list of four numbers, which may be infinite or NaN."""
    return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
