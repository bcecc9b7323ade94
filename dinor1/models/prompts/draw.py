"""The prompts of a training batch: which exemplars they have, and which images they are offered to."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from dinor1.utils.distributed import RankGather
from dinor1.utils.errors import InputError

from .config import PromptsConfig
from .exemplar_weights import pair_exemplars, per_image_weights, prototype_weights
from .label_scope import BatchScope, batch_scope
from .memory import PromptMemory, image_keys
from .sampling import PromptDraw, common_vocabulary, drop_prompts, sample_prompts


def draw_prompts(
    samples: Sequence[DetDataSample],
    config: PromptsConfig,
    pairs: bool = False,
    text: bool = False,
    memory: PromptMemory | None = None,
    gather: RankGather | None = None,
) -> tuple[PromptDraw, list[Tensor], BatchScope | None]:
    """Draw the prompts of a batch, one per class.

    Args:
        samples: Samples with ground truth, and class names if the model needs them.
        config: Settings of the sampling.
        pairs: Whether the prompt encoder aggregates the exemplars of a class on an image.
        text: Whether the prompts are class names: those of the batch, and others up to ``config.text_classes``. The
            exemplars are drawn in this case too, for the losses that compare them with the names.
        memory: Prompts of earlier iterations, which follow those of the batch; not used with ``text``.
        gather: Exchange with other processes: prompts are those of the classes of all of them; None: of this process.
            Not used with ``text``.

    Returns:
        The draw; per image the class indices (m,) of its boxes, numbered as in the draw; and what the annotations say
        about the prompts, None if every image was annotated for every class.

    Raises:
        InputError: the images need class names and have none.
    """
    # Draw one exemplar of each class.
    labels, classes = common_vocabulary(
        [sample.gt_instances.labels for sample in samples], [sample.get('text') for sample in samples]
    )
    draw = sample_prompts(labels, classes)
    if text:
        memory = gather = None
    # Draw the exemplars of every pair of an image and a class instead, and add the pairs of the other processes.
    units, first_image = labels, 0
    if pairs or gather is not None:
        draw, units = _draw_pairs(draw, labels)
    if gather is not None:
        draw, units, first_image = _all_ranks(draw, units, gather)
    # Add classes of the vocabulary, or of earlier iterations.
    own_classes, available = draw.labels, None
    if text:
        draw = _with_text_classes(draw, config.text_classes)
    if memory is not None:
        draw, available = _with_memory(draw, samples, memory)
    # Offer the prompts to the images that were annotated for the class, or only some of them.
    scope = batch_scope(samples, labels, draw)
    offered = None if scope is None else scope.offered
    if available is not None:
        offered = available if offered is None else offered & available
        offered = torch.where(offered.any(1, keepdim=True), offered, available)
    if config.prompt_dropout:
        if offered is None:
            offered = torch.ones(len(labels), len(draw.labels), dtype=torch.bool, device=draw.labels.device)
        offered = drop_prompts(offered, config.prompt_dropout)
    # Average several exemplars or pairs, unless the batch has no box.
    weights = None
    if draw.box[0] >= 0 or gather is not None:
        weights = _weights(units, own_classes, config)
    if weights is not None and weights.dim() == 3:
        weights = weights[first_image : first_image + len(labels)]
    return draw._replace(offered=offered, weights=weights), labels, scope


def redraw_exemplars(
    draw: PromptDraw, labels: Sequence[Tensor], config: PromptsConfig, pairs: bool = False
) -> PromptDraw:
    """Draw other exemplars for the classes of a draw, independently of the first ones.

    Classes, the images that they are offered to, and prompts from a memory stay as they are.

    Args:
        draw: The first draw, of one process. Without exemplars (text prompts, or a batch without boxes) it is returned
            as it is.
        labels: Per image (m,) class indices of its boxes, numbered as in the draw.
        config: Settings with which the draw was sampled.
        pairs: Whether the prompt encoder aggregates the exemplars of a class on an image.
    """
    if draw.text is not None or draw.box[0] < 0:
        return draw
    # Draw the exemplars as the first time.
    other, units = sample_prompts(labels, draw.classes), labels
    if pairs:
        other, units = _draw_pairs(other, labels)
    weights = _weights(units, other.labels, config)
    return draw._replace(image=other.image, box=other.box, exemplars=other.exemplars, weights=weights)


def _weights(units: Sequence[Tensor], classes: Tensor, config: PromptsConfig) -> Tensor | None:
    """Weights of the boxes or pairs of all images in the prompts; None: every prompt is a single one of them."""
    if config.prompt_sampling == 'class_prototype':
        return prototype_weights(units, classes, config.exclude_self)
    if config.prompt_sampling == 'per_image':
        return per_image_weights(units, classes)
    return None


def _draw_pairs(draw: PromptDraw, labels: Sequence[Tensor]) -> tuple[PromptDraw, list[Tensor]]:
    """Turn a draw of boxes into one of pairs; also returns the classes of each image, ascending.

    A batch without boxes has one pair, of the first image and no class.
    """
    if draw.box[0] < 0:
        return draw._replace(exemplars=list(labels)), [draw.labels[:1], *(label[:0] for label in labels[1:])]
    units = [label.unique() for label in labels]
    # Find the class of each prompt among the classes of the image of its exemplar.
    index = [int((units[i] < label).sum()) for i, label in zip(draw.image.tolist(), draw.labels, strict=True)]
    return draw._replace(exemplars=pair_exemplars(labels), box=draw.box.new_tensor(index)), units


def _all_ranks(draw: PromptDraw, units: list[Tensor], gather: RankGather) -> tuple[PromptDraw, list[Tensor], int]:
    """A draw of the classes of all processes, the classes of all their images, and the index of the own first image."""
    # Exchange the classes of the images, as names if there are any: indices may differ.
    own = [[i if draw.classes is None or i < 0 else draw.classes[i] for i in unit.tolist()] for unit in units]
    everywhere: list[list[list[Any]]] = gather.objects(own)
    # Number classes that this process does not have after its own.
    vocabulary = None if draw.classes is None else {name: i for i, name in enumerate(draw.classes)}
    if vocabulary is not None:
        for name in sorted({c for rank in everywhere for image in rank for c in image if isinstance(c, str)}):
            vocabulary.setdefault(name, len(vocabulary))
    device = draw.labels.device
    units = [
        torch.tensor(
            [c if vocabulary is None or not isinstance(c, str) else vocabulary[c] for c in image],
            dtype=torch.long,
            device=device,
        )
        for rank in everywhere
        for image in rank
    ]
    # Leave out the whole images of processes without boxes, unless no process has any.
    labels = torch.cat(units).unique()
    if labels[-1] >= 0:
        labels = labels[labels >= 0]
    classes = None if vocabulary is None else tuple(vocabulary)
    return draw._replace(labels=labels, classes=classes), units, sum(len(rank) for rank in everywhere[: gather.rank])


def _with_text_classes(draw: PromptDraw, number: int) -> PromptDraw:
    """Add random classes of the vocabulary up to ``number``; the classes of the batch are always kept."""
    if draw.classes is None:
        raise InputError(
            'model.prompts.prompt_mode_schedule: text prompts need class names; set return_classes=True in '
            'train_dataloader.dataset'
        )
    order = torch.randperm(len(draw.classes)).to(draw.labels.device)
    present = draw.labels[draw.labels >= 0]
    others = order[~torch.isin(order, present)][: max(number - len(present), 0)]
    return draw._replace(labels=torch.cat([present, others]).sort().values)


def _with_memory(
    draw: PromptDraw, samples: Sequence[DetDataSample], memory: PromptMemory
) -> tuple[PromptDraw, Tensor | None]:
    """Add classes of the memory; also returns (bs, K + R) True = there is a prompt for the image, None: there are all.

    A class that the batch shows too has two prompts of the same label.
    """
    draw.names()  # raises an error if there are none
    recalled = memory.recall(image_keys(samples))
    if recalled is None:
        return draw, None
    # Number the recalled classes after those of the batch.
    vocabulary = {name: i for i, name in enumerate(draw.classes or ())}
    indices = [vocabulary.setdefault(name, len(vocabulary)) for name in recalled.names]
    # Append their prompts; those of the batch are for all images.
    device = draw.labels.device
    own = torch.ones(len(samples), len(draw.labels), dtype=torch.bool, device=device)
    draw = draw._replace(
        labels=torch.cat([draw.labels, draw.labels.new_tensor(indices)]),
        classes=tuple(vocabulary),
        memory=recalled.embeddings.to(device),
    )
    return draw, torch.cat([own, recalled.available.to(device)], 1)
