"""COCO's matching of detections and ground truth as arrays, for bootstrap intervals and counts of errors.

:mod:`dinor1.evaluation.coco_metric` applies the same rules with the official code, which returns averages only.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from dinor1.evaluation.detections import Detections

IOU_THRS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Matches:
    """Matches of D detections on I images, for K classes and T IoU thresholds.

    Attributes:
        image_ids: (I,) ids of all images, ascending.
        image: (D,) index into ``image_ids``.
        label: (D,) class.
        score: (D,).
        hit: (D, T) bool; True: the detection matches a box that is not a crowd.
        ignored: (D, T) bool; True: it matches a crowd, and is neither right nor wrong.
        positives: (I, K) number of boxes that are not crowds.
    """

    image_ids: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray


def pairwise_iou(detections: np.ndarray, boxes: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """IoU of each detection with each box.

    Args:
        detections: (D, 4), (x, y, width, height).
        boxes: (G, 4), (x, y, width, height).
        crowd: (G,) bool; True: the intersection is divided by the area of the detection instead of the union. None:
            no crowds.

    Returns:
        (D, G) in [0, 1]; 0 where both boxes have no area.
    """
    # Intersect all pairs of boxes, which are xywh.
    a, b = detections[:, None], boxes[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    overlap = sides.clip(min=0).prod(-1)
    # Divide by the union; for a crowd, divide by the area of the detection.
    area = a[..., 2:].prod(-1)
    union = area + b[..., 2:].prod(-1) - overlap
    if crowd is not None:
        union = np.where(crowd, area, union)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def match_image(
    detections: np.ndarray, boxes: np.ndarray, crowd: np.ndarray, iou_thrs: np.ndarray = IOU_THRS
) -> np.ndarray:
    """Match detections and boxes of one class in one image.

    In descending order of score, a detection takes the free box with the largest IoU; among equal IoUs, the later box.
    A detection that finds no free box may match a crowd, which any number of detections can match.

    Args:
        detections: (D, 4), (x, y, width, height), best first.
        boxes: (G, 4), (x, y, width, height).
        crowd: (G,) bool; True: crowd.
        iou_thrs: (T,) minimum IoU of a match.

    Returns:
        (D, T) index of the box; -1: no match.
    """
    found = np.full((len(detections), len(iou_thrs)), -1)
    if not len(boxes):
        return found
    overlap = pairwise_iou(detections, boxes, crowd)
    free = np.ones((len(iou_thrs), len(boxes)), dtype=bool)
    columns = np.arange(len(iou_thrs))
    for row, iou in enumerate(overlap):
        enough = free & (iou >= iou_thrs[:, None])
        # Boxes first, then crowds, for detections without a box.
        for kind in (~crowd, crowd):
            value = np.where(enough & kind, iou, -1.0)
            best = len(boxes) - 1 - value[:, ::-1].argmax(1)
            chosen = (value[columns, best] >= 0) & (found[row] < 0)
            found[row, chosen] = best[chosen]
            # Crowds stay free.
            if kind is not crowd:
                free[columns[chosen], best[chosen]] = False
    return found


def match_boxes(
    content: dict,
    detections: Detections,
    category_ids: np.ndarray,
    iou_thrs: np.ndarray = IOU_THRS,
    max_dets: int = 100,
) -> Matches:
    """Match the detections of all images.

    Args:
        content: Content of an annotation file, see :func:`~dinor1.evaluation.coco_metric.read_coco`.
        detections: ``image`` is an image id of the file.
        category_ids: (K,) category id of each label.
        iou_thrs: (T,) minimum IoU of a match.
        max_dets: Maximum number of detections per image and class; the best ones count.
    """
    image_ids = np.array(sorted(image['id'] for image in content['images']), dtype=np.int64)
    label_of = {int(category): label for label, category in enumerate(category_ids)}
    # Collect the boxes of each image and class.
    boxes = boxes_by_cell(content, label_of)
    positives = np.zeros((len(image_ids), len(category_ids)), dtype=np.int64)
    for (image, label), (_, crowd) in boxes.items():
        positives[np.searchsorted(image_ids, image), label] = (~crowd).sum()
    # Match image by image.
    rows, hits, ignored = [], [], []
    for cell, own in rows_by_cell(detections).items():
        own = own[:max_dets]
        box, crowd = boxes.get(cell, (np.zeros((0, 4)), np.zeros(0, dtype=bool)))
        found = match_image(detections.box[own], box, crowd, iou_thrs)
        on_crowd = (found >= 0) & np.append(crowd, False)[found]
        rows.append(own)
        hits.append((found >= 0) & ~on_crowd)
        ignored.append(on_crowd)
    # Concatenate the matches of all images.
    row = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    none = np.zeros((0, len(iou_thrs)), dtype=bool)
    return Matches(
        image_ids,
        np.searchsorted(image_ids, detections.image[row]),
        detections.label[row],
        detections.score[row],
        np.concatenate([none, *hits]),
        np.concatenate([none, *ignored]),
        positives,
    )


def boxes_by_cell(content: dict, label_of: dict[int, int]) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Boxes (G, 4) as (x, y, width, height), and a mask (G,) of crowds, of each pair of image id and label.

    Args:
        content: Content of an annotation file.
        label_of: Category id -> label; annotations of other categories are left out.
    """
    found = defaultdict(list)
    for annotation in content['annotations']:
        if annotation['category_id'] in label_of:
            found[annotation['image_id'], label_of[annotation['category_id']]].append(annotation)
    return {
        cell: (
            np.array([annotation['bbox'] for annotation in own], dtype=np.float64),
            np.array([bool(annotation.get('iscrowd', 0)) for annotation in own]),
        )
        for cell, own in found.items()
    }


def rows_by_cell(detections: Detections) -> dict[tuple[int, int], np.ndarray]:
    """Indices of the detections of each pair of image id and label, best first; equal scores keep their order."""
    order = np.lexsort((-detections.score, detections.label, detections.image))
    cells = np.stack([detections.image[order], detections.label[order]], 1)
    starts = np.flatnonzero((np.diff(cells, axis=0) != 0).any(1)) + 1
    groups = np.split(order, starts) if len(order) else []
    return {(int(detections.image[group[0]]), int(detections.label[group[0]])): group for group in groups}
