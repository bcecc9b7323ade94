"""Top-1 accuracy of a classifier."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric

from dinor1.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of correct classes, percent, and mean cross-entropy in nats.

    ``data_samples`` are rows of logits; ``data_batch['labels']`` the true classes.
    """

    default_prefix = 'accuracy'

    def process(self, data_batch: dict[str, Any], data_samples: list[torch.Tensor]) -> None:
        """Keep one pair of numbers per image."""
        logits = torch.stack(list(data_samples)).float().cpu()
        labels = torch.as_tensor(data_batch['labels']).cpu()
        losses = F.cross_entropy(logits, labels, reduction='none')
        self.results += list(zip((logits.argmax(1) == labels).tolist(), losses.tolist(), strict=True))

    def compute_metrics(self, results: list[tuple[bool, float]]) -> dict[str, float]:
        """``top1`` (0 to 100) and ``cross_entropy``."""
        correct, losses = zip(*results, strict=True)
        return dict(top1=100 * sum(correct) / len(correct), cross_entropy=sum(losses) / len(losses))
