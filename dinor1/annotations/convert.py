"""Conversion of COCO and LVIS files to ODVG."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, check_output, read_json

from .check import read
from .coco import lvis_image_path
from .content import COCO, LVIS, ODVG, Content
from .instances import is_box, is_id
from .odvg import from_coco, own_label_map
from .report import format_counts
from .segmentation import segmentation_box
from .structure import is_finite
from .training_check import check_for_training


def to_odvg(source: Path, out: Path, source_format: str, label_map: Path | None = None) -> tuple[int, Counter]:
    """Write a COCO or LVIS file as ODVG lines and a label map.

    The lines have the boxes without a defect, as training on the source with ``bad_annotations='skip'`` has. Crowd and
    ignored boxes, which ODVG cannot mark, are left out too.

    Args:
        source: The file to convert.
        source_format: ``COCO`` or ``LVIS``; it decides how images are named.
        out: ODVG file to write.
        label_map: JSON file for the names of the labels; default: ``<stem>_label_map.json`` beside ``out``.

    Returns:
        Number of lines; and the number of annotations that were left out, by reason.

    Raises:
        InputError: the source cannot be read or is wrong as a whole, an output is the source or the other output, the
            label map exists and belongs to another set, or an output could not be written.
    """
    # Check the paths.
    label_map = label_map or own_label_map(out)
    if source.resolve() in (out.resolve(), label_map.resolve()):
        raise InputError(f'{source}: would be overwritten; give another output')
    if out.resolve() == label_map.resolve():
        raise InputError(f'{out}: is the path of both the lines and the label map; give them different names')
    check_output(out)
    check_output(label_map, '--label-map')
    # Read the source.
    content = read(source)
    for finding in content.findings:
        raise InputError(f'{source}: {finding.detail}; {finding.advice}')
    if content.format != source_format:
        tool = {COCO: 'use `dinor1 convert coco2odvg`', LVIS: 'use `dinor1 convert lvis2odvg`', ODVG: 'nothing to do'}[
            content.format
        ]
        raise InputError(f'{source}: is a file in {content.format} format; {tool}')
    # Leave out annotations that are defective or that ODVG cannot represent.
    _complete(content)
    defects, data = check_for_training(content.data, str(source)), content.data
    left_out = Counter(kind for kind, _ in defects.values())
    annotations = []
    for index, annotation in enumerate(data['annotations']):
        if index not in defects:
            reason = _reason(annotation)
            if reason:
                left_out[reason] += 1
            else:
                annotations.append(annotation)
    if data['annotations'] and len(defects) == len(data['annotations']):
        raise InputError(
            f'{source}: all {len(defects)} annotations are defective ({format_counts(left_out)}); '
            'correct them, or let `dinor1 validate --fix` do it'
        )
    # Keep the label map of another set.
    name_of = lvis_image_path if content.format == LVIS else lambda image: image['file_name']
    lines, names = from_coco(data['images'], annotations, data['categories'], name_of)
    if label_map.exists() and not (out.exists() and label_map == own_label_map(out)):
        previous = read_json(label_map)
        if previous != names:
            raise InputError(
                f'{label_map}: holds other class names, perhaps of another set; give another --label-map, or remove it'
            )
    # Write the lines and the label map. Both files are complete before either gets its name.
    with atomic_path(label_map) as temporary_names, atomic_path(out) as temporary:
        with temporary.open('w') as file:
            file.writelines(f'{line}\n' for line in lines)
        temporary_names.write_text(json.dumps(names, indent=1) + '\n')
    return len(data['images']), left_out


def _complete(content: Content) -> None:
    """Number annotations without a valid id, which ODVG does not need, and compute boxes from segmentations.

    A box is computed if it is missing or has no area, as in a repair.
    """
    images = {image['id']: image for _, image in content.valid('images')}
    for number, annotation in enumerate(content.records('annotations'), 1):
        if not isinstance(annotation, dict):
            continue
        # Replace an id that is missing or invalid.
        if not is_id(annotation.get('id')) or isinstance(annotation['id'], float):
            annotation['id'] = -number
        # Compute a box that is missing or without area.
        image_id = annotation.get('image_id')
        image = images.get(image_id) if isinstance(image_id, int | float | str) else None
        if image and not _has_area(annotation.get('bbox')):
            box = segmentation_box(annotation.get('segmentation'), image['height'], image['width'])
            if box:
                annotation['bbox'] = box


def _has_area(box: Any) -> bool:
    return is_box(box) and all(map(is_finite, box)) and min(box[2:]) > 0


def _reason(annotation: dict) -> str:
    if annotation.get('iscrowd'):
        return 'crowd'
    if annotation.get('ignore'):
        return 'ignore'
    area = annotation.get('area')
    too_small = min(annotation['bbox'][2:]) < 1 or (area is not None and not area > 0)
    return 'box under one pixel' if too_small else ''
