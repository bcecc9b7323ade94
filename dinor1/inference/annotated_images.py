"""Images with boxes from an annotation file."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from dinor1.annotations import check_path
from dinor1.utils.errors import InputError


class AnnotatedFiles(NamedTuple):
    """Image files with boxes.

    Attributes:
        images: Paths of n image files.
        boxes: Per image m boxes, pixel xyxy, m >= 1.
        names: Per image m class names.
        num_without_boxes: Number of images of the file that are left out because they have no box.
    """

    images: list[str]
    boxes: list[list[list[float]]]
    names: list[list[str]]
    num_without_boxes: int


def read_annotated(path: Path, img_dir: Path | None = None) -> AnnotatedFiles:
    """Read an annotation file in COCO or ODVG format, such as an export of ``dinor1 detect``.

    Crowd boxes are left out, because they show no single object.

    Args:
        path: The file.
        img_dir: Folder that file names are relative to; default: found near the file.

    Raises:
        InputError: the file has an error that ``dinor1 validate`` reports, or no box.
    """
    # Read and check the file and its images.
    ((checked,), _) = check_path(path, img_dir)
    for finding in checked.errors:
        raise InputError(f'{path}: {finding.detail}; `dinor1 validate {path}` lists all errors')
    content, folder = checked.content, checked.img_dir
    if folder is None:
        raise InputError(f'{path}: its images were not found; give --img-dir')
    # Collect the boxes of each image.
    names = {category['id']: category['name'] for category in content.data['categories']}
    boxes, labels = defaultdict(list), defaultdict(list)
    for annotation in content.data['annotations']:
        if not annotation.get('iscrowd'):
            x, y, width, height = annotation['bbox']
            boxes[annotation['image_id']].append([x, y, x + width, y + height])
            labels[annotation['image_id']].append(names[annotation['category_id']])
    # Keep the images with boxes.
    kept = [image for image in content.data['images'] if image['id'] in boxes]
    if not kept:
        raise InputError(f'{path}: no image has a box; draw at least one')
    files = [next(str(folder / n) for n in content.file_names(i) if (folder / n).is_file()) for i in kept]
    return AnnotatedFiles(
        files,
        [boxes[image['id']] for image in kept],
        [labels[image['id']] for image in kept],
        len(content.data['images']) - len(kept),
    )
