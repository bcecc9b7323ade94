"""Losses of DINO-R1 on the embeddings of prompts: what the detector passes to them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..losses import Exemplars
from ..prompts import (
    BatchScope,
    PromptDraw,
    exemplar_boxes,
    map_class_embeddings,
    mean_by_class,
    mean_by_image_and_class,
)

if TYPE_CHECKING:
    from .dino_r1 import DINOR1


def alignment(
    model: 'DINOR1',
    instances: Tensor,
    labels: Sequence[Tensor],
    draw: PromptDraw,
    scope: BatchScope | None = None,
) -> Tensor:
    """Alignment of visual prompts with the text embeddings of their classes.

    Args:
        model: The detector, with an alignment loss.
        instances: (n, C) embeddings of boxes, or of pairs of an image and a class.
        labels: Per image the class indices of its embeddings.
        draw: The prompts of the batch, with those of all classes in ``labels``.
        scope: What the annotations say about the prompts.
    """
    loss: Any = model.alignment
    flat = torch.cat(list(labels))
    if not len(flat):
        # Keep all parameters in the graph, as DDP requires.
        weights = model.text_feat_map.parameters() if loss.text_gradient else ()
        return loss.zero(instances) + sum(weight.sum() for weight in weights) * 0
    # Average the embeddings of each class, or of each class on each image.
    classes, column = _columns(flat, draw)
    told_apart = None if scope is None else scope.told_apart[column][:, column]
    if loss.pairs == 'class':
        visual, index = mean_by_class(instances, flat, classes), None
    else:
        visual, index = mean_by_image_and_class(instances, labels, classes)
        told_apart = None if told_apart is None else told_apart[index]
    # Embed the names.
    names = _names(draw, column)
    if loss.text_gradient:
        raw = model.raw_text_table(names, model.language_model)
        text = map_class_embeddings(raw, model.language_model, model.text_feat_map)
    else:
        text = model.text_table(names, model.language_model, model.text_feat_map)
    result: Tensor = loss(visual, text, index, told_apart)
    return result


def relation(
    model: 'DINOR1',
    instances: Tensor,
    labels: Sequence[Tensor],
    draw: PromptDraw,
    scope: BatchScope | None = None,
) -> dict[str, Tensor]:
    """Relation distillation of the visual prompts of a batch, one for each image and class on it.

    Args:
        model: The detector, with relation distillation.
        instances: (n, C) embeddings of boxes, or of pairs of an image and a class.
        labels: Per image the class indices of its embeddings.
        draw: The prompts, for the names of the classes.
        scope: What the annotations say about the classes. Prompts of two classes are compared only if boxes of either
            class are known not to be instances of the other.

    Returns:
        See :class:`~dinor1.models.losses.RelationDistillation`.
    """
    loss: Any = model.relation_distill
    flat = torch.cat(list(labels))
    if not len(flat):
        zero = instances.sum() * 0
        return dict(loss_relation=zero, relation_divergence=zero.detach())
    # Average the embeddings of each class on each image.
    classes, column = _columns(flat, draw)
    visual, index = mean_by_image_and_class(instances, labels, classes)
    # Compare them as the names of their classes, or by class.
    wanted = index
    if loss.target == 'text':
        wanted = model.raw_text_table(_names(draw, column), model.language_model)[index]
    comparable = None
    if scope is not None:
        told_apart = scope.told_apart[column][:, column]
        comparable = (told_apart & told_apart.t())[index][:, index]
    losses: dict[str, Tensor] = loss(visual, wanted, comparable)
    return losses


def exemplars(instances: Tensor, labels: Sequence[Tensor], kept: Sequence[Tensor], draw: PromptDraw) -> Exemplars:
    """Exemplars of the prompts among the ground truth that has a loss.

    Args:
        instances: (n, C) embeddings of all boxes.
        labels: Per image (m,) class indices.
        kept: Per image (m,) True = the box is part of the targets.
        draw: The prompts.
    """
    # A batch without boxes is prompted by an image, which is not an object.
    if not any(len(label) for label in labels):
        index = torch.zeros(0, dtype=torch.long, device=instances.device)
        return Exemplars(index, index, instances[:0])
    # Number the boxes within the targets of their image.
    chosen = [exemplar & keep for exemplar, keep in zip(exemplar_boxes(labels, draw), kept, strict=True)]
    target = torch.cat([(keep.cumsum(0) - 1)[own] for keep, own in zip(kept, chosen, strict=True)])
    image = torch.cat([torch.full_like(own.nonzero().flatten(), i) for i, own in enumerate(chosen)])
    return Exemplars(image, target, instances[torch.cat(chosen)])


def _columns(labels: Tensor, draw: PromptDraw) -> tuple[Tensor, Tensor]:
    """Distinct classes (K',) of the labels, ascending, and the first prompt (K',) of each in the draw."""
    classes = labels.unique()
    return classes, (draw.labels[None] == classes[:, None]).int().argmax(1)


def _names(draw: PromptDraw, column: Tensor) -> list[str]:
    """Names of the classes of some of the prompts."""
    names = draw.names()
    return [str(names[i]) for i in column.tolist()]
