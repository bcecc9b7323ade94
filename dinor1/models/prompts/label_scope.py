"""Federated labels in a training batch: which images are negatives of which prompts.

The prompts of a batch are drawn from all of its images (:mod:`.sampling`), but an image may have been annotated for
some of their classes only. The others are not offered to it: they take part neither in its feature fusion nor in the
selection of its queries, and have no loss. A class that the image shows, but of which instances lack a box, is offered:
its boxes are positives, and the other queries are no negatives of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from .sampling import PromptDraw


class BatchScope(NamedTuple):
    """What the annotations of a batch of B images say of its K prompts.

    Attributes:
        offered: (B, K) True = the image shows the class of the prompt, or lacks it for certain. An image of which this
            holds for no prompt is offered all of them; ``exhaustive`` then keeps its queries from being negatives.
        exhaustive: (B, K) True = no instance of the class lacks a box: queries without a match are negatives.
        told_apart: (K, K) True = a box of the class of prompt i, in some image of the batch, is certainly no instance
            of the class of prompt j; the diagonal is True.
    """

    offered: Tensor
    exhaustive: Tensor
    told_apart: Tensor


def batch_scope(samples: Sequence[DetDataSample], labels: Sequence[Tensor], draw: PromptDraw) -> BatchScope | None:
    """Compare the drawn prompts with what each image was annotated for.

    Args:
        samples: Of the B images. ``exhaustive_labels`` and ``annotated_labels`` are indices into the class names of the
            image's data set, see :class:`dinor1.annotations.federated.LabelScope`; an image without them was annotated
            exhaustively for every class.
        labels: Per image (m,) class indices, in the numbers of the draw.
        draw: The K prompts.

    Returns:
        None if every image was annotated for every class.
    """
    if all(sample.get('exhaustive_labels') is None for sample in samples):
        return None
    # A class is told by its name, or without names by its number.
    classes: list = draw.labels.tolist() if draw.classes is None else draw.names()
    exhaustive, annotated = (
        torch.tensor([_covered(sample, key, classes) for sample in samples], device=draw.labels.device)
        for key in ('exhaustive_labels', 'annotated_labels')
    )
    present = torch.stack([(label[:, None] == draw.labels).any(0) for label in labels])
    offered = present | exhaustive
    annotated = annotated | offered
    # Images with a box of class i that were annotated for class j.
    told_apart = (present.float().t() @ annotated.float()) > 0
    itself = torch.eye(len(classes), dtype=torch.bool, device=told_apart.device)
    return BatchScope(offered | ~offered.any(1, keepdim=True), exhaustive, told_apart | itself)


def _covered(sample: DetDataSample, key: str, classes: Sequence) -> list[bool]:
    """Which of the classes are in a list of labels of the image."""
    covered = sample.get(key)
    if covered is None:
        return [True] * len(classes)
    text = sample.get('text')
    known = set(covered) if text is None else {text[label] for label in covered}
    return [name in known for name in classes]
