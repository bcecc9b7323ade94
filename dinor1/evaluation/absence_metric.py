"""Metric of a test with one class per image: does the detector detect whether the image shows the class?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log
from scipy.stats import rankdata

from dinor1.evaluation.bootstrap import sample_weights
from dinor1.evaluation.box_matching import boxes_by_cell, match_image, rows_by_cell
from dinor1.evaluation.coco_metric import CocoPromptMetric
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.prompt_protocols import EvaluationPrompts, PromptedMetric
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError


@dataclass(frozen=True)
class Answers:
    """Results of a detector on I images, with one class offered for each.

    Attributes:
        shown: (I,) bool; True: the image shows the class.
        best: (I,) best score of a detection; 0 without detections.
        hits: (I,) number of detections at or above the threshold that match an object at an IoU of 0.5.
        errors: (I,) number of detections at or above the threshold that match no object.
        objects: (I,) number of objects of the class.
    """

    shown: np.ndarray
    best: np.ndarray
    hits: np.ndarray
    errors: np.ndarray
    objects: np.ndarray


def collect_answers(
    content: dict, detections: Detections, asked: Mapping[int, int], category_ids: np.ndarray, score_thr: float
) -> Answers:
    """Compare the detections of the offered classes with the annotations.

    Images that show only crowds of the class are left out, and detections on crowds do not count.

    Args:
        content: Content of the annotation file.
        detections: ``image`` is an image id; detections of classes that were not offered are left out.
        asked: Image id -> label of the offered class.
        category_ids: (K,) category id of each label.
        score_thr: Minimum score of a detection that counts.
    """
    # Collect boxes and detections by image and class.
    label_of = {int(category): label for label, category in enumerate(category_ids)}
    boxes, rows = boxes_by_cell(content, label_of), rows_by_cell(detections)
    # Count hits and errors in each image.
    columns = []
    for cell in asked.items():
        box, crowd = boxes.get(cell, (np.zeros((0, 4)), np.zeros(0, dtype=bool)))
        if len(crowd) and crowd.all():
            continue
        own = rows.get(cell, np.zeros(0, dtype=np.int64))
        best = detections.score[own].max(initial=0.0)
        own = own[detections.score[own] >= score_thr]
        match = match_image(detections.box[own], box, crowd, np.array([0.5]))[:, 0]
        hits = int(((match >= 0) & ~np.append(crowd, False)[match]).sum())
        columns.append((len(box) > 0, best, hits, int((match < 0).sum()), int((~crowd).sum())))
    shown, best, hits, errors, objects = np.array(columns, dtype=np.float64).reshape(-1, 5).T
    return Answers(shown > 0, best, hits, errors, objects)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive scores higher than a negative; ties count half.

    Args:
        scores: (I,).
        positive: (I,) bool; True: positive.

    Returns:
        In [0, 1]; -1 without positives or without negatives.
    """
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return -1.0
    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * others))


def absence_scores(answers: Answers) -> dict[str, float]:
    """Compute the metrics.

    Returns:
        ``AUROC`` of the best scores, with the images that show the class as positives; ``false_positives_per_image``
        on images that do not show it; ``F1``, ``precision`` and ``recall`` of the detections on all images. -1 where
        undefined.
    """
    absent = answers.errors[~answers.shown]
    hits, errors, objects = answers.hits.sum(), answers.errors.sum(), answers.objects.sum()
    return dict(
        AUROC=auroc(answers.best, answers.shown),
        false_positives_per_image=_ratio(absent.sum(), len(absent)),
        F1=_ratio(2 * hits, hits + errors + objects),
        precision=_ratio(hits, hits + errors),
        recall=_ratio(hits, objects),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else -1.0


@METRICS.register_module()
class AbsenceMetric(CocoPromptMetric, PromptedMetric):
    """Metric of the protocol ``SingleClass``.

    Reports ``absence/AUROC``, ``absence/false_positives_per_image``, ``absence/F1``, ``absence/precision`` and
    ``absence/recall``, see :func:`absence_scores`, and the numbers of images with and without the class,
    ``absence/images_with`` and ``absence/images_without``; with intervals also ``absence/AUROC_low`` and so on.

    Args:
        ann_file: Annotations in COCO format; several files are merged, as by ``CocoPromptDataset``.
        score_thr: Minimum score of a detection that counts; 0.3 is also the inferencer's default.
        num_samples: Number of samples of images for 95 % bootstrap intervals; 0: no intervals.
        backend_args: Arguments of MMEngine's file client, to read ``ann_file``.
        kwargs: Arguments of MMEngine's ``BaseMetric``: ``collect_device``, ``prefix`` and ``collect_dir``.

    Raises:
        InputError: an argument is wrong, or the annotation file is not in COCO format.
    """

    default_prefix = 'absence'

    def __init__(
        self,
        ann_file: str | Sequence[str],
        score_thr: float = 0.3,
        num_samples: int = 1000,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ann_file, backend_args=backend_args, **kwargs)
        if not 0 <= score_thr <= 1 or num_samples < 0:
            raise InputError(
                f'AbsenceMetric: expected score_thr in [0, 1] and num_samples >= 0, got {score_thr} and {num_samples}'
            )
        self.score_thr, self.num_samples = score_thr, num_samples
        self._asked: Mapping[int, int] = {}

    def use_prompts(self, prompts: EvaluationPrompts) -> None:
        """Store which class is offered for each image.

        Raises:
            InputError: the protocol is not ``SingleClass``.
        """
        if not prompts.asked:
            raise InputError(
                f'AbsenceMetric: the protocol is {prompts.description.get("protocol")}; set test_cfg.prompts to '
                "dict(type='SingleClass')"
            )
        self._asked = prompts.asked

    def evaluate_detections(self, content: dict, detections: Detections) -> dict[str, float]:
        """Metrics of the images that were evaluated."""
        # Collect the results of the evaluated images.
        seen = {image['id'] for image in content['images']}
        asked = {image: label for image, label in self._asked.items() if image in seen}
        answers = collect_answers(content, detections, asked, self.category_ids, self.score_thr)
        # Compute the scores, with intervals if they are requested.
        scores = absence_scores(answers)
        if self.num_samples:
            scores |= _intervals(answers, self.num_samples)
        # Log the scores, and add the numbers of images.
        print_log(', '.join(f'{name} {value:.3f}' for name, value in scores.items()), logger='current')
        count = int(answers.shown.sum())
        return scores | dict(images_with=float(count), images_without=float(len(answers.shown) - count))


def _intervals(answers: Answers, num_samples: int) -> dict[str, float]:
    """``NAME_low`` and ``NAME_high`` of AUROC, false positives and F1; -1 where a metric is undefined."""
    # Compute the metrics of every sample of images.
    count = len(answers.shown)
    samples = []
    for weights in sample_weights(count, num_samples):
        rows = np.repeat(np.arange(count), weights)
        samples.append(absence_scores(Answers(*(column[rows] for column in vars(answers).values()))))
    # Take percentiles over the samples.
    found = {}
    for name in ('AUROC', 'false_positives_per_image', 'F1'):
        values = [sample[name] for sample in samples if sample[name] >= 0]
        low, high = np.percentile(values, [2.5, 97.5]) if values else (-1.0, -1.0)
        found |= {f'{name}_low': float(low), f'{name}_high': float(high)}
    return found
