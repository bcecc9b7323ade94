"""A simulated annotator who labels a set of images with the help of a detector, and the time of this work.

The policy was fixed before the first measurement:

1. Annotate ``num_drawn`` images by hand, chosen at random: draw every box.
2. Prompt the detector with all of these boxes.
3. On the next ``num_checked`` images, confirm or remove every detection with a score of at least 0.1, by one click
   each. The threshold of each class follows from these clicks
   (:func:`~dinor1.inference.operating_point.operating_points`).
4. On all other images, look at the detections that reach the threshold of their class.

A detection is right if its IoU with an object of its class is at least 0.7. If its IoU with an object of another class
is at least 0.7, one click gives it the right class. All other detections are removed by one click each. Then missing
objects are drawn. There are three ways to use the detections:

- ``correct``: all of these actions are done, also on the images of step 3. The labels are those of the annotator.
- ``reject``: wrong detections are removed, and no box is drawn after step 1. Some objects are therefore missing.
- ``unchecked``: no image is inspected after step 3. The labels are the detections with their scores.

The reference is to draw every box by hand. With ``correct``, ``reject`` and the reference, the annotator inspects each
image once to find missing objects. ``unchecked`` images are not inspected.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from dinor1.evaluation.bootstrap import weighted_ap
from dinor1.evaluation.box_matching import match_boxes, match_image
from dinor1.evaluation.detections import Detections
from dinor1.inference.operating_point import operating_points

MIN_SCORE, RIGHT_IOU, NUM_CHECKED = 0.1, 0.7, 5
WAYS = ('correct', 'reject', 'unchecked')


@dataclass(frozen=True)
class Costs:
    """Seconds of the annotator's actions.

    The sources are cited from memory and were not verified:

    - Drawing a box: 34.5 s for boxes of ImageNet, 25.5 s to draw and 9.0 s to verify it (Su, Deng and Fei-Fei,
      "Crowdsourcing annotations for visual object detection", 2012); 7 s by clicks on the four extreme points
      (Papadopoulos et al., "Extreme clicking for efficient object annotation", ICCV 2017).
    - A click: 1.6 s to accept or reject a shown box (Papadopoulos et al., "We don't need no bounding-boxes", CVPR
      2016).
    - Inspecting an image for missing objects: 7.8 s (coverage verification of Su et al.).

    Attributes:
        draw: Seconds to draw a box.
        click: Seconds to confirm, remove or relabel a detection.
        check: Seconds to inspect an image.
    """

    draw: float = 7.0
    click: float = 1.6
    check: float = 7.8


@dataclass(frozen=True)
class Work:
    """Work of an annotator.

    Attributes:
        drawn: Number of boxes that were drawn.
        clicks: Number of clicks on detections.
        checks: Number of images that were inspected.
    """

    drawn: int = 0
    clicks: int = 0
    checks: int = 0

    def __add__(self, other: 'Work') -> 'Work':
        return Work(self.drawn + other.drawn, self.clicks + other.clicks, self.checks + other.checks)

    def hours(self, costs: Costs) -> float:
        """Time of the work in hours."""
        return (self.drawn * costs.draw + self.clicks * costs.click + self.checks * costs.check) / 3600


class Objects(NamedTuple):
    """Boxes on an image.

    Attributes:
        boxes: (n, 4) pixel xyxy.
        labels: (n,) indices of classes.
        scores: (n,) in [0, 1]; 1 for boxes that an annotator has drawn or confirmed.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, boxes: Any, labels: Any, scores: Any = None) -> 'Objects':
        """Make objects of lists; the scores are 1 if none are given."""
        array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.ones(len(array)) if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
        return cls(array, np.asarray(labels, dtype=np.int64).reshape(-1), scores)

    def select(self, rows: np.ndarray) -> 'Objects':
        """Select some of the objects by a mask or by indices."""
        return Objects(self.boxes[rows], self.labels[rows], self.scores[rows])


class Corrected(NamedTuple):
    """Result of :func:`correct_image`.

    Attributes:
        labels: Right and relabelled detections, then the drawn boxes; scores are 1.
        confirmed: Right detections only; scores are 1.
        right: (n,) True = the detection is right.
        work: Work of the annotator.
        rejecting: Work of an annotator who only removes detections.
    """

    labels: Objects
    confirmed: Objects
    right: np.ndarray
    work: Work
    rejecting: Work


class Simulation(NamedTuple):
    """Result of :func:`simulate`.

    Attributes:
        work: Work of the annotator for each way; ``draw all`` is the reference.
        labels: Objects of each image for each way.
        thresholds: Threshold of step 3 for each class.
    """

    work: dict[str, Work]
    labels: dict[str, list[Objects]]
    thresholds: dict[str, float]


def correct_image(found: Objects, truth: Objects) -> Corrected:
    """Simulate an annotator who corrects the detections on one image.

    Args:
        found: The detections.
        truth: The objects.
    """
    # Find right detections, class by class.
    order = np.argsort(-found.scores, kind='stable')
    right, free = np.zeros(len(found.boxes), bool), np.ones(len(truth.boxes), bool)
    for label in np.unique(found.labels):
        rows, objects = order[found.labels[order] == label], np.flatnonzero(truth.labels == label)
        matched = _matches(found.boxes[rows], truth.boxes[objects])
        right[rows[matched >= 0]] = True
        free[objects[matched[matched >= 0]]] = False
    # Find wrong detections that are on an object of another class.
    rows, objects = order[~right[order]], np.flatnonzero(free)
    matched = _matches(found.boxes[rows], truth.boxes[objects])
    relabelled, new_labels = rows[matched >= 0], truth.labels[objects[matched[matched >= 0]]]
    free[objects[matched[matched >= 0]]] = False
    # Collect the boxes that are kept, relabelled and drawn.
    kept, drawn = found.select(right), truth.select(free)
    labels = Objects.of(
        np.concatenate([kept.boxes, found.boxes[relabelled], drawn.boxes]),
        np.concatenate([kept.labels, new_labels, drawn.labels]),
    )
    clicks = int((~right).sum())
    return Corrected(
        labels, Objects.of(kept.boxes, kept.labels), right, Work(int(free.sum()), clicks, 1), Work(0, clicks, 1)
    )


def _matches(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(n,) index of the object that each box (n, 4) matches, best box first; -1: none."""
    sizes = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1) for b in (boxes, objects)]
    return match_image(sizes[0], sizes[1], np.zeros(len(objects), bool), np.array([RIGHT_IOU]))[:, 0]


def simulate(
    truth: Sequence[Objects],
    names: Sequence[str],
    detect: Callable[[Sequence[int], Sequence[int]], Sequence[Objects]],
    num_drawn: int,
    seed: int,
    num_checked: int = NUM_CHECKED,
) -> Simulation:
    """Label a set of images by the policy above.

    Args:
        truth: The objects of each image.
        names: Class names by label.
        detect: Function of the indices of the annotated images and of the images to search. It returns the detections
            with a score of at least 0.1 on the images to search, prompted by all boxes of the annotated images.
        num_drawn: Number of images annotated by hand, at least 1.
        seed: Seed of the order of the images.
        num_checked: Number of images on which every detection is confirmed or removed.
    """
    # Step 1: draw by hand. Images without objects give no prompts, and are skipped.
    order = np.random.default_rng(seed).permutation(len(truth))
    by_hand = [int(i) for i in order if len(truth[i].boxes)][:num_drawn]
    others = [int(i) for i in order if int(i) not in by_hand]
    hand = Work(sum(len(truth[i].boxes) for i in by_hand), 0, len(by_hand))
    # Step 2: detect objects with these prompts.
    found = dict(zip(others, detect(by_hand, others), strict=True))
    # Step 3: confirm or remove, and choose thresholds.
    scores, labels, flags, confirming = [], [], [], Work()
    for i in others[:num_checked]:
        right = correct_image(found[i], truth[i]).right
        scores += found[i].scores.tolist()
        labels += [names[label] for label in found[i].labels]
        flags += right.tolist()
        confirming += Work(0, len(right), 1)
    points = operating_points(scores, labels, flags) if scores else {}
    # A class without a checked detection gets the threshold of all classes together.
    pooled = operating_points(scores, ['all'] * len(scores), flags)['all'].threshold if scores else 0.3
    thresholds = {name: points[name].threshold if name in points else pooled for name in names}
    # Step 4: use the detections in each way.
    drawn_labels = {i: Objects.of(truth[i].boxes, truth[i].labels) for i in by_hand}
    work = dict.fromkeys(WAYS, hand + confirming)
    results: dict[str, dict[int, Objects]] = {way: dict(drawn_labels) for way in WAYS}
    minimum = np.array([thresholds[name] for name in names])
    for number, i in enumerate(others):
        shown = found[i].select(found[i].scores >= minimum[found[i].labels])
        corrected = correct_image(shown, truth[i])
        if number < num_checked:
            # Step 3 has already cost a click for each detection. Relabelling a detection costs another click.
            corrected = correct_image(found[i], truth[i])
            num_drawn_here = corrected.work.drawn
            num_relabelled = len(corrected.labels.boxes) - len(corrected.confirmed.boxes) - num_drawn_here
            work['correct'] += Work(num_drawn_here, num_relabelled, 0)
            results['unchecked'][i] = corrected.confirmed
        else:
            work['correct'] += corrected.work
            work['reject'] += corrected.rejecting
            results['unchecked'][i] = shown
        results['correct'][i], results['reject'][i] = corrected.labels, corrected.confirmed
    work['draw all'] = Work(sum(len(objects.boxes) for objects in truth), 0, len(truth))
    return Simulation(work, {way: [results[way][i] for i in range(len(truth))] for way in WAYS}, thresholds)


def label_quality(
    labels: Sequence[Objects], content: Mapping[str, Any], image_ids: Sequence[int], category_ids: np.ndarray
) -> dict[str, float]:
    """AP50 and AP of labels compared with the annotations, as means over the classes that the images show.

    Args:
        labels: The objects of each image; drawn and confirmed boxes have the score 1.
        content: Content of the annotation file, with these images only.
        image_ids: Id of each image.
        category_ids: (K,) category id of each label.
    """
    parts = [
        Detections.of_image(image_id, objects.boxes, objects.scores, objects.labels)
        for image_id, objects in zip(image_ids, labels, strict=True)
    ]
    matches = match_boxes(dict(content), Detections.concatenate(parts), category_ids)
    ap = weighted_ap(matches, np.ones((1, len(matches.image_ids)), dtype=np.int64))[0]
    return dict(AP50=float(np.nanmean(ap[:, 0])), AP=float(np.nanmean(ap)))


def counts(work: Mapping[str, Work]) -> dict[str, dict[str, int]]:
    """The work of each way as dicts, for a row of results."""
    return {way: asdict(own) for way, own in work.items()}
