"""Detections of many images as annotation files that labelling tools and trainings read."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinor1.inference.output_formats import to_coco, to_labelme, to_odvg, to_yolo
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, write_json

FORMATS = ('coco', 'yolo', 'odvg', 'labelme')


def export_detections(
    records: Sequence[Mapping[str, Any]],
    file_names: Sequence[str],
    names: Sequence[str],
    out_dir: Path,
    format: str,
) -> tuple[list[Path], int]:
    """Write the detections of images as annotations.

    Paths of images are relative to the annotation file, so that the file loads without changes as long as the images
    are not moved. YOLO needs a folder of images next to the labels: ``images/`` has symbolic links to them, or copies
    if the file system has no links.

    Args:
        records: Per image the dict of :meth:`~dinor1.inference.DINOR1Inferencer.to_dict`, with a path.
        file_names: Per image the name of its own file, without suffix; they are distinct.
        names: Class names; a label is the index of its name in this list.
        out_dir: Folder to write to.
        format: ``'coco'`` (``annotations.json``), ``'odvg'`` (``annotations.jsonl`` and
            ``annotations_label_map.json``), ``'yolo'`` (``labels/``, ``images/`` and ``data.yaml``) or ``'labelme'``
            (``labelme/``).

    Returns:
        The files or folders that were written, the most important first; and the number of detections that were left
        out because their boxes have no area.

    Raises:
        InputError: the format is unknown, or a detection has a class that is not in ``names``.
    """
    if format not in FORMATS:
        raise InputError(f'unknown format {format!r}; give one of {", ".join(FORMATS)}')
    # Leave out boxes without area, which no format allows, and number the classes.
    cleaned = [_with_labels(_with_area(record), names) for record in records]
    left_out = sum(len(record['bboxes']) for record in records) - sum(len(record['bboxes']) for record in cleaned)
    # Write the files of all images together, or those of each image.
    if format in ('coco', 'odvg'):
        moved = [_relative(record, out_dir) for record in cleaned]
        written = _write_coco(moved, names, out_dir) if format == 'coco' else _write_odvg(moved, names, out_dir)
    elif format == 'yolo':
        written = _write_yolo(cleaned, file_names, names, out_dir)
    else:
        written = [out_dir / 'labelme']
        for record, name in zip(cleaned, file_names, strict=True):
            write_json(to_labelme(_relative(record, written[0])), written[0] / f'{name}.json', indent=2)
    return written, left_out


def _with_area(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = [i for i, (x1, y1, x2, y2) in enumerate(record['bboxes']) if x2 > x1 and y2 > y1]
    return dict(record) | {key: [record[key][i] for i in kept] for key in ('bboxes', 'scores', 'labels', 'names')}


def _with_labels(record: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The record with indices into ``names`` as labels."""
    index = {name: i for i, name in enumerate(names)}
    for name in record['names']:
        if name not in index:
            raise InputError(f'{record["img_path"]}: class {name!r} is not among {", ".join(names)}; detect again')
    return record | dict(labels=[index[name] for name in record['names']])


def _relative(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record with the path of its image relative to ``folder``."""
    path = os.path.relpath(Path(record['img_path']).resolve(), folder.resolve())
    return record | dict(img_path=Path(path).as_posix())


def _write_coco(records: Sequence[dict[str, Any]], names: Sequence[str], out_dir: Path) -> list[Path]:
    path = out_dir / 'annotations.json'
    write_json(to_coco(records, names), path)
    return [path]


def _write_odvg(records: Sequence[dict[str, Any]], names: Sequence[str], out_dir: Path) -> list[Path]:
    lines, label_map = to_odvg(records, names)
    path, map_path = out_dir / 'annotations.jsonl', out_dir / 'annotations_label_map.json'
    write_json(label_map, map_path, indent=1)
    with atomic_path(path) as temporary:
        temporary.write_text(''.join(f'{line}\n' for line in lines))
    return [path, map_path]


def _write_yolo(
    records: Sequence[dict[str, Any]], file_names: Sequence[str], names: Sequence[str], out_dir: Path
) -> list[Path]:
    # Write the labels, and link the images under the same name.
    labels, images = out_dir / 'labels', out_dir / 'images'
    for record, name in zip(records, file_names, strict=True):
        with atomic_path(labels / f'{name}.txt') as temporary:
            temporary.write_text(to_yolo(record))
        _link(Path(record['img_path']), images / f'{name}{Path(record["img_path"]).suffix}')
    # Write the data set's file. JSON is YAML too.
    path = out_dir / 'data.yaml'
    write_json(dict(train='images', val='images', names=list(names)), path, indent=2)
    return [path, labels, images]


def _link(image: Path, link: Path) -> None:
    """Link to an image, or copy it; nothing is done if the link is the image itself."""
    if link.exists() and link.resolve() == image.resolve():
        return
    with atomic_path(link) as temporary:
        temporary.unlink()
        try:
            temporary.symlink_to(image.resolve())
        except OSError:  # the file system or the user's rights allow no links
            shutil.copyfile(image, temporary)
