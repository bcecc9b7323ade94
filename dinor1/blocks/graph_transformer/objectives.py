"""Loss and accuracy of node classification on graphs whose classes differ in size.

Both follow the benchmark of the graph transformer (Dwivedi et al., *Benchmarking Graph Neural Networks*, arXiv
2003.00982), with one change: the released accuracy misreads its confusion matrix when a class is absent, see
:func:`sbm_accuracy`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ACCURACIES = ('present', 'released')


def class_weights(target: Tensor, num_classes: int) -> Tensor:
    """(V - n_c) / V for a class with n_c of V nodes, and 0 for an absent class.

    Args:
        target: ``(V,)`` int64.
        num_classes: C.

    Returns:
        ``(C,)`` float32 in [0, 1).
    """
    counts = target.bincount(minlength=num_classes)
    return (len(target) - counts) * (counts > 0) / max(1, len(target))


def weighted_node_cross_entropy(logits: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Cross-entropy with larger weights for small classes, from :func:`class_weights` of the batch.

    It is divided by the sum of the targets' weights. The weights depend on the batch, so the gradient is not the mean
    of the gradients of the graphs.

    Args:
        logits: ``(V, C)``.
        target: ``(V,)`` int64.
        num_classes: C.

    Returns:
        A scalar; 0 if all nodes are of one class, whose weight is 0, or if there are no nodes.
    """
    weights = class_weights(target, num_classes).to(logits)
    total = weights[target].sum()
    losses = F.cross_entropy(logits, target, weight=weights, reduction='sum')
    return losses / total.masked_fill(total == 0, 1)


def sbm_accuracy(logits: Tensor, target: Tensor, num_classes: int, mode: str = 'present') -> float:
    """Mean over classes of the share of correctly classified nodes, percent.

    Args:
        logits: ``(V, C)``.
        target: ``(V,)`` int64.
        num_classes: C.
        mode: ``present``: over the classes that occur in the labels. ``released``: the rule of the released code. Its
            confusion matrix has a row for each class of labels *or* predictions, and the index of the row is taken for
            the class: a class that is only predicted counts as 0, and if a class occurs in neither, all later classes
            are lost. Both modes agree when all classes occur in the labels.

    Returns:
        In [0, 100]; ``nan`` without nodes.

    Raises:
        ValueError: ``mode`` is unknown.
    """
    if mode not in ACCURACIES:
        raise ValueError(f'mode must be one of {", ".join(ACCURACIES)}; got {mode!r}')
    if not len(target):
        return float('nan')
    predicted = logits.argmax(1)
    counts = target.bincount(minlength=num_classes)
    correct = target[predicted == target].bincount(minlength=num_classes)
    if mode == 'present':
        return 100 * float((correct / counts)[counts > 0].mean())
    rows = torch.cat([target, predicted]).unique()
    # The released code divides row i, of class rows[i], by the labels of class i; without labels it counts 0.
    counts = counts[: len(rows)]
    return 100 * float((correct[rows] / counts)[counts > 0].sum() / len(rows))
