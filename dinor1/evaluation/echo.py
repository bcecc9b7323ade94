"""The echo, a detector that returns its own prompt boxes: a trivial baseline for visual-interactive prompts."""

from collections.abc import Mapping, Sequence

import numpy as np

from dinor1.evaluation.detections import Detections
from dinor1.evaluation.visual_generic import Exemplar


def echo_detections(exemplars: Mapping[int, Sequence[Exemplar]]) -> Detections:
    """The exemplars of every image as detections with score 1.

    The echo finds one instance of each class of an image and makes no error. Its AP is therefore about the share of
    instances that are the only one of their class in their image. Compare the plain visual-interactive AP of a detector
    with this baseline.

    Args:
        exemplars: Image id -> exemplars, from :func:`~dinor1.evaluation.draw_interactive`.

    Returns:
        Detections whose ``image`` is an image id.
    """
    parts = []
    for image, drawn in exemplars.items():
        boxes = np.array([exemplar.bbox for exemplar in drawn], dtype=np.float64).reshape(-1, 4)
        labels = np.array([exemplar.label for exemplar in drawn], dtype=np.int64)
        parts.append(Detections.of_image(image, boxes, np.ones(len(drawn)), labels))
    return Detections.concatenate(parts)
