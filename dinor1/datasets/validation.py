"""Checks of a COCO annotation file when a data set is loaded, with :mod:`dinor1.annotations`.

A defect of the file's structure (its sections, its records of images and categories), or one that all its annotations
share, is always an error, because leaving records out would change the meaning of the others. A single defective
annotation, or an image without a file, can be left out on request.
"""

import logging
import os
from collections import Counter
from typing import Any

from mmengine.logging import print_log

from dinor1.annotations.categories import name_warnings
from dinor1.annotations.instances import TOLERANCE
from dinor1.annotations.training_check import check_for_training
from dinor1.utils.errors import InputError

__all__ = ['MAX_FILES_CHECKED', 'TOLERANCE', 'check_coco']

# With more images than this, only the first file is looked up: on a network file system, each lookup may take 1 ms.
MAX_FILES_CHECKED = 20_000


def check_coco(data: Any, path: str, img_dir: str | None, skip: bool = False) -> tuple[list[dict], list[dict]]:
    """Check the content of a COCO file and the presence of its images.

    Suspicious class names are logged as warnings.

    Args:
        data: Content of the file.
        path: The file, for messages.
        img_dir: Folder that ``file_name`` is relative to; ``None``: images are not looked up.
        skip: Leave out defective annotations and images without a file, with one warning that counts them.

    Returns:
        The records of the images and of the annotations that can be used, each in the order of the file.

    Raises:
        InputError: the structure of the file is wrong, all category ids or boxes are wrong, an annotation is defective
            and ``skip`` is false, or no image exists.
    """
    # Check the structure and the names.
    defects = check_for_training(data, path)
    images, annotations = data['images'], data['annotations']
    for finding in name_warnings([category['name'] for category in data['categories']]):
        print_log(f'{path}: {finding.detail}; {finding.advice}', logger='current', level=logging.WARNING)

    # Report the first defective annotation, or the first missing image.
    if defects and not skip:
        index = min(defects)
        kind, detail = defects[index]
        identity = annotations[index].get('id') if isinstance(annotations[index], dict) else None
        others = f', and {len(defects) - 1} more defects' if len(defects) > 1 else ''
        raise InputError(
            f'{path}: annotation {identity} (entry {index}): {kind} ({detail}){others}; '
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

    # Leave out defective annotations and missing images.
    counts = Counter(kind for kind, _ in defects.values())
    counts['missing image file'] += len(missing)
    summary = ', '.join(f'{count} x {kind}' for kind, count in sorted(counts.items()) if count)
    print_log(f'{path}: left out {summary}', logger='current', level=logging.WARNING)
    missing_ids = {image['id'] for image in missing}
    images = [image for image in images if image['id'] not in missing_ids]
    annotations = [a for i, a in enumerate(annotations) if i not in defects and a['image_id'] not in missing_ids]
    return images, annotations


def _missing_files(images: list[dict], img_dir: str) -> list[dict]:
    looked_for = images if len(images) <= MAX_FILES_CHECKED else images[:1]
    return [image for image in looked_for if not os.path.isfile(os.path.join(img_dir, image['file_name']))]
