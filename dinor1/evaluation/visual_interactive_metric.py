"""Visual-interactive AP without the exemplar, and plain AP with the echo baseline, with intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from dinor1.evaluation.bootstrap import bootstrap
from dinor1.evaluation.box_matching import match_boxes
from dinor1.evaluation.coco_metric import CocoPromptMetric, curves_in_parts, summarize
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.echo import echo_detections
from dinor1.evaluation.prompt_protocols import EvaluationPrompts, PromptedMetric
from dinor1.evaluation.visual_generic import Exemplar
from dinor1.evaluation.without_exemplar import without_exemplars
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError

# Detections, and exemplars by image id, of one draw of the prompts.
Draw = tuple[Detections, Mapping[int, Sequence[Exemplar]]]


def visual_interactive_cases(content: dict, draw: Draw, category_ids: np.ndarray) -> dict[str, tuple[dict, Detections]]:
    """Annotations and detections that each of the three cases compares.

    Args:
        content: Content of the annotation file.
        draw: Detections and exemplars.
        category_ids: (K,) category id of each label.

    Returns:
        ``without_exemplar``, ``plain`` and ``echo``.

    Raises:
        InputError: an exemplar is not a box of the annotations.
    """
    detections, exemplars = draw
    return {
        'without_exemplar': without_exemplars(content, detections, exemplars, category_ids),
        'plain': (content, detections),
        'echo': (content, echo_detections(exemplars)),
    }


def visual_interactive_scores(
    content: dict,
    draws: Sequence[Draw],
    category_ids: np.ndarray,
    min_images: int = 5,
    num_samples: int = 0,
    backend: str = 'faster_coco_eval',
) -> dict[str, float]:
    """AP and AP50 without the exemplar, plain, and of the echo; means over draws of prompts.

    Args:
        content: Content of the annotation file, see :func:`~dinor1.evaluation.coco_metric.checked_coco`.
        draws: Detections and exemplars of each draw.
        category_ids: (K,) category id of each label.
        min_images: A class is included in a case if at least this number of images has ground truth of it in this case,
            in each draw.
        num_samples: Number of samples of images for 95 % bootstrap intervals; 0: no intervals.
        backend: See :func:`~dinor1.evaluation.coco_metric.coco_curves`.

    Returns:
        ``CASE_AP`` and ``CASE_AP50`` in [0, 1] with CASE one of ``without_exemplar``, ``plain`` and ``echo``; -1
        without classes. ``CASE_classes`` and ``CASE_images``, the numbers of classes and of images that show one of
        them. With intervals also ``CASE_AP_low`` and so on.

    Raises:
        InputError: an exemplar is not a box of the annotations.
    """
    cases = [visual_interactive_cases(content, draw, category_ids) for draw in draws]
    scores: dict[str, float] = {}
    for case in cases[0]:
        # Choose the classes with enough images in all draws, as in the bootstrap.
        counts = [images_per_class(draw[case][0], category_ids) for draw in cases]
        kept = np.flatnonzero(np.min(counts, axis=0) >= min_images)
        # Average over the draws.
        per_draw = [_average_precision(*draw[case], category_ids, kept, backend) for draw in cases]
        scores |= {f'{case}_{key}': _mean([values[key] for values in per_draw]) for key in per_draw[0]}
        # Add intervals.
        if num_samples:
            matches = [match_boxes(*draw[case], category_ids) for draw in cases]
            for key, interval in bootstrap(matches, min_images=min_images, num_samples=num_samples).items():
                ends = dict(low=interval.low, high=interval.high)
                scores |= {f'{case}_{key}_{end}': v if math.isfinite(v) else -1.0 for end, v in ends.items()}
    return scores


def images_per_class(content: dict, category_ids: np.ndarray) -> np.ndarray:
    """(K,) number of images that show an instance of each class; crowds do not count."""
    shown = {(a['category_id'], a['image_id']) for a in content['annotations'] if not a.get('iscrowd', 0)}
    counts = dict.fromkeys(category_ids.tolist(), 0)
    for category, _ in shown:
        if category in counts:
            counts[category] += 1
    return np.array(list(counts.values()), dtype=np.int64)


def _average_precision(
    content: dict, detections: Detections, category_ids: np.ndarray, kept: np.ndarray, backend: str
) -> dict[str, float]:
    if not len(kept):
        return dict(AP=-1.0, AP50=-1.0, classes=0.0, images=0.0)
    precision, _ = curves_in_parts(content, detections, category_ids, backend)
    # Precision is in ascending order of category ids.
    summary = summarize(precision[:, :, np.argsort(np.argsort(category_ids))[kept]])
    known = set(category_ids[kept].tolist())
    shown = {a['image_id'] for a in content['annotations'] if a['category_id'] in known and not a.get('iscrowd', 0)}
    return dict(AP=summary['mAP'], AP50=summary['mAP_50'], classes=float(len(kept)), images=float(len(shown)))


def _mean(values: Sequence[float]) -> float:
    return -1.0 if min(values) < 0 else float(np.mean(values))


@METRICS.register_module()
class VisualInteractiveMetric(CocoPromptMetric, PromptedMetric):
    """Metric of the protocol ``VisualInteractive``: AP without the exemplar, plain AP, and AP of the echo.

    ``visual_i/plain_*`` also counts the exemplar, which the detector was given. ``visual_i/echo_*`` belongs to a
    detector that returns exactly the exemplars of the same draw. ``visual_i/without_exemplar_*`` counts only the other
    instances, see :func:`~dinor1.evaluation.without_exemplar.without_exemplars`. One test gives all three.

    Args:
        ann_file: Annotations in COCO format; several files are merged, as by ``CocoPromptDataset``.
        min_images: A class is included in a case if at least this number of images has ground truth of it in this case.
        num_samples: Number of samples of images for 95 % bootstrap intervals, ``*_low`` and ``*_high``; 0: no
            intervals.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``.
        backend_args: Arguments of MMEngine's file client, to read ``ann_file``.
        kwargs: Arguments of MMEngine's ``BaseMetric``: ``collect_device``, ``prefix`` and ``collect_dir``.

    Raises:
        InputError: an argument is wrong, or the annotation file is not in COCO format.
    """

    default_prefix = 'visual_i'

    def __init__(
        self,
        ann_file: str | Sequence[str],
        min_images: int = 5,
        num_samples: int = 1000,
        backend: str = 'faster_coco_eval',
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ann_file, backend, backend_args=backend_args, **kwargs)
        if min_images < 1 or num_samples < 0:
            raise InputError(
                f'VisualInteractiveMetric: expected min_images >= 1 and num_samples >= 0, got {min_images} and '
                f'{num_samples}'
            )
        self.min_images, self.num_samples = min_images, num_samples
        self._exemplars: Mapping[int, Sequence[Exemplar]] = {}

    def use_prompts(self, prompts: EvaluationPrompts) -> None:
        """Store the exemplars.

        Raises:
            InputError: the protocol is not ``VisualInteractive``.
        """
        protocol = prompts.description.get('protocol')
        if protocol != 'visual-interactive':
            raise InputError(
                f'VisualInteractiveMetric: the protocol is {protocol}; set test_cfg.prompts to '
                "dict(type='VisualInteractive'), or evaluate with CocoPromptMetric"
            )
        self._exemplars = prompts.boxes

    def evaluate_detections(self, content: dict, detections: Detections) -> dict[str, float]:
        """Metrics of the images that were evaluated."""
        # Evaluate the three cases.
        seen = {image['id'] for image in content['images']}
        exemplars = {image: own for image, own in self._exemplars.items() if image in seen}
        scores = visual_interactive_scores(
            content, [(detections, exemplars)], self.category_ids, self.min_images, self.num_samples, self.backend
        )
        # Log a line for each.
        for case in ('without_exemplar', 'plain', 'echo'):
            ap, ap50 = (_with_interval(scores, f'{case}_{key}') for key in ('AP', 'AP50'))
            counts = ' and '.join(f'{scores[f"{case}_{what}"]:.0f} {what}' for what in ('classes', 'images'))
            print_log(f'{case:16} AP {ap}, AP50 {ap50}, of {counts}', logger='current')
        return scores


def _with_interval(scores: Mapping[str, float], key: str) -> str:
    """A score in percent with its interval, such as ``12.34 [10.00, 15.00]``; ``-`` where nothing is evaluated."""
    if scores[key] < 0:
        return '-'
    ends = [scores[f'{key}_{end}'] for end in ('low', 'high') if f'{key}_{end}' in scores]
    return f'{100 * scores[key]:.2f}' + (f' [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]' if ends else '')
