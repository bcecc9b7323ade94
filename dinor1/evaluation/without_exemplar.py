"""Visual-interactive evaluation without the exemplar: instances that a detector finds besides its prompt box."""

from collections.abc import Mapping, Sequence

import numpy as np

from dinor1.evaluation.box_matching import boxes_by_cell, pairwise_iou, rows_by_cell
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.visual_generic import Exemplar
from dinor1.utils.errors import InputError

IGNORE_IOU = 0.5
# Tolerance of the sides of a box in pixels: those of a data set and of its annotation file differ by rounding only.
_SAME = 1e-3


def without_exemplars(
    content: dict,
    detections: Detections,
    exemplars: Mapping[int, Sequence[Exemplar]],
    category_ids: np.ndarray,
) -> tuple[dict, Detections]:
    """Leave the exemplars, and the detections that overlap them, out of annotations and detections.

    The rest is evaluated by the ordinary rules of COCO:

    - A class is evaluated in an image if the image shows an instance of it besides the exemplar. The boxes and the
      detections of all other pairs of image and class are left out, also of classes without an exemplar.
    - The exemplar does not count as found or missed. Neither does an instance that overlaps it with an IoU above 0.5,
      because a detection could belong to either.
    - Any number of detections of its class that overlap the exemplar with an IoU above 0.5 are neither right nor wrong.
      This differs from COCO's rule for ignored boxes, which ignores one detection above the threshold of the evaluation
      (or, for a crowd, any detection on it).
    - Crowds are kept, and do not count as instances.

    With these rules, the echo (:mod:`dinor1.evaluation.echo`) has an AP of 0, and a detector that returns the ground
    truth has an AP of 1.

    Args:
        content: Content of an annotation file; it is not changed.
        detections: ``image`` is an image id.
        exemplars: Image id -> exemplars, from :func:`~dinor1.evaluation.draw_interactive`.
        category_ids: (K,) category id of each label.

    Returns:
        The annotations and the detections that count.

    Raises:
        InputError: an exemplar is not a box of the annotations.
    """
    label_of = {int(category): label for label, category in enumerate(category_ids)}
    boxes, rows = boxes_by_cell(content, label_of), rows_by_cell(detections)
    kept_boxes: dict[tuple[int, int], np.ndarray] = {}
    kept_rows = [np.zeros(0, dtype=np.int64)]
    for image, drawn in exemplars.items():
        for exemplar in drawn:
            cell = (image, exemplar.label)
            box, crowd = boxes.get(cell, (np.zeros((0, 4)), np.zeros(0, dtype=bool)))
            shown = _find(exemplar, box, crowd)
            # Keep the other boxes, if any of them is an instance.
            kept = crowd | (pairwise_iou(box, shown)[:, 0] <= IGNORE_IOU)
            if not (kept & ~crowd).any():
                continue
            kept_boxes[cell] = kept
            # Keep the detections that do not overlap the exemplar.
            own = rows.get(cell, np.zeros(0, dtype=np.int64))
            kept_rows.append(own[pairwise_iou(detections.box[own], shown)[:, 0] <= IGNORE_IOU])
    # Select boxes and detections, in their original order.
    position = dict.fromkeys(kept_boxes, 0)
    annotations = []
    for annotation in content['annotations']:
        cell = (annotation['image_id'], label_of.get(annotation['category_id'], -1))
        if cell in kept_boxes:
            if kept_boxes[cell][position[cell]]:
                annotations.append(annotation)
            position[cell] += 1
    return content | dict(annotations=annotations), detections.select(np.sort(np.concatenate(kept_rows)))


def _find(exemplar: Exemplar, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """The exemplar as (1, 4), (x, y, width, height).

    Raises:
        InputError: an exemplar is not one of the boxes.
    """
    corners = np.array(exemplar.bbox, dtype=np.float64)
    box = np.concatenate([corners[:2], corners[2:] - corners[:2]])[None]
    if not ((np.abs(boxes - box) < _SAME).all(1) & ~crowd).any():
        raise InputError(
            f'image {exemplar.img_id}: the exemplar {tuple(round(float(c), 1) for c in corners)} is not a box of its '
            'class in the annotations of the metric; let data set and metric read the same annotations'
        )
    return box
