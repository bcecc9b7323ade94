"""Cross-entropy of a language model."""

from typing import Any

from mmengine.evaluator import BaseMetric

from dinor1.registry import METRICS


@METRICS.register_module()
class CrossEntropy(BaseMetric):
    """Mean of the losses per text that a model's ``predict`` returns, nats per token."""

    default_prefix = 'text'

    def process(self, data_batch: dict[str, Any], data_samples: list) -> None:
        """Collect one loss per text."""
        self.results += [float(loss) for loss in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """``cross_entropy``."""
        return dict(cross_entropy=sum(results) / len(results))
