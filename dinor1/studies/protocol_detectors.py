"""Evaluate a trained detector on a data set with all prompt protocols; rows have the form of those of its baselines.

The baselines are in :mod:`dinor1.studies.protocol_baselines`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from dinor1.annotations.federated import label_scopes
from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import VisualGeneric, VisualInteractive
from dinor1.evaluation.absence_metric import absence_scores, collect_answers
from dinor1.evaluation.bootstrap import bootstrap
from dinor1.evaluation.box_matching import match_boxes
from dinor1.evaluation.detections import Detections
from dinor1.evaluation.prompt_protocols import EvaluationPrompts
from dinor1.evaluation.single_class import SingleClass
from dinor1.evaluation.visual_interactive_metric import visual_interactive_scores
from dinor1.models import DINOR1
from dinor1.studies.protocol_baselines import NUM_SAMPLES, SmallSet, f1_without_exemplars

# Minimum score of a detection that a user sees, the default of `dinor1 detect`.
THRESHOLD = 0.3
NUM_EXEMPLARS = (1, 4, 16)
BATCH_SIZE = 8


def measure_detector(
    root: str | Path,
    model: DINOR1,
    cfg: Config,
    seeds: Sequence[int] = (0, 1, 2),
    splits: Sequence[str] = ('val', 'test'),
    support: str = 'train',
    num_exemplars: Sequence[int] = NUM_EXEMPLARS,
    options: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Score a detector on some splits of a set; exemplars from other images are those of another split.

    Args:
        root: Folder with ``images`` and ``annotations/SPLIT.json``.
        model: The detector, in evaluation mode.
        cfg: Its config, for the preparation of images.
        seeds: Seeds of the draws of prompts; results are means over them.
        splits: Splits to evaluate, as one set.
        support: Split of the exemplars of ``VisualGeneric`` and ``SingleClass``.
        num_exemplars: Numbers of exemplars per class under ``VisualGeneric``; the largest is that of ``SingleClass``.
            Empty: only ``VisualInteractive``.
        options: Further arguments of :class:`~dinor1.datasets.CocoPromptDataset`, such as ``only_categories``.
        progress: Called with a line after each protocol.

    Returns:
        The metrics of :func:`~dinor1.evaluation.visual_interactive_metric.visual_interactive_scores`, with
        ``without_exemplar_F1`` of the detections above a score of 0.3; ``visual_g_N_AP`` and ``visual_g_N_AP50`` with
        intervals, for N exemplars per class; those of :func:`~dinor1.evaluation.absence_metric.absence_scores` as
        ``absence_*``, unless images are annotated for some classes only; and the number of ``images``.

    Raises:
        InputError: annotations are missing or broken.
    """
    # Read the images, and those of the exemplars.
    options = options or {}
    evaluated = SmallSet.read(root, splits, cfg.test_dataloader.dataset.pipeline, **options)
    exemplars = SmallSet.read(root, [support], cfg.prompt_dataset.pipeline, **options).dataset
    ids, name = evaluated.category_ids, Path(root).name
    # Prompt with boxes on the images themselves.
    draws = []
    for seed in seeds:
        prompts = VisualInteractive(seed).prepare(model, evaluated.dataset)
        draws.append((detect_all(model, evaluated.dataset, prompts), prompts.boxes))
    scores = visual_interactive_scores(evaluated.content, draws, ids, num_samples=NUM_SAMPLES)
    scores['without_exemplar_F1'] = float(np.mean([f1_without_exemplars(evaluated, draw, THRESHOLD) for draw in draws]))
    progress(f'{name}: visual-interactive')
    # Prompt with exemplars on other images. A detection counts if the image was annotated for its class.
    scopes = label_scopes(evaluated.content, str(root)) if evaluated.content.get('sources') else None
    for count in num_exemplars:
        matches = []
        for seed in seeds:
            prompts = VisualGeneric(exemplars, count, seed).prepare(model, evaluated.dataset)
            found = detect_all(model, evaluated.dataset, prompts)
            if scopes is not None:
                pairs = zip(found.image.tolist(), ids[found.label].tolist(), strict=True)
                found = found.select(np.array([category in scopes[image].annotated for image, category in pairs], bool))
            matches.append(match_boxes(evaluated.content, found, ids))
        for key, interval in bootstrap(matches, num_samples=NUM_SAMPLES).items():
            for end, value in (('', interval.value), ('_low', interval.low), ('_high', interval.high)):
                scores[f'visual_g_{count}_{key}{end}'] = float(value) if np.isfinite(value) else -1.0
        progress(f'{name}: visual-generic, {count} exemplars')
    # Offer a single class, shown or absent.
    if scopes is None and num_exemplars:
        answers = []
        for seed in seeds:
            prompts = SingleClass(exemplars, max(num_exemplars), seed).prepare(model, evaluated.dataset)
            found = detect_all(model, evaluated.dataset, prompts)
            answers.append(absence_scores(collect_answers(evaluated.content, found, prompts.asked, ids, THRESHOLD)))
        for key in answers[0]:
            values = [answer[key] for answer in answers]
            scores[f'absence_{key}'] = -1.0 if min(values) < 0 else float(np.mean(values))
        progress(f'{name}: single class')
    return scores | dict(images=float(len(evaluated.dataset)))


def threshold_curve(
    root: str | Path,
    model: DINOR1,
    cfg: Config,
    thresholds: Sequence[float],
    splits: Sequence[str] = ('val',),
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> list[float]:
    """F1 without exemplars at each score threshold, under ``VisualInteractive``, for the choice of a threshold.

    Args:
        root: Folder with ``images`` and ``annotations/SPLIT.json``.
        model: The detector, in evaluation mode.
        cfg: Its config, for the preparation of images.
        thresholds: Minimum scores.
        splits: Splits to evaluate, as one set.
        options: Further arguments of :class:`~dinor1.datasets.CocoPromptDataset`.
        seed: Seed of the draw of prompts.
    """
    images = SmallSet.read(root, splits, cfg.test_dataloader.dataset.pipeline, **(options or {}))
    prompts = VisualInteractive(seed).prepare(model, images.dataset)
    draw = (detect_all(model, images.dataset, prompts), prompts.boxes)
    return [f1_without_exemplars(images, draw, threshold) for threshold in thresholds]


@torch.no_grad()
def detect_all(model: DINOR1, dataset: CocoPromptDataset, prompts: EvaluationPrompts) -> Detections:
    """Detections on all images of a set; ``image`` is an image id."""
    parts = []
    for start in range(0, len(dataset), BATCH_SIZE):
        batch = pseudo_collate([dataset[i] for i in range(start, min(start + BATCH_SIZE, len(dataset)))])
        data = model.data_preprocessor(batch, False)
        samples = model.predict(data['inputs'], data['data_samples'], prompts.of(data['data_samples']))
        for sample in samples:
            found = sample.pred_instances.cpu()
            arrays = (found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy())
            parts.append(Detections.of_image(sample.img_id, *arrays))
    return Detections.concatenate(parts)
