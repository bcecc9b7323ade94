"""Encoding of the exemplars that score the queries of a training batch without being offered as prompts."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dinor1.structures import EncoderOutput, PromptBatch

from ..losses import ExemplarColumns
from ..prompts import append_hidden, draw_exemplar_group, split_hidden


def fuse_with_exemplars(
    fuse: Callable[[PromptBatch], EncoderOutput],
    prompts: PromptBatch,
    instances: Tensor,
    labels: Sequence[Tensor],
    group_size: int,
    policy: nn.Module | None = None,
) -> tuple[EncoderOutput, ExemplarColumns | None]:
    """Encode images with prompts, and with up to ``group_size`` other exemplars of each class.

    Args:
        fuse: Encodes the images with prompts.
        prompts: Prompts of the batch.
        instances: (n, C) embeddings of all boxes.
        labels: Per image (m,) class indices of its boxes.
        group_size: Number of exemplars per class; 0: none.
        policy: A :class:`~dinor1.models.prompts.ExemplarPolicy` over the exemplars; None: there is none.

    Returns:
        Output of the encoder, which does not depend on these exemplars, and the exemplars after the encoder; None
        with a ``group_size`` of 0, and for a batch without boxes.
    """
    if not group_size or not any(len(label) for label in labels):
        return fuse(prompts), None
    # Encode the exemplars as prompts that nothing attends to.
    group = draw_exemplar_group(labels, group_size)
    extra = instances[group.box.flatten()]
    encoded, refined = split_hidden(fuse(append_hidden(prompts, extra)), prompts.mask.shape[1])
    columns = ExemplarColumns(refined.unflatten(1, group.box.shape), group.image, group.valid)
    # Let the policy rate them.
    if policy is not None:
        columns = columns._replace(policy=policy(extra.unflatten(0, group.box.shape), group.valid))
    return encoded, columns
