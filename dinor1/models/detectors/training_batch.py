"""The prompts and the ground truth of a training batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from dinor1.structures import ImageFeatures, PromptBatch
from dinor1.utils.precision import at_least_float32

from ..losses import Targets, pad_targets
from ..prompts import (
    BatchScope,
    PromptDraw,
    class_prompts,
    draw_prompts,
    drawn_prompts,
    encode_text,
    offered_boxes,
    positive_maps,
    redraw_exemplars,
)

if TYPE_CHECKING:
    from .dino_r1 import DINOR1


class TrainingBatch(NamedTuple):
    """Ground truth of a batch, and the prompts drawn from it.

    Attributes:
        boxes: Per image (m, 4) pixel xyxy.
        labels: Per image (m,) class indices, numbered as in the draw.
        dataset_labels: Per image (m,) class indices, numbered as in the data set.
        shapes: Per image (height, width) in pixels, without padding.
        draw: The prompts; with the embeddings of class names in a text iteration.
        scope: What the annotations say about the prompts; None: every image was annotated for every class.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    dataset_labels: list[Tensor]
    shapes: list[tuple[int, int]]
    draw: PromptDraw
    scope: BatchScope | None


class OfferedGroundTruth(NamedTuple):
    """The boxes of a batch whose class is offered to their image.

    Attributes:
        kept: Per image (m,) True = the box is one of them.
        boxes: Per image (m', 4) pixel xyxy.
        dataset_labels: Per image (m',) class indices, numbered as in the data set.
        targets: The same, padded, for the losses.
    """

    kept: list[Tensor]
    boxes: list[Tensor]
    dataset_labels: list[Tensor]
    targets: Targets


def draw_training_batch(model: 'DINOR1', samples: Sequence[DetDataSample]) -> TrainingBatch:
    """Draw the prompts of a batch: an exemplar of each class, or in text iterations its name.

    Args:
        model: The detector, with the mode of this iteration.
        samples: Samples with ground truth.

    Raises:
        InputError: the images need class names and have none.
    """
    text = model.prompt_mode == 'text'
    draw, labels, scope = draw_prompts(
        samples,
        model.prompts_cfg,
        pairs=model.prompt_encoder.aggregates,
        text=text,
        memory=model.prompt_memory,
        gather=model.rank_gather,
    )
    if text:
        draw = draw._replace(text=_text_embeddings(model, draw))
    truth = [sample.gt_instances for sample in samples]
    return TrainingBatch(
        boxes=[instances.bboxes for instances in truth],
        labels=labels,
        dataset_labels=[instances.labels for instances in truth],
        shapes=[sample.img_shape for sample in samples],
        draw=draw,
        scope=scope,
    )


def _text_embeddings(model: 'DINOR1', draw: PromptDraw) -> Tensor:
    """Prompts (K, C) of the class names of a draw, as ``DINOR1.text_prompt_set`` makes them."""
    names = [str(name) for name in draw.names()]
    if model.prompts_cfg.trains_text:
        return encode_text(names, model.language_model, model.text_feat_map, per_token=False).embeddings
    return class_prompts(model.text_table(names, model.language_model, model.text_feat_map), names).embeddings


def encode_drawn_prompts(
    model: 'DINOR1',
    features: ImageFeatures,
    boxes: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    draw: PromptDraw,
    every_box: bool = False,
) -> tuple[PromptBatch, Tensor]:
    """Embed the drawn prompts.

    Args:
        model: The detector.
        features: Features of the batch.
        boxes: Per image (m, 4) pixel xyxy.
        shapes: Per image (height, width) in pixels, without padding.
        draw: The prompts.
        every_box: Whether to encode all boxes, not only the drawn ones.

    Returns:
        The prompts as they are offered to the images, and the embeddings (n, C) of all encoded boxes, or pairs of an
        image and a class.
    """
    # Encode the exemplars.
    gather = None if model.rank_gather is None or draw.text is not None else model.rank_gather.rows
    embeddings, instances = drawn_prompts(model.prompt_encoder, features, boxes, shapes, draw, every_box, gather)
    if not model.training:
        embeddings = at_least_float32(embeddings)
    # Put text in their place. The products with 0 keep all parameters in the graph, as DDP requires.
    if draw.text is not None:
        embeddings = draw.text.to(embeddings.dtype) + embeddings.sum() * 0
    elif model.prompts_cfg.trains_text:
        embeddings = embeddings + sum(parameter.sum() for parameter in model.text_feat_map.parameters()) * 0
    if model.exemplar_policy is not None:
        embeddings = embeddings + sum(parameter.sum() for parameter in model.exemplar_policy.parameters()) * 0
    if model.prompt_refiner is not None:
        embeddings = model.prompt_refiner(embeddings, draw.names())
    # Append the prompts of earlier iterations.
    if draw.memory is not None:
        own = embeddings.expand(features.batch_size, -1, -1)
        embeddings = torch.cat([own, draw.memory.to(own.dtype)], 1)
    return PromptBatch.shared(embeddings, features.batch_size, draw.offered), instances


def offered_ground_truth(batch: TrainingBatch) -> OfferedGroundTruth:
    """Keep the boxes whose class is offered to their image."""
    kept = offered_boxes(batch.labels, batch.draw)
    boxes, labels, dataset_labels = (
        [tensor[keep] for tensor, keep in zip(tensors, kept, strict=True)]
        for tensors in (batch.boxes, batch.labels, batch.dataset_labels)
    )
    verified = None if batch.scope is None else batch.scope.exhaustive
    targets = pad_targets(boxes, positive_maps(labels, batch.draw), batch.shapes, verified)
    return OfferedGroundTruth(kept, boxes, dataset_labels, targets)


def reference_draw(model: 'DINOR1', batch: TrainingBatch) -> PromptDraw:
    """The prompts of the reference model: those of the batch, or other exemplars of the same classes."""
    if model.reference is None or not model.reference.own_draw:
        return batch.draw
    return redraw_exemplars(batch.draw, batch.labels, model.prompts_cfg, pairs=model.prompt_encoder.aggregates)
