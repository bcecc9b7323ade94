"""Recognition: classification of ground-truth boxes among the offered classes, an upper bound for detection."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from dinor1.evaluation.prompt_protocols import EvaluationPrompts, PromptedMetric
from dinor1.evaluation.visual_generic import Exemplar
from dinor1.registry import METRICS

# Tolerance of the corners of a box, in pixels: scaling to the network input and back rounds.
_SAME = 0.01


def similarity_scores(features: Tensor, prompts: Tensor) -> Tensor:
    """(N, K) scores in [0, 1] of N boxes for K prompts: ``(1 + cosine) / 2``.

    Args:
        features: (N, C) embeddings of the boxes.
        prompts: (K, C) embeddings of the prompts.
    """
    return (1 + F.normalize(features.float(), dim=-1) @ F.normalize(prompts.float(), dim=-1).t()) / 2


@METRICS.register_module()
class RecognitionMetric(BaseMetric, PromptedMetric):
    """Accuracy of the best class of each ground-truth box, for tests by ``RecognitionTestLoop``.

    Only boxes in images with at least two offered classes count. Under ``VisualInteractive``, exemplars do not count.
    Reports ``recognition/accuracy``; ``recognition/chance``, the accuracy of guessing among the offered classes; and
    ``recognition/boxes``, the number of boxes. -1 means that there is no box. A box of a class that is not offered
    counts as wrong.

    Args:
        ann_file: Not read, because boxes and classes come from the data set. It is accepted so that a config only needs
            another ``test_evaluator.type``.
        kwargs: Arguments of MMEngine's ``BaseMetric``: ``collect_device``, ``prefix`` and ``collect_dir``.
    """

    default_prefix = 'recognition'

    def __init__(self, ann_file: str | Sequence[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._exemplars: Mapping[int, Sequence[Exemplar]] = {}

    def use_prompts(self, prompts: EvaluationPrompts) -> None:
        """Store the exemplars that are on the test images themselves."""
        self._exemplars = prompts.boxes

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect whether each box is recognised, and the number of offered classes."""
        for sample in data_samples:
            # Leave out boxes without a choice of classes, and exemplars.
            truth, predicted = sample['gt_instances'], sample['pred_instances']
            boxes, labels = truth['bboxes'].float(), truth['labels']
            num_offered = len(predicted['labels'].unique())
            counts = torch.full((len(labels),), num_offered > 1)
            for exemplar in self._exemplars.get(sample['img_id'], ()):
                same = (boxes - boxes.new_tensor(exemplar.bbox)).abs().amax(-1) < _SAME
                counts &= ~(same & (labels == exemplar.label)).cpu()
            # Compare the best class at each box with its label.
            distance = (boxes[:, None] - predicted['bboxes'].float()[None]).abs().amax(-1)
            score = torch.where(distance < _SAME, predicted['scores'].float()[None], -1.0)
            right = np.zeros(0, dtype=bool)
            if num_offered and len(labels):
                right = (predicted['labels'][score.argmax(-1)] == labels).cpu()[counts].numpy()
            self.results.append((right, num_offered))

    def compute_metrics(self, results: list[tuple[np.ndarray, int]]) -> dict[str, float]:
        """Metrics of all boxes."""
        count = sum(len(right) for right, _ in results)
        if not count:
            return dict(accuracy=-1.0, chance=-1.0, boxes=0.0)
        accuracy = sum(float(right.sum()) for right, _ in results) / count
        # By chance, a box is recognised with probability 1 / offered.
        chance = sum(len(right) / offered for right, offered in results if len(right)) / count
        print_log(f'recognition of {count} boxes: {100 * accuracy:.2f}, by chance {100 * chance:.2f}', logger='current')
        return dict(accuracy=accuracy, chance=chance, boxes=float(count))
