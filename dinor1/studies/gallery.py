"""A gallery of an annotated set: the detections with one exemplar on each image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dinor1.evaluation.box_matching import boxes_by_cell, match_image, pairwise_iou
from dinor1.evaluation.coco_metric import read_coco
from dinor1.inference import DINOR1Inferencer
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import read_image
from dinor1.visualization.found_objects import FoundObjects, draw_found

IOU_THR = 0.5


@dataclass
class Annotated:
    """The boxes of one class on one image.

    Attributes:
        path: Image file.
        name: Class name.
        boxes: (n, 4) pixel xyxy, without crowds.
    """

    path: str
    name: str
    boxes: np.ndarray


def read_annotated(ann_file: str | Path, images: str | Path) -> list[Annotated]:
    """Read the boxes of each pair of image and class of a COCO file, in the order of the file.

    Args:
        ann_file: COCO annotation file.
        images: Folder of the images.

    Raises:
        InputError: the file is missing or is not in COCO format.
    """
    content = read_coco(str(ann_file))
    names = {category['id']: category['name'] for category in content['categories']}
    paths = {image['id']: str(Path(images) / image['file_name']) for image in content['images']}
    # Group the boxes, and leave out crowds.
    groups = []
    for (image, category), (boxes, crowd) in boxes_by_cell(content, {number: number for number in names}).items():
        kept = boxes[~crowd]
        if len(kept):
            kept[:, 2:] += kept[:, :2]
            groups.append(Annotated(paths[image], names[category], kept))
    return groups


def draw_targets(annotated: Sequence[Annotated], count: int, seed: int, min_boxes: int) -> list[Annotated]:
    """Draw images at random: first one of each class, then a second one, and so on. No image is drawn twice.

    Args:
        annotated: Pairs of image and class.
        count: Maximum number of images.
        seed: Seed of the draw.
        min_boxes: Minimum number of boxes of the class on the image.

    Raises:
        InputError: no image has as many boxes of a class.
    """
    # Number the images of each class in random order.
    order = np.random.default_rng(seed).permutation(len(annotated))
    usable = [annotated[i] for i in order if len(annotated[i].boxes) >= min_boxes]
    if not usable:
        raise InputError(f'no image has {min_boxes} boxes of one class')
    seen: dict[str, int] = {}
    turn = []
    for item in usable:
        turn.append(seen.get(item.name, 0))
        seen[item.name] = turn[-1] + 1
    # Choose the images in the order of these numbers.
    chosen: list[Annotated] = []
    for i in np.argsort(turn, kind='stable'):
        if len(chosen) < count and usable[i].path not in {item.path for item in chosen}:
            chosen.append(usable[i])
    return chosen


def match_objects(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, exemplar: np.ndarray) -> FoundObjects:
    """Match detections of one class with objects; the exemplar on the image counts neither as found nor as missed.

    Args:
        boxes: (D, 4) pixel xyxy of the detections, in descending order of score.
        scores: (D,) in [0, 1].
        truth: (G, 4) objects without the exemplar.
        exemplar: (0, 4) or (1, 4).
    """
    found, objects, shown = (_as_xywh(group) for group in (boxes, truth, exemplar))
    crowd = np.zeros(len(objects) + len(shown), dtype=bool)
    # Leave out all detections of the exemplar, including duplicates.
    targets = np.concatenate([objects, shown])
    match = match_image(found, targets, crowd, np.array([IOU_THR]))[:, 0]
    repeated = (pairwise_iou(found, shown) >= IOU_THR).any(1) & (match < 0)
    own = (match >= len(objects)) | repeated
    hit = (match >= 0) & ~own
    missed = np.setdiff1d(np.arange(len(objects)), match[hit])
    wrong = ~hit & ~own
    return FoundObjects(boxes[hit], truth[missed], boxes[wrong], exemplar, list(scores[hit]), list(scores[wrong]))


def gallery(
    inferencer: DINOR1Inferencer,
    targets: Sequence[Annotated],
    support: Sequence[Annotated] = (),
    seed: int = 0,
    score_thr: float = 0.3,
    nms_thr: float | None = 0.5,
) -> Iterator[tuple[np.ndarray, FoundObjects]]:
    """Detect with one exemplar per image, and draw the result.

    Args:
        inferencer: The detector. Its prompts are replaced.
        targets: Images, each with the boxes of one class.
        support: Boxes from which exemplars are drawn, by class name. Default: those of the image itself.
        seed: Seed of the draw.
        score_thr: Minimum score of a detection.
        nms_thr: See :meth:`~dinor1.inference.DINOR1Inferencer.predict`.

    Yields:
        For each image the drawing, and the boxes in pixels of the image.

    Raises:
        InputError: a class has no exemplar, or an image cannot be read.
    """
    generator = np.random.default_rng(seed)
    for target in targets:
        # Draw the exemplar.
        sources = [item for item in support if item.name == target.name] if support else [target]
        if not sources:
            raise InputError(f'{target.name}: the support set has no box of this class')
        source = sources[generator.integers(len(sources))]
        index = int(generator.integers(len(source.boxes)))
        box = source.boxes[index : index + 1]
        # Detect objects, and match the detections with the other objects.
        (sample,) = inferencer(
            target.path, prompts=[(source.path, box, target.name)], score_thr=score_thr, nms_thr=nms_thr
        )
        instances = sample.pred_instances
        exemplar, truth = (np.zeros((0, 4)), target.boxes) if support else (box, np.delete(target.boxes, index, axis=0))
        objects = match_objects(instances.bboxes.numpy().astype(np.float64), instances.scores.numpy(), truth, exemplar)
        image = read_image(target.path)
        yield draw_found(image, objects, f'{target.name}: {objects.summary()}'), objects


def _as_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
