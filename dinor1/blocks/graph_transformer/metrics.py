"""Metrics of graph data sets: accuracy of SBM graphs, and absolute error."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from dinor1.registry import METRICS
from dinor1.utils.errors import InputError

from .objectives import ACCURACIES, sbm_accuracy, weighted_node_cross_entropy


@METRICS.register_module()
class SBMAccuracy(BaseMetric):
    """Accuracy and loss of node classification, both per batch and then averaged over batches, as published.

    ``accuracy`` is the mean over classes of the share of correctly classified nodes, percent; ``loss`` is the training
    loss, which the plateau schedule watches. Both depend slightly on the batch size. ``accuracy_pooled`` does not: it
    is computed over the nodes of all batches together.

    With several processes the first two use each process's batches; the pooled one counts every graph once.

    Args:
        num_classes: C.
        mode: See :func:`~dinor1.blocks.graph_transformer.sbm_accuracy`.
        collect_device: See MMEngine's ``BaseMetric``.
        prefix: See MMEngine's ``BaseMetric``.

    Raises:
        InputError: ``mode`` is unknown.
    """

    default_prefix = 'sbm'

    def __init__(
        self, num_classes: int, mode: str = 'present', collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device, prefix)
        if mode not in ACCURACIES:
            raise InputError(f'SBMAccuracy: mode must be one of {", ".join(ACCURACIES)}; got {mode!r}')
        self.num_classes, self.mode = num_classes, mode

    def process(self, data_batch: dict[str, Tensor], data_samples: Sequence[Tensor]) -> None:
        """Collect accuracy, loss and counts of one batch.

        Args:
            data_batch: With ``y`` ``(N,)``.
            data_samples: Logits ``(n, C)`` of each graph.
        """
        # Measure the batch as a whole.
        logits, target = torch.cat(list(data_samples)).float().cpu(), data_batch['y'].cpu()
        accuracy = sbm_accuracy(logits, target, self.num_classes, self.mode)
        loss = weighted_node_cross_entropy(logits, target, self.num_classes).item()
        # One entry per graph, so that MMEngine can drop the graphs that pad the last batch of a process.
        sizes = [len(sample) for sample in data_samples]
        for own, truth in zip(logits.argmax(1).split(sizes), target.split(sizes), strict=True):
            counts = truth.bincount(minlength=self.num_classes)
            correct = truth[own == truth].bincount(minlength=self.num_classes)
            self.results.append((accuracy, loss, 1 / len(sizes), correct.tolist(), counts.tolist()))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """``accuracy``, ``accuracy_pooled`` (0 to 100) and ``loss``."""
        accuracies, losses, shares, correct, counts = (
            torch.tensor(column, dtype=torch.float64) for column in zip(*results, strict=True)
        )
        # Pool the counts of all graphs; average the other two over batches.
        correct, counts = correct.sum(0), counts.sum(0)
        pooled = 100 * (correct / counts)[counts > 0].mean()
        accuracy, loss = ((values * shares).sum().item() / shares.sum().item() for values in (accuracies, losses))
        return dict(accuracy=accuracy, accuracy_pooled=pooled.item(), loss=loss)


@METRICS.register_module()
class MeanAbsoluteError(BaseMetric):
    """``mae``: mean absolute error over all graphs and targets."""

    default_prefix = 'regression'

    def process(self, data_batch: dict[str, Tensor], data_samples: Sequence[Tensor]) -> None:
        """Collect one error per graph; ``data_batch['y']`` is ``(G, T)``, a sample ``(T,)``."""
        errors = (torch.stack(list(data_samples)).double().cpu() - data_batch['y'].double().cpu()).abs()
        self.results += errors.mean(1).tolist()

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """``mae``."""
        return dict(mae=sum(results) / len(results))
