"""Checks of predictions, shared by all box metrics: classes and images must agree with the annotation file."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from dinor1.evaluation.detections import Detections
from dinor1.utils.errors import InputError


def match_classes(names: Sequence[str], categories: Sequence[str], ann_file: str) -> np.ndarray:
    """Index of each class of the data set among the categories of the annotation file, (K,) int64.

    Raises:
        InputError: a class is not a category of the file, or is given twice.
    """
    indices = {name: index for index, name in enumerate(categories)}
    unknown = [name for name in names if name not in indices]
    if unknown:
        raise InputError(
            f'{ann_file}: {len(unknown)} of the {len(names)} classes of the data set are not categories there, such as '
            f'{unknown[0]!r}; let data set and metric read the same annotations'
        )
    if len(set(names)) < len(names):
        raise InputError('the data set lists a class twice; make its class names unique')
    return np.array([indices[name] for name in names], dtype=np.int64)


def validated_detections(sample: dict[str, Any], images: Container[int], num_classes: int, ann_file: str) -> Detections:
    """Check the predictions for one image and return them as :class:`Detections`.

    Args:
        sample: A data sample as a dict, with ``img_id`` and ``pred_instances``.
        images: Ids of the images of the annotation file.
        num_classes: Number of classes of the data set.
        ann_file: The annotation file, for messages.

    Raises:
        InputError: the image is not in the file, or a detection has an infinite or NaN value or an invalid class.
    """
    image, predicted = sample['img_id'], sample['pred_instances']
    if image not in images:
        raise InputError(f'image {image} is not in {ann_file}; let data set and metric read the same annotations')
    # Convert to float32, because NumPy has no bfloat16.
    boxes, scores = (predicted[key].float().cpu().numpy() for key in ('bboxes', 'scores'))
    labels = predicted['labels'].cpu().numpy()
    # Check values and classes.
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError(f'image {image}: boxes or scores of the detector are not finite; check the checkpoint')
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise InputError(
            f'image {image}: the detector reports class {wrong[0]}, but the data set has classes 0 to '
            f'{num_classes - 1}; give the model the classes of this data set'
        )
    return Detections.of_image(image, boxes, scores, labels)
