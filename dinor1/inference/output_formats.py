"""Detections in the formats of other tools: supervision, COCO and YOLO.

Each function takes samples of :meth:`~dinor1.inference.DINOR1Inferencer.predict`: ``pred_instances`` with boxes in
pixels xyxy of the original image, whose size is ``ori_shape``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample

from dinor1.utils.errors import InputError


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


def to_coco(samples: Sequence[DetDataSample], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Detections of several images as the content of a COCO annotation file, with a ``score`` per annotation.

    Args:
        samples: Detections, one sample per image, each with a path.
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
    for i, sample in enumerate(samples, 1):
        # Add the image.
        if not sample.img_path:
            raise InputError(f'to_coco: sample {i - 1} has no path: its image was given as an array; give paths')
        height, width = sample.ori_shape[:2]
        images.append(dict(id=i, file_name=str(sample.img_path), width=int(width), height=int(height)))
        # Add its detections.
        found = sample.pred_instances.cpu()
        if len(found) and int(found.labels.max()) >= len(names):
            raise InputError(f'to_coco: label {int(found.labels.max())} has no name; give the names of all prompts')
        for box, label, score in zip(found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True):
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


def to_yolo(sample: DetDataSample, with_scores: bool = False) -> str:
    """Detections of an image as the content of a YOLO label file.

    Args:
        sample: Detections of the image.
        with_scores: Whether each line ends with the score, as in predictions of YOLO tools.

    Returns:
        A line ``label cx cy width height [score]`` per detection; the box is relative to the image, in [0, 1].
    """
    height, width = sample.ori_shape[:2]
    found, lines = sample.pred_instances.cpu(), []
    for (x1, y1, x2, y2), label, score in zip(
        found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
    ):
        # Normalise the box by the size of the image.
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        numbers = [*box, score] if with_scores else box
        lines.append(' '.join([str(label), *(f'{number:.6f}' for number in numbers)]))
    return ''.join(f'{line}\n' for line in lines)
