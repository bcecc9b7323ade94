"""Losses of a training batch, prompted by its own boxes or class names."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mmdet.structures import DetDataSample
from torch import Tensor

from dinor1.structures import DetectorOutput

from ..prompts import PromptDraw, image_keys, remembered_prompts
from ..transformer import denoising_queries
from . import prompt_losses
from .exemplar_columns import fuse_with_exemplars
from .training_batch import draw_training_batch, encode_drawn_prompts, offered_ground_truth, reference_draw

if TYPE_CHECKING:
    from .dino_r1 import DINOR1


def batch_losses(
    model: 'DINOR1', inputs: Tensor, samples: list[DetDataSample]
) -> tuple[dict[str, Tensor], DetectorOutput]:
    """Losses of one batch, and the decoder's output that they were computed from.

    Args:
        model: The detector.
        inputs: (bs, 3, H, W) after the data preprocessor.
        samples: Samples with ground truth, see ``DINOR1.loss``.
    """
    # Draw the exemplars of each class of the batch, and encode them.
    text = model.prompt_mode == 'text'
    batch = draw_training_batch(model, samples)
    features = model.encode_image(inputs, samples)
    every_box = _needs_every_box(model)
    prompts, instances = encode_drawn_prompts(model, features, batch.boxes, batch.shapes, batch.draw, every_box)
    instance_labels = batch.draw.instance_labels(batch.labels, every_box=every_box)
    if model.prompt_memory is not None:
        images = image_keys(samples)
        model.prompt_memory.pending = remembered_prompts(instances, instance_labels, images, batch.draw.classes)

    # Encode, select queries, and put noised ground truth in front of them.
    group_size = 0 if text else model.bbox_head.exemplar_group_size
    encoded, columns = fuse_with_exemplars(
        partial(model.fuse, features), prompts, instances, batch.labels, group_size, model.exemplar_policy
    )
    selection = model.select(encoded.memory, features, encoded.prompts)
    offered = offered_ground_truth(batch)
    noised = denoising_queries(model.dn_query_generator, offered.boxes, offered.dataset_labels, batch.shapes)
    output = model.decode(encoded, features, selection, noised)

    # Compute the losses; the reference model scores the same tokens under the same prompts, and with the same gates: a
    # gate that only one of the two opens would change the KL by a jump.
    ref_logits = None
    if model.bbox_head.active_grqo is not None and model.reference is not None:
        shared = (reference_draw(model, batch), encoded.gates)
        ref_logits = model.reference.logits(selection.tokens, inputs, samples, *shared)
    exemplars = None
    if model.bbox_head.instance_contrast is not None and not text:
        exemplars = prompt_losses.exemplars(instances, batch.labels, offered.kept, batch.draw)
    losses: dict[str, Tensor] = model.bbox_head.loss(output, offered.targets, ref_logits, exemplars, columns)
    if model.alignment is not None:
        losses['loss_alignment'] = prompt_losses.alignment(model, instances, instance_labels, batch.draw, batch.scope)
    if model.relation_distill is not None:
        losses |= prompt_losses.relation(model, instances, instance_labels, batch.draw, batch.scope)
    return losses, output


def _needs_every_box(model: 'DINOR1') -> bool:
    """Whether a loss compares all boxes of the batch, not only the drawn ones."""
    head = model.bbox_head
    losses = (model.alignment, model.relation_distill, head.instance_contrast)
    return head.exemplar_group_size > 0 or any(loss is not None for loss in losses)


def prompted_objectness(
    model: 'DINOR1',
    tokens: Tensor,
    inputs: Tensor,
    samples: list[DetDataSample],
    draw: PromptDraw,
    gates: Sequence[Tensor] = (),
) -> Tensor:
    """Highest logit of encoder tokens of the reference model, for the prompts of the student's classes.

    Args:
        model: The detector.
        tokens: (bs, N) token indices.
        inputs: (bs, 3, H, W).
        samples: The student's samples.
        draw: The student's draw, or one with other exemplars for the same classes.
        gates: Gates of the student's encoder, see :class:`~dinor1.structures.EncoderOutput`; empty: compute them.

    Returns:
        (bs, N).
    """
    shapes = [sample.img_shape for sample in samples]
    boxes = [sample.gt_instances.bboxes for sample in samples]
    features = model.encode_image(inputs, samples)
    prompts, _ = encode_drawn_prompts(model, features, boxes, shapes, draw)
    encoded = model.fuse(features, prompts, tokens, gates)
    return model.token_scores(encoded.memory, features, encoded.prompts).objectness.gather(1, tokens)
