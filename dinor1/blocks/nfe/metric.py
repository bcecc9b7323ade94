"""Link prediction: mean reciprocal rank and hits."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric

from dinor1.registry import METRICS

from .ranking import ranking_metrics


@METRICS.register_module()
class LinkPredictionMetric(BaseMetric):
    """``mr``, ``mrr`` and ``hits@1``, ``hits@3``, ``hits@10`` over all queries, both directions together.

    Args:
        per_relation: Also report the ``mrr`` of each relation, both directions together, as ``mrr/NAME``.
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: See MMEngine's ``BaseMetric``.
    """

    default_prefix = 'link_prediction'

    def __init__(self, per_relation: bool = False, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.per_relation = per_relation

    def process(self, data_batch: dict, data_samples: Sequence[dict[str, float]]) -> None:
        """Collect the ``rank`` and ``relation`` of each query."""
        self.results.extend((sample['rank'], sample['relation']) for sample in data_samples)

    def compute_metrics(self, results: list[tuple[float, int]]) -> dict[str, float]:
        """Average over the queries."""
        # Average over all queries.
        ranks, relations = torch.tensor(results, dtype=torch.float64).unbind(1)
        metrics = ranking_metrics(ranks)
        # Average over the queries of each relation, which include those of its reciprocal.
        if self.per_relation:
            names = self.dataset_meta['relations']
            for number, name in enumerate(names):
                chosen = ranks[relations % len(names) == number]
                if len(chosen):
                    metrics[f'mrr/{name}'] = ranking_metrics(chosen)['mrr']
        return metrics
