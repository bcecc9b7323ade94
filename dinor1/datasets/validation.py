"""What a COCO annotation file must satisfy before it is used.

A defect of the file's structure (its sections, its records of images and categories) is always an error,
because leaving such a record out would change what others mean. A defective annotation, or an image without a
file, can be left out on request.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from mmengine.logging import print_log

from dinor1.errors import InputError

# Boxes may stick out of their image by this many pixels: annotation tools round, and count from 0 or from 1.
TOLERANCE = 1.0
# With more images than this only the first file is looked for: on a network file system each may cost 1 ms.
MAX_FILES_CHECKED = 20_000

_RECORD_KEYS = {
    'images': {'id': (int, str), 'file_name': str, 'width': (int, float), 'height': (int, float)},
    'categories': {'id': int, 'name': str},
}
_ANNOTATION_KEYS = {'id', 'image_id', 'category_id', 'bbox'}

# Place of an annotation in the file -> kind of its defect, which a warning counts, and details for an error.
_Defects = dict[int, tuple[str, str]]


def check_coco(data: Any, path: str, img_dir: str | None, skip: bool = False) -> tuple[list[dict], list[dict]]:
    """Check the content of a COCO file and the presence of its images.

    Args:
        data: Content of the file.
        path: The file, for messages.
        img_dir: Folder that ``file_name`` starts from; ``None`` looks for no image.
        skip: Leave defective annotations and images without a file out, with one warning that counts them.

    Returns:
        The records of the images and of the annotations that can be used, each in the order of the file.

    Raises:
        InputError: the structure of the file is wrong, or it has a defect and ``skip`` is false, or no image
            exists.
    """
    _check_structure(data, path)
    images, annotations = data['images'], data['annotations']
    defects = _annotation_defects(data)
    if defects and not skip:
        place = min(defects)
        kind, detail = defects[place]
        identity = annotations[place].get('id') if isinstance(annotations[place], dict) else None
        others = f', and {len(defects) - 1} more defects' if len(defects) > 1 else ''
        raise InputError(
            f'{path}: annotation {identity} (entry {place}): {kind} ({detail}){others}; '
            "fix it or set bad_annotations='skip'"
        )
    missing = [] if img_dir is None else _missing_files(images, img_dir)
    if missing and (not skip or len(missing) == len(images) or len(images) > MAX_FILES_CHECKED):
        others = f', and {len(missing) - 1} more are missing' if len(missing) > 1 else ''
        img_path = os.path.join(img_dir, missing[0]['file_name'])
        raise InputError(
            f'{img_path}: no such file, named by image {missing[0]["id"]} of {path}{others}; '
            'check data_root and data_prefix, or restore the file'
        )
    if not defects and not missing:
        return images, annotations

    counts = Counter(kind for kind, _ in defects.values())
    counts['missing image file'] += len(missing)
    summary = ', '.join(f'{count} x {kind}' for kind, count in sorted(counts.items()) if count)
    print_log(f'{path}: left out {summary}', logger='current', level=logging.WARNING)
    gone = {image['id'] for image in missing}
    images = [image for image in images if image['id'] not in gone]
    annotations = [a for place, a in enumerate(annotations) if place not in defects and a['image_id'] not in gone]
    return images, annotations


def _check_structure(data: Any, path: str) -> None:
    for section in ('images', 'categories', 'annotations'):
        if not isinstance(data, dict) or not isinstance(data.get(section), list):
            raise InputError(f"{path}: not a COCO file, it has no list '{section}'; give a file in COCO format")
    for section, types in _RECORD_KEYS.items():
        if not data[section]:
            raise InputError(f"{path}: '{section}' is empty; a data set needs at least one entry there")
        for place, record in enumerate(data[section]):
            for key, expected in types.items():
                if not isinstance(record, dict) or not isinstance(record.get(key), expected):
                    raise InputError(f"{path}: entry {place} of '{section}' has no valid '{key}'; complete it")
        _refuse_repeats(path, section, 'id', data)
    # Names are what prompts and class lists go by.
    _refuse_repeats(path, 'categories', 'name', data)
    for image in data['images']:
        if not (image['width'] > 0 and image['height'] > 0):
            raise InputError(
                f'{path}: image {image["id"]} has width {image["width"]} and height {image["height"]}; '
                'write its size in pixels'
            )


def _refuse_repeats(path: str, section: str, key: str, data: dict) -> None:
    values = [record[key] for record in data[section]]
    if len(set(values)) < len(values):
        value, count = Counter(values).most_common(1)[0]
        raise InputError(f"{path}: {key} {value!r} occurs {count} times in '{section}'; make it unique")


def _annotation_defects(data: dict) -> _Defects:
    annotations = data['annotations']
    defects = _incomplete(annotations)
    defects |= _unknown_references(data, [i for i in range(len(annotations)) if i not in defects])
    defects |= _bad_boxes(data, [i for i in range(len(annotations)) if i not in defects])
    return defects


def _incomplete(annotations: list[Any]) -> _Defects:
    defects = {}
    for place, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            defects[place] = ('wrong type', 'it is not an object')
        elif not _ANNOTATION_KEYS <= annotation.keys():
            defects[place] = ('missing key', ', '.join(sorted(_ANNOTATION_KEYS - annotation.keys())))
    return defects


def _unknown_references(data: dict, places: Iterable[int]) -> _Defects:
    images = {image['id'] for image in data['images']}
    categories = {category['id'] for category in data['categories']}
    defects, seen = {}, set()
    for place in places:
        annotation = data['annotations'][place]
        if annotation['id'] in seen:
            defects[place] = ('duplicate id', 'an earlier annotation has the same id')
        elif annotation['image_id'] not in images:
            defects[place] = ('unknown image', f'no image has the id {annotation["image_id"]!r}')
        elif annotation['category_id'] not in categories:
            defects[place] = ('unknown category', f'no category has the id {annotation["category_id"]!r}')
        seen.add(annotation['id'])
    return defects


def _bad_boxes(data: dict, places: list[int]) -> _Defects:
    if not places:
        return {}
    annotations = [data['annotations'][place] for place in places]
    sizes = {image['id']: (image['width'], image['height']) for image in data['images']}
    limits = np.array([sizes[annotation['image_id']] for annotation in annotations], dtype=np.float64)
    boxes = _box_array([annotation['bbox'] for annotation in annotations])
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]

    malformed = ~np.isfinite(boxes).all(1)
    flat = (boxes[:, 2:] <= 0).any(1)
    outside = (high <= 0).any(1) | (low >= limits).any(1)
    beyond = (low < -TOLERANCE).any(1) | (high > limits + TOLERANCE).any(1)

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
        defects[places[row]] = (kind, detail)
    return defects


def _box_array(boxes: list[Any]) -> np.ndarray:
    """Boxes as an array (n, 4); one that is not four numbers becomes a row of NaN."""
    try:
        array = np.array(boxes)
    except ValueError:  # of different lengths
        array = np.empty(0)
    if array.shape == (len(boxes), 4) and array.dtype.kind in 'iuf':
        return array.astype(np.float64)
    return np.array([box if _is_box(box) else [np.nan] * 4 for box in boxes], dtype=np.float64)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)


def _missing_files(images: list[dict], img_dir: str) -> list[dict]:
    looked_for = images if len(images) <= MAX_FILES_CHECKED else images[:1]
    return [image for image in looked_for if not os.path.isfile(os.path.join(img_dir, image['file_name']))]
