"""Import of annotation files into a project, and export of its annotations."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.annotate.project import Project, new_id
from dinor1.annotate.records import ACCEPTED, PROPOSED, Box, check_bbox, check_name
from dinor1.annotations import check_path
from dinor1.inference import export_detections
from dinor1.inference.image_files import output_paths
from dinor1.utils.errors import InputError

FORMATS = ('coco', 'yolo', 'odvg')


class Imported(NamedTuple):
    """Result of an import.

    Attributes:
        num_boxes: Number of new boxes.
        num_images: Number of images with new boxes.
        num_present: Number of boxes that existed already.
        num_elsewhere: Number of boxes on images that are not in the folder.
        num_crowd: Number of crowd boxes, which are left out because they do not show a single object.
    """

    num_boxes: int
    num_images: int
    num_present: int
    num_elsewhere: int
    num_crowd: int

    def __str__(self) -> str:
        left_out = (
            (self.num_present, 'existed already'),
            (self.num_elsewhere, 'on images that are not in this folder'),
            (self.num_crowd, 'crowd boxes left out'),
        )
        rest = ''.join(f'; {count} {why}' for count, why in left_out if count)
        return f'{self.num_boxes} boxes on {self.num_images} images imported{rest}'


def import_annotations(project: Project, path: Path) -> Imported:
    """Add the boxes of a COCO or ODVG file to a project.

    Boxes become annotations. Boxes with a score below 1, as ``dinor1 detect --export coco`` writes them, become
    proposals. Images are found by their file names without folders. Segmentations are not read. If the file has an
    error, the project is not changed.

    Args:
        project: The project.
        path: The file.

    Raises:
        InputError: the file has an error that ``dinor1 validate`` reports, or none of its images is in the folder.
    """
    # Read and check the file.
    ((checked,), _) = check_path(path, check_images=False)
    for finding in checked.errors:
        raise InputError(f'{path.name}: {finding.detail}; `dinor1 validate` lists all errors')
    data = checked.content.data
    # Find the images of the file in the folder.
    by_name = {project.files.name(image): image for image in project.files}
    images = {record['id']: by_name.get(Path(record['file_name']).name) for record in data['images']}
    if not any(images.values()):
        raise InputError(f'{path.name}: none of its {len(images)} images is in this folder; give another file')
    repeated = [image for image, count in Counter(filter(None, images.values())).items() if count > 1]
    if repeated:
        name = project.files.name(repeated[0])
        raise InputError(f'{path.name}: several of its images are named {name}; give a file of this folder only')
    # Check all boxes before the first is added.
    names = {record['id']: check_name(record['name'], path.name) for record in data['categories']}
    boxes: dict[str, list[tuple[int, Any, float | None]]] = defaultdict(list)
    num_crowd = num_elsewhere = 0
    for annotation in data['annotations']:
        image = images.get(annotation['image_id'])
        if annotation.get('iscrowd'):
            num_crowd += 1
        elif image is None:
            num_elsewhere += 1
        else:
            x, y, width, height = annotation['bbox']
            size, where = project.image_size(image), f'{path.name}: {project.files.name(image)}'
            bbox = check_bbox([x, y, x + width, y + height], where, size)
            score = annotation.get('score')
            boxes[image].append((annotation['category_id'], bbox, score if _is_score(score) else None))
    # Add classes and boxes.
    used = dict.fromkeys(category for entries in boxes.values() for category, _, _ in entries)
    classes = {
        category: project.class_named(names[category]) or project.add_class(names[category]) for category in used
    }
    num_new = num_images = 0
    for image, entries in boxes.items():
        new = [
            Box(new_id(), bbox, classes[category].id, ACCEPTED if score is None else PROPOSED, score)
            for category, bbox, score in entries
        ]
        count = project.add_boxes(image, new)
        num_new, num_images = num_new + count, num_images + bool(count)
    num_present = sum(map(len, boxes.values())) - num_new
    return Imported(num_new, num_images, num_present, num_elsewhere, num_crowd)


class Exported(NamedTuple):
    """Result of an export.

    Attributes:
        paths: Files and folders that were written; the most important one comes first.
        num_images: Number of images.
        num_boxes: Number of annotations.
        num_proposals: Number of proposals on these images, which are not exported.
        unreadable: One line for each image that is left out because it cannot be read.
    """

    paths: list[Path]
    num_images: int
    num_boxes: int
    num_proposals: int
    unreadable: list[str]


def export_project(project: Project, format: str, all_images: bool = False, out_dir: Path | None = None) -> Exported:
    """Write the annotations of a project.

    Args:
        project: The project.
        format: ``'coco'``, ``'yolo'`` or ``'odvg'``.
        all_images: Whether images that are not checked are exported too if they have annotations.
        out_dir: Folder to write to; default: ``export/FORMAT`` in the work directory.

    Raises:
        InputError: the format is unknown, or there is no image to export.
    """
    if format not in FORMATS:
        raise InputError(f'unknown format {format!r}; give one of {", ".join(FORMATS)}')
    # Collect the images, and read the sizes that are not known yet.
    names = {c.id: c.name for c in project.classes}
    records: list[dict[str, Any]] = []
    unreadable: list[str] = []
    num_proposals = 0
    for image in project.files:
        record = project.record(image)
        boxes = record.with_status(ACCEPTED)
        if not (record.checked or (all_images and boxes)):
            continue
        try:
            width, height = project.image_size(image)
            path = project.files.path(image)
        except InputError as error:
            unreadable.append(str(error))
            continue
        num_proposals += len(record.with_status(PROPOSED))
        records.append(
            dict(
                img_path=str(path),
                width=width,
                height=height,
                bboxes=[list(box.bbox) for box in boxes],
                # The user has confirmed the boxes.
                scores=[1.0] * len(boxes),
                labels=[0] * len(boxes),
                names=[names[box.class_id] for box in boxes],
            )
        )
    if not records:
        if all_images:
            raise InputError('no image has a box; draw or accept one first')
        raise InputError('no image is checked; press C on finished images, or export all images with boxes')
    # Write the files.
    out_dir = out_dir or project.work_dir / 'export' / format
    outputs = output_paths([record['img_path'] for record in records], out_dir)
    written, _ = export_detections(records, [path.stem for _, path in outputs], list(names.values()), out_dir, format)
    num_boxes = sum(len(record['bboxes']) for record in records)
    return Exported(written, len(records), num_boxes, num_proposals, unreadable)


def _is_score(score: Any) -> bool:
    """Whether the score of an annotation is that of a detector; the boxes of a user have the score 1 or none."""
    return type(score) in (int, float) and 0 <= score < 1
