"""Baselines of the prompt protocols on a data set: the echo, frozen features, nearest neighbour.

Each result is a row with the metrics that ``dinor1 test`` reports for a detector under the same protocols, see
:mod:`dinor1.evaluation.visual_interactive_metric` and :mod:`dinor1.evaluation.absence_metric`.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from dinor1.benchmarks.training_free.detection import detect
from dinor1.benchmarks.training_free.frozen_features import FrozenFeatures
from dinor1.benchmarks.training_free.nearest_neighbour import accuracy_interval, nearest_labels
from dinor1.benchmarks.training_free.proposals import Proposals
from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import Exemplar, draw_exemplars, draw_interactive
from dinor1.evaluation.absence_metric import absence_scores, collect_answers
from dinor1.evaluation.box_matching import match_boxes
from dinor1.evaluation.coco_metric import read_coco
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.echo import echo_detections
from dinor1.evaluation.single_class import draw_classes
from dinor1.evaluation.visual_generic import candidates_of
from dinor1.evaluation.visual_interactive_metric import Draw, visual_interactive_scores
from dinor1.evaluation.without_exemplar import without_exemplars
from dinor1.utils.errors import InputError

NUM_SAMPLES = 1000
# Number of training images on which the threshold of the training-free detector is tuned.
TUNING_IMAGES = 40


@dataclass
class SmallSet:
    """A data set with a folder of images and one annotation file per split.

    Attributes:
        dataset: The images.
        content: Their annotations.
    """

    dataset: CocoPromptDataset
    content: dict

    @classmethod
    def read(cls, root: str | Path, splits: Sequence[str], pipeline: Sequence[dict] = (), **options: Any) -> 'SmallSet':
        """Read several splits as one set.

        Args:
            root: Folder with ``images`` and ``annotations/SPLIT.json``.
            splits: Names of the splits; those without a file are left out.
            pipeline: Transforms of the images.
            **options: Further arguments of :class:`~dinor1.datasets.CocoPromptDataset`.

        Raises:
            InputError: none of the splits has a file.
        """
        files = [str(path) for path in (Path(root) / f'annotations/{split}.json' for split in splits) if path.is_file()]
        if not files:
            raise InputError(f'{root}: no annotations of {" or ".join(splits)}; check the path')
        dataset = CocoPromptDataset(
            data_root=str(root),
            ann_file=[str(Path(file).absolute()) for file in files],
            data_prefix=dict(img='images'),
            pipeline=list(pipeline),
            test_mode=True,
            **options,
        )
        return cls(dataset, read_coco(files))

    @property
    def category_ids(self) -> np.ndarray:
        """(K,) category id of each label."""
        return np.array(self.dataset.cat_ids)

    def images(self, count: int | None = None) -> Iterable[tuple[dict, np.ndarray]]:
        """Yield information and pixels (H, W, 3) BGR of all images, or of ``count`` evenly spaced images."""
        total = len(self.dataset)
        for index in np.unique(np.linspace(0, total - 1, min(count or total, total)).astype(int)):
            info = self.dataset.get_data_info(int(index))
            yield info, cv2.imread(info['img_path'])


def echo(evaluated: SmallSet, seeds: Sequence[int]) -> dict[str, float]:
    """Score the echo, which returns the exemplars as detections, under ``VisualInteractive``.

    Its plain AP is a lower bound for every detector; the AP without exemplars is about 0.
    """
    draws = [draw_interactive(evaluated.dataset, seed) for seed in seeds]
    return visual_interactive_scores(
        evaluated.content,
        [(echo_detections(drawn), drawn) for drawn in draws],
        evaluated.category_ids,
        num_samples=NUM_SAMPLES,
    )


def nearest_neighbour(train: SmallSet, evaluated: SmallSet, features: FrozenFeatures) -> dict[str, float]:
    """Accuracy of the nearest training crop for each ground-truth box.

    Returns:
        ``accuracy`` with ``accuracy_low`` and ``accuracy_high``, and ``boxes``.
    """
    gallery, labels, _ = _crops(train, features)
    queries, truth, image = _crops(evaluated, features)
    interval = accuracy_interval(nearest_labels(gallery, labels, queries) == truth, image, NUM_SAMPLES)
    return dict(
        accuracy=interval.value, accuracy_low=interval.low, accuracy_high=interval.high, boxes=float(len(truth))
    )


def _crops(images: SmallSet, features: FrozenFeatures) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Vectors (N, C), labels (N,) and image ids (N,) of all instances."""
    vectors, labels, ids = [], [], []
    for info, image in images.images():
        instances = candidates_of(info, 0)
        if instances:
            vectors.append(features.crops(image, np.array([instance.bbox for instance in instances])))
            labels += [instance.label for instance in instances]
            ids += [info['img_id']] * len(instances)
    return torch.cat(vectors), np.array(labels), np.array(ids)


def training_free(
    train: SmallSet, evaluated: SmallSet, features: FrozenFeatures, proposals: Proposals, seeds: Sequence[int]
) -> dict[str, float]:
    """Score proposals that are similar to the exemplars under ``VisualInteractive`` and ``SingleClass``.

    For each protocol, F1 is computed at the score threshold that is best on training images.

    Returns:
        The metrics of :func:`~dinor1.evaluation.visual_interactive_metric.visual_interactive_scores`;
        ``without_exemplar_F1`` and ``without_exemplar_threshold``; the metrics of
        :func:`~dinor1.evaluation.absence_metric.absence_scores` as ``absence_*``, and ``absence_threshold``.
    """
    # Detect on training images, to tune thresholds, and on the evaluated images.
    prompts = _class_prompts(train, features)
    tuning = _detect_all(train, features, proposals, prompts, seeds[:1], TUNING_IMAGES)[0]
    found = _detect_all(evaluated, features, proposals, prompts, seeds)
    ids = evaluated.category_ids
    # Score visual-interactive prompts.
    draws = [(run.interactive, run.exemplars) for run in found]
    scores = visual_interactive_scores(evaluated.content, draws, ids, num_samples=NUM_SAMPLES)
    threshold = max(_thresholds(tuning.interactive), key=lambda value: _f1(train, tuning, value))
    scores['without_exemplar_threshold'] = threshold
    scores['without_exemplar_F1'] = float(np.mean([_f1(evaluated, run, threshold) for run in found]))
    # Score prompts of one class per image.
    threshold = max(_thresholds(tuning.single), key=lambda value: _absence(train, tuning, value)['F1'])
    answers = [_absence(evaluated, run, threshold) for run in found]
    scores['absence_threshold'] = threshold
    for name in answers[0]:
        values = [answer[name] for answer in answers]
        scores[f'absence_{name}'] = -1.0 if min(values) < 0 else float(np.mean(values))
    return scores


@dataclass
class _Run:
    """Detections with one draw of prompts.

    Attributes:
        exemplars: Image id -> exemplars on the image.
        asked: Image id -> label of the single class that is offered.
        interactive: Detections with the exemplars on the image as prompts.
        single: Detections with the single class as a prompt.
    """

    exemplars: dict[int, list[Exemplar]]
    asked: dict[int, int]
    interactive: Detections
    single: Detections


def _class_prompts(train: SmallSet, features: FrozenFeatures) -> dict[int, Tensor]:
    """Mean vector of up to 16 training instances of each class."""
    exemplars = draw_exemplars(train.dataset)
    vectors: dict[int, list[Tensor]] = {}
    for index, group in itertools.groupby(exemplars, key=lambda exemplar: exemplar.index):
        own = list(group)
        image = cv2.imread(train.dataset.get_data_info(index)['img_path'])
        for exemplar, vector in zip(own, features.boxes(image, np.array([e.bbox for e in own])), strict=True):
            vectors.setdefault(exemplar.label, []).append(vector)
    return {label: torch.stack(own).mean(0) for label, own in sorted(vectors.items())}


def _detect_all(
    images: SmallSet,
    features: FrozenFeatures,
    proposals: Proposals,
    prompts: dict[int, Tensor],
    seeds: Sequence[int],
    count: int | None = None,
) -> list[_Run]:
    """Detect with each draw of prompts; the features of proposals are computed once per image."""
    # Draw the prompts.
    draws = [draw_interactive(images.dataset, seed) for seed in seeds]
    asked = [draw_classes(images.dataset, list(prompts), seed) for seed in seeds]
    interactive: list[list[Detections]] = [[] for _ in seeds]
    single: list[list[Detections]] = [[] for _ in seeds]
    seen = set()
    for info, image in images.images(count):
        image_id = info['img_id']
        seen.add(image_id)
        # Compute the features of the proposals and of the exemplars of all draws.
        boxes = proposals(image, image_id)
        own = [np.array([e.bbox for e in drawn[image_id]], dtype=np.float64).reshape(-1, 4) for drawn in draws]
        vectors = features.boxes(image, np.concatenate([boxes, *own]))
        parts = vectors.split([len(boxes), *map(len, own)])
        # Detect with the exemplars on the image, and with a single class.
        for number, exemplars in enumerate(own):
            labels = np.array([exemplar.label for exemplar in draws[number][image_id]], dtype=np.int64)
            found = detect(image_id, boxes, parts[0], parts[number + 1], labels, exemplars)
            interactive[number].append(found)
            label = asked[number][image_id]
            single[number].append(detect(image_id, boxes, parts[0], prompts[label][None], np.array([label])))
    # Collect the detections of each draw.
    return [
        _Run(
            {image: own for image, own in drawn.items() if image in seen},
            {image: label for image, label in classes.items() if image in seen},
            Detections.concatenate(with_box),
            Detections.concatenate(alone),
        )
        for drawn, classes, with_box, alone in zip(draws, asked, interactive, single, strict=True)
    ]


def _thresholds(detections: Detections) -> list[float]:
    """Candidate thresholds: percentiles of the scores."""
    if not len(detections):
        return [0.5]
    return np.unique(np.percentile(detections.score, np.linspace(0, 99.5, 40))).tolist()


def _f1(images: SmallSet, run: _Run, threshold: float) -> float:
    return f1_without_exemplars(images, (run.interactive, run.exemplars), threshold)


def f1_without_exemplars(images: SmallSet, draw: Draw, threshold: float) -> float:
    """F1 without exemplars of the detections above a score, over all classes, at an IoU of 0.5; 0 without an object."""
    content, detections = without_exemplars(images.content, *draw, images.category_ids)
    detections = detections.select(detections.score >= threshold)
    matches = match_boxes(content, detections, images.category_ids, np.array([0.5]))
    right, counted = matches.hit.sum(), (~matches.ignored).sum()
    total = counted + matches.positives.sum()
    return float(2 * right / total) if total else 0.0


def _absence(images: SmallSet, run: _Run, threshold: float) -> dict[str, float]:
    return absence_scores(collect_answers(images.content, run.single, run.asked, images.category_ids, threshold))


def measure_set(
    root: str | Path,
    features: FrozenFeatures,
    proposals: Proposals,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, float]]:
    """Score all baselines on the validation and test images of a set; exemplars of classes are training images.

    Args:
        root: Folder with ``images`` and ``annotations/{train,val,test}.json``.
        features: The frozen backbone.
        proposals: Function that proposes boxes, on the evaluated and on the training images.
        seeds: Seeds of the draws of prompts.
        progress: Called with a line after each baseline.

    Returns:
        Metrics of ``echo``, ``nearest-neighbour`` and ``training-free``.

    Raises:
        InputError: annotations are missing or broken.
    """
    train, evaluated = SmallSet.read(root, ['train']), SmallSet.read(root, ['val', 'test'])
    results = {}
    for name, run in (
        ('echo', lambda: echo(evaluated, seeds)),
        ('training-free', lambda: training_free(train, evaluated, features, proposals, seeds)),
        ('nearest-neighbour', lambda: nearest_neighbour(train, evaluated, features)),
    ):
        results[name] = run() | dict(images=float(len(evaluated.dataset)))
        progress(f'{Path(root).name}: {name}')
    return results
