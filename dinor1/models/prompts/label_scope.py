"""Federated labels in a training batch: which images are negatives of which prompts.

The prompts of a batch are drawn from all of its images (:mod:`.sampling`), but an image may have been annotated for
only some of their classes. Prompts of the other classes are not offered to the image: they take part neither in its
feature fusion nor in the selection of its queries, and have no loss. If the image shows a class, but instances of it
may lack boxes, the prompt is offered: the boxes are positives, and the other queries are not counted as negatives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from .sampling import PromptDraw


class BatchScope(NamedTuple):
    """Information of the annotations of a batch of B images about its K prompts.

    Attributes:
        offered: (B, K) True = the image is known to show, or known not to show, the class of the prompt. If this holds
            for no prompt, all prompts are offered to the image, and ``exhaustive`` excludes its queries from the
            negatives.
        exhaustive: (B, K) True = no instance of the class lacks a box: queries without a match are negatives.
        told_apart: (K, K) True = a box of the class of prompt i, in some image of the batch, is known not to be an
            instance of the class of prompt j; the diagonal is True.
    """

    offered: Tensor
    exhaustive: Tensor
    told_apart: Tensor


def batch_scope(samples: Sequence[DetDataSample], labels: Sequence[Tensor], draw: PromptDraw) -> BatchScope | None:
    """Compare the drawn prompts with what each image was annotated for.

    Args:
        samples: Samples of the B images. ``exhaustive_labels`` and ``annotated_labels`` are indices into the class
            names of the image's data set, see :class:`dinor1.annotations.federated.LabelScope`; an image without them
            was annotated exhaustively for every class.
        labels: Per image (m,) class indices, numbered as in the draw.
        draw: The K prompts.

    Returns:
        The scope of the batch; None if every image was annotated for every class.
    """
    if all(sample.get('exhaustive_labels') is None for sample in samples):
        return None
    # Compare classes by name, or by index if there are no names.
    classes: list = draw.labels.tolist() if draw.classes is None else draw.names()
    exhaustive, annotated = (
        torch.tensor([_covered(sample, key, classes) for sample in samples], device=draw.labels.device)
        for key in ('exhaustive_labels', 'annotated_labels')
    )
    # Offer prompts whose class is present or certainly absent.
    present = torch.stack([(label[:, None] == draw.labels).any(0) for label in labels])
    offered = present | exhaustive
    annotated = annotated | offered
    # Classes i and j are distinguishable if an image with a box of class i was annotated for class j.
    told_apart = (present.float().t() @ annotated.float()) > 0
    itself = torch.eye(len(classes), dtype=torch.bool, device=told_apart.device)
    return BatchScope(offered | ~offered.any(1, keepdim=True), exhaustive, told_apart | itself)


def _covered(sample: DetDataSample, key: str, classes: Sequence) -> list[bool]:
    """For each class, whether it is in the list ``key`` of the image; all are if the image has no such list."""
    covered = sample.get(key)
    if covered is None:
        return [True] * len(classes)
    text = sample.get('text')
    known = set(covered) if text is None else {text[label] for label in covered}
    return [name in known for name in classes]
