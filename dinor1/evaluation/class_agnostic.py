"""Class-agnostic average recall: the share of objects that have a detected box of any class."""

import dataclasses

import numpy as np

from dinor1.evaluation.coco_metric import coco_curves
from dinor1.evaluation.detections import Detections


def class_agnostic_recall(content: dict, detections: Detections, backend: str = 'faster_coco_eval') -> float:
    """COCO's average recall of the 100 best boxes of each image, with all classes merged into one.

    It is an upper bound of the recall that any classification of these boxes can reach. Boxes that a detector reports
    with several classes count once, with their best score. Crowds do not count.

    Args:
        content: Content of the annotation file; it is not changed.
        detections: ``image`` is an image id.
        backend: See :func:`~dinor1.evaluation.coco_metric.coco_curves`.

    Returns:
        Mean over the ten IoU thresholds in [0, 1]; -1 without an object.
    """
    # Merge all classes into one.
    annotations = [dict(annotation, category_id=1) for annotation in content['annotations']]
    alone = dict(images=content['images'], annotations=annotations, categories=[dict(id=1, name='object')])
    found = _distinct(detections)
    found = dataclasses.replace(found, label=np.zeros(len(found), dtype=np.int64))
    _, recall = coco_curves(alone, list(found.records(np.array([1]))), [1], backend)
    return float(recall[:, 0, 0, -1].mean())


def _distinct(detections: Detections) -> Detections:
    """Keep the best of the detections of an image with equal boxes."""
    order = np.argsort(-detections.score, kind='stable')
    key = np.concatenate([detections.image[order, None], detections.box[order]], axis=1)
    _, first = np.unique(key, axis=0, return_index=True)
    return detections.select(order[np.sort(first)])
