"""Detections in the formats of other tools: supervision, COCO, YOLO, ODVG and labelme.

Each function takes samples of :meth:`~dinor1.inference.DINOR1Inferencer.predict`: ``pred_instances`` with boxes in
pixels xyxy of the original image, whose size is ``ori_shape``. All except :func:`to_supervision` also take the dicts
that :meth:`~dinor1.inference.DINOR1Inferencer.to_dict` returns and ``dinor1 detect`` writes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from mmdet.structures import DetDataSample

from dinor1.annotations.odvg import from_coco
from dinor1.utils.errors import InputError

# A sample of ``predict``, or its dict.
Detections: TypeAlias = DetDataSample | Mapping[str, Any]


def to_record(sample: DetDataSample) -> dict[str, Any]:
    """Convert a sample to numbers and strings, for JSON: see :meth:`~dinor1.inference.DINOR1Inferencer.to_dict`."""
    found, (height, width) = sample.pred_instances.cpu(), sample.ori_shape[:2]
    return dict(
        img_path=sample.img_path,
        width=int(width),
        height=int(height),
        bboxes=found.bboxes.tolist(),
        scores=found.scores.tolist(),
        labels=found.labels.tolist(),
        names=list(found.label_names),
    )


def to_supervision(sample: DetDataSample) -> dict[str, Any]:
    """Detections of an image as the fields of ``supervision.Detections``.

    ``supervision.Detections(**to_supervision(sample))`` builds the object; this function does not need the package.

    Returns:
        ``xyxy`` (n, 4) float32 in pixels, ``confidence`` (n,) float32 in [0, 1], ``class_id`` (n,) int64, and ``data``
        with ``class_name`` (n strings).
    """
    found = sample.pred_instances.cpu()
    return dict(
        xyxy=found.bboxes.numpy().astype(np.float32).reshape(-1, 4),
        confidence=found.scores.numpy().astype(np.float32),
        class_id=found.labels.numpy().astype(np.int64),
        data=dict(class_name=np.array(list(found.label_names), dtype=str)),
    )


def as_record(sample: Detections) -> Mapping[str, Any]:
    """The dict of a sample; a dict is returned as it is."""
    return sample if isinstance(sample, Mapping) else to_record(sample)


def to_coco(samples: Sequence[Detections], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Detections of several images as the content of a COCO annotation file, with a ``score`` per annotation.

    Args:
        samples: Detections, one sample or dict per image, each with a path.
        names: Class names by label; categories get the ids 1 to n in this order.

    Returns:
        ``images``, ``annotations`` and ``categories``. Boxes are (x, y, width, height) in pixels.

    Raises:
        InputError: a label has no name, or an image was given as an array, and therefore has no file name.
    """
    if isinstance(names, str):
        raise InputError(f'to_coco: names must be a list of class names, got the text {names!r}')
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, record in enumerate(map(as_record, samples), 1):
        # Add the image.
        if not record['img_path']:
            raise InputError(f'to_coco: sample {i - 1} has no path: its image was given as an array; give paths')
        images.append(dict(id=i, file_name=str(record['img_path']), width=record['width'], height=record['height']))
        # Add its detections.
        highest = max(record['labels'], default=-1)
        if highest >= len(names):
            raise InputError(f'to_coco: label {highest} has no name; give the names of all prompts')
        for box, label, score in zip(record['bboxes'], record['labels'], record['scores'], strict=True):
            w, h = box[2] - box[0], box[3] - box[1]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i,
                    category_id=label + 1,
                    bbox=[box[0], box[1], w, h],
                    area=w * h,
                    iscrowd=0,
                    score=score,
                )
            )
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    return dict(images=images, annotations=annotations, categories=categories)


def to_odvg(samples: Sequence[Detections], names: Sequence[str]) -> tuple[Iterator[str], dict[str, str]]:
    """Detections of several images as the lines of an ODVG file, and the content of its label map.

    ODVG has no field for scores.

    Args:
        samples: Detections, one sample or dict per image, each with a path.
        names: Class names by label.

    Returns:
        One line of JSON per image; and the class name by label.

    Raises:
        InputError: see :func:`to_coco`.
    """
    content = to_coco(samples, names)
    return from_coco(**content, name_of=lambda image: image['file_name'])


def to_yolo(sample: Detections, with_scores: bool = False) -> str:
    """Detections of an image as the content of a YOLO label file.

    Args:
        sample: Detections of the image.
        with_scores: Whether each line ends with the score, as in predictions of YOLO tools.

    Returns:
        A line ``label cx cy width height [score]`` per detection; the box is relative to the image, in [0, 1].
    """
    record, lines = as_record(sample), []
    width, height = record['width'], record['height']
    for (x1, y1, x2, y2), label, score in zip(record['bboxes'], record['labels'], record['scores'], strict=True):
        # Normalise the box by the size of the image.
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        numbers = [*box, score] if with_scores else box
        lines.append(' '.join([str(label), *(f'{number:.6f}' for number in numbers)]))
    return ''.join(f'{line}\n' for line in lines)


def to_labelme(sample: Detections) -> dict[str, Any]:
    """Detections of an image as the content of a labelme file, with rectangles.

    Returns:
        The keys of labelme's files: ``version``, ``flags``, ``shapes``, ``imagePath``, ``imageData`` (None: labelme
        reads the image from its path), ``imageHeight`` and ``imageWidth``. A shape also has the ``score``.

    Raises:
        InputError: the image was given as an array, and therefore has no path.
    """
    record = as_record(sample)
    if not record['img_path']:
        raise InputError('to_labelme: the sample has no path: its image was given as an array; give a path')
    shapes = [
        dict(
            label=name,
            points=[[x1, y1], [x2, y2]],
            group_id=None,
            description='',
            shape_type='rectangle',
            flags={},
            score=score,
        )
        for (x1, y1, x2, y2), name, score in zip(record['bboxes'], record['names'], record['scores'], strict=True)
    ]
    return dict(
        version='5.0.0',
        flags={},
        shapes=shapes,
        imagePath=str(record['img_path']),
        imageData=None,
        imageHeight=record['height'],
        imageWidth=record['width'],
    )
