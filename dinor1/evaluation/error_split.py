"""Causes of errors: shares of detections and of objects by cause, at a score threshold.

The causes follow TIDE (Bolya et al. 2020, arXiv 2008.08115) with its IoU thresholds of 0.5 and 0.1. Each detection and
each object has exactly one cause, the first in this order that applies:

============== ======================================================================================================
detection
============== ======================================================================================================
right          it matches an object of its class, by the rules of COCO at an IoU of 0.5
duplicate      its IoU with an object of its class is 0.5 or more, but a better detection matches this object
confusion      its IoU with an object of another class is 0.5 or more
localisation   its IoU with an object of its class is 0.1 or more
background     all other detections
============== ======================================================================================================

============== ======================================================================================================
object
============== ======================================================================================================
found          a detection matches it
localisation   its IoU with a detection of its class is 0.1 or more
confusion      its IoU with a wrong detection of another class is 0.5 or more
missed         all other objects
============== ======================================================================================================

TIDE reports by how much AP would grow without an error; this module reports shares, which add up to 1.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from dinor1.evaluation.box_matching import boxes_by_cell, match_image, pairwise_iou, rows_by_cell
from dinor1.evaluation.detections import Detections

DETECTION_CAUSES = ('right', 'duplicate', 'confusion', 'localisation', 'background')
OBJECT_CAUSES = ('found', 'localisation', 'confusion', 'missed')
WELL, BARELY = 0.5, 0.1


def error_split(
    content: dict,
    detections: Detections,
    category_ids: np.ndarray,
    score_thr: float = 0.3,
    context: dict | None = None,
) -> dict[str, float]:
    """Shares of the causes among detections and among objects.

    Args:
        content: Content of the annotation file, with the objects to find.
        detections: ``image`` is an image id.
        category_ids: (K,) category id of each label.
        score_thr: Detections with lower scores are left out.
        context: Annotations with all objects of the images, also those that need not be found, such as exemplars: the
            causes of detections refer to them. None: those of ``content``.

    Returns:
        ``detection_CAUSE`` and ``object_CAUSE`` in [0, 1], -1 without detections or objects; ``detections`` and
        ``objects``, their numbers. Crowds are not objects, and detections on them do not count.
    """
    # Collect boxes and detections by image.
    label_of = {int(category): label for label, category in enumerate(category_ids)}
    boxes = boxes_by_cell(content, label_of)
    around = _by_image(boxes if context is None else boxes_by_cell(context, label_of))
    detections = detections.select(detections.score >= score_thr)
    to_find, rows = _by_image(boxes), _by_image(rows_by_cell(detections))
    # Count the causes, image by image.
    by_detection, by_object = np.zeros(len(DETECTION_CAUSES), int), np.zeros(len(OBJECT_CAUSES), int)
    for image in sorted({*to_find, *rows}):
        own_boxes = to_find.get(image, {})
        everything = {label: box[~crowd] for label, (box, crowd) in around.get(image, {}).items()}
        own_rows = {label: detections.box[row] for label, row in rows.get(image, {}).items()}
        of_detections, of_objects = _split_image(own_boxes, everything, own_rows)
        by_detection += np.bincount(of_detections, minlength=len(DETECTION_CAUSES))
        by_object += np.bincount(of_objects, minlength=len(OBJECT_CAUSES))
    # Convert counts to shares.
    result = dict(detections=float(by_detection.sum()), objects=float(by_object.sum()))
    for what, names, counts in (
        ('detection', DETECTION_CAUSES, by_detection),
        ('object', OBJECT_CAUSES, by_object),
    ):
        shares = counts / counts.sum() if counts.sum() else np.full(len(counts), -1.0)
        result |= {f'{what}_{name}': float(share) for name, share in zip(names, shares, strict=True)}
    return result


def _by_image(cells: dict[tuple[int, int], Any]) -> dict[int, dict[int, Any]]:
    """Convert a dict by (image id, label) to nested dicts, by image id and then by label."""
    found: dict[int, dict[int, Any]] = defaultdict(dict)
    for (image, label), entry in cells.items():
        found[image][label] = entry
    return found


def _split_image(
    boxes: dict[int, tuple[np.ndarray, np.ndarray]],
    everything: dict[int, np.ndarray],
    rows: dict[int, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the causes of the detections and of the objects of an image.

    Args:
        boxes: Boxes to find, and a mask of crowds, by label.
        everything: All objects by label.
        rows: Boxes of the detections by label, best first.
    """
    nothing = np.zeros((0, 4))
    matched, of_detections, wrong = {}, [np.zeros(0, dtype=np.int64)], {}
    # Find the cause of each detection.
    for label, found in rows.items():
        box, crowd = boxes.get(label, (nothing, np.zeros(0, dtype=bool)))
        match = match_image(found, box, crowd, np.array([WELL]))[:, 0]
        on_crowd = (match >= 0) & np.append(crowd, False)[match]
        matched[label] = match[(match >= 0) & ~on_crowd]
        same = _best(found, everything.get(label, nothing))
        others = [other for name, other in everything.items() if name != label]
        other = _best(found, np.concatenate([nothing, *others]))
        cause = np.select([(match >= 0) & ~on_crowd, same >= WELL, other >= WELL, same >= BARELY], [0, 1, 2, 3], 4)
        of_detections.append(cause[~on_crowd])
        wrong[label] = found[cause != 0]
    # Find the cause of each object.
    of_objects = [np.zeros(0, dtype=np.int64)]
    for label, (box, crowd) in boxes.items():
        is_found = np.isin(np.arange(len(box)), matched.get(label, []))
        near = _best(box, rows.get(label, nothing)) >= BARELY
        others = [other for name, other in wrong.items() if name != label]
        confused = _best(box, np.concatenate([nothing, *others])) >= WELL
        of_objects.append(np.select([is_found, near, confused], [0, 1, 2], 3)[~crowd])
    return np.concatenate(of_detections), np.concatenate(of_objects)


def _best(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) largest IoU of each box with the other boxes; 0 without other boxes."""
    return pairwise_iou(boxes, others).max(1, initial=0.0)
