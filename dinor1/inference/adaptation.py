"""Tune prompt embeddings, and optionally a small part of the detector, on a few annotated images."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from dinor1.models.losses import pad_targets
from dinor1.structures import ImageFeatures, PromptBank, PromptBatch, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint

from .arguments import as_list
from .tuned_head import TunedHead, copy_head, head_parameters, restored_head

if TYPE_CHECKING:
    from dinor1.inference.inferencer import DINOR1Inferencer

# Number of images of a step, and maximum number of folds of the check.
BATCH_SIZE, MAX_FOLDS = 4, 5
# With fewer than MIN_CHECKED images, the result cannot be checked on images that were left out of the tuning.
MIN_CHECKED, CHECKED_STEPS, UNCHECKED_STEPS = 3, 30, 10
PARTS = ('embeddings', 'head')
# Learning rate of the head relative to that of the embeddings; lower, because the head affects all classes and images.
HEAD_LR = 0.1


class AnnotatedImage(NamedTuple):
    """An annotated image, which is encoded once.

    Attributes:
        features: Features of the image, a batch of one.
        sample: Sizes of the image.
        boxes: (m, 4) pixel xyxy of the network input, m >= 1; every object of the prompts' classes.
        names: m class names.
        embeddings: (m, C) prompt embedding of each box.
    """

    features: ImageFeatures
    sample: DetDataSample
    boxes: Tensor
    names: list[str]
    embeddings: Tensor


class Adaptation(NamedTuple):
    """Result of an adaptation.

    Attributes:
        kept: Whether the tuned embeddings are in use.
        checked: Whether the losses were compared on images that were left out of the tuning.
        loss_before: Mean loss before the tuning: with ``checked`` on images that were left out, otherwise on the given
            images.
        loss_after: Mean loss on the same images after the tuning.
        num_images: Number of images.
        num_boxes: Number of boxes.
        steps: Number of steps of the optimizer.
        parts: The parameters that were tuned: ``'embeddings'``, or ``'head'`` for embeddings and head.
    """

    kept: bool
    checked: bool
    loss_before: float
    loss_after: float
    num_images: int
    num_boxes: int
    steps: int
    parts: str = 'embeddings'

    def __str__(self) -> str:
        where = 'images left out of the tuning' if self.checked else 'the images themselves, not checked on others'
        verdict = 'kept' if self.kept else 'rejected, nothing is changed'
        return (
            f'{verdict}: loss {self.loss_before:.4g} -> {self.loss_after:.4g} on {where} '
            f'({self.num_images} images, {self.num_boxes} boxes, {self.steps} steps)'
        )


def adapt_prompts(
    inferencer: 'DINOR1Inferencer',
    images: Any,
    boxes: Sequence[Any],
    names: str | Sequence[str | Sequence[str]],
    steps: int | None,
    lr: float,
    parts: str = 'embeddings',
) -> Adaptation:
    """Implementation of :meth:`~dinor1.inference.DINOR1Inferencer.adapt`, which documents the arguments."""
    # Check the arguments.
    images = list(images) if isinstance(images, list | tuple) else [images]
    boxes = as_list(boxes, 'adapt: boxes')
    per_image = [names] * len(images) if isinstance(names, str) else as_list(names, 'adapt: names')
    if not images or not len(images) == len(boxes) == len(per_image):
        raise InputError(
            f'adapt: expected boxes and names for each of {len(images)} images, at least one, got '
            f'{len(boxes)} and {len(per_image)}'
        )
    checked = len(images) >= MIN_CHECKED
    steps = (CHECKED_STEPS if checked else UNCHECKED_STEPS) if steps is None else steps
    if type(steps) is not int or steps < 1:
        raise InputError(f'adapt: steps must be an integer of at least 1, got {steps!r}')
    if not isinstance(lr, Real) or isinstance(lr, bool) or not 0 <= lr < float('inf'):
        raise InputError(f'adapt: lr must be a number of at least 0, got {lr!r}')
    if parts not in PARTS:
        raise InputError(f'adapt: parts must be {" or ".join(map(repr, PARTS))}, got {parts!r}')
    with_head = parts == 'head'
    if with_head and not checked:
        raise InputError(f'adapt: the head needs at least {MIN_CHECKED} images for the check; give more images')
    hidden = _check_tunable(inferencer)
    encoded, digest = inferencer.encode_annotated(images, boxes, per_image), fingerprint(inferencer.model)

    # Start from the current prompts, with the boxes as additional exemplars.
    def bank_with(some: Sequence[AnnotatedImage]) -> PromptBank:
        own = _exemplar_bank(some, digest)
        return own if inferencer.bank is None else PromptBank.merge([inferencer.bank, own])

    def as_prompts(bank: PromptBank) -> PromptSet:
        negative = torch.tensor([name in hidden for name in bank.names])
        return replace(bank.prompt_set(), negative=negative).to(inferencer.device)

    # Tune the parameters, and compare the losses before and after.
    model, bank = inferencer.model, bank_with(encoded)
    start = as_prompts(bank)
    if checked:
        before, after = check_on_left_out_images(
            model, encoded, lambda some: as_prompts(bank_with(some)), steps, lr, with_head
        )
    with restored_head(model):
        tuned = tune(model, encoded, start, steps, lr, with_head)
        head = copy_head(model)
        if not checked:
            before, after = (mean_loss(model, encoded, prompts) for prompts in (start, tuned))
    kept, num_boxes = not checked or after < before, sum(len(image.boxes) for image in encoded)
    result = Adaptation(kept, checked, before, after, len(images), num_boxes, steps, parts)
    # Use the result, and record its origin.
    if kept:
        paths = [str(image) if isinstance(image, str | PathLike) else None for image in images]
        origin = result._asdict() | dict(lr=lr, images=paths)
        earlier = bank.adaptations
        if with_head:
            own = inferencer.head.adaptations if inferencer.head is not None else ()
            inferencer.use_head(TunedHead(head, inferencer.weights_digest, (*own, origin)))
            # The bank belongs to this head, and not to the previous one any more.
            earlier = tuple({key: value for key, value in item.items() if key != 'head'} for item in earlier)
        if inferencer.head is not None:
            origin = origin | dict(head=inferencer.head.digest)
        bank = replace(bank, embeddings=tuned.embeddings.cpu(), adaptations=(*earlier, origin))
        inferencer.set_prompts(bank=bank, negative=[name for name in bank.names if name in hidden])
    return result


def _check_tunable(inferencer: 'DINOR1Inferencer') -> set[str]:
    """Check that the model has losses, and that all prompts are visual.

    Returns:
        The names of the negative classes.

    Raises:
        InputError: the model has no losses or is not in float32, or a prompt is not visual.
    """
    model, prompts, bank = inferencer.model, inferencer.prompts, inferencer.bank
    if model.inference_dtype is not None:
        raise InputError("adapt: needs a model in float32; make the inferencer with dtype='float32'")
    if not model.train_cfg:
        raise InputError('adapt: the config has no model.train_cfg, which the losses need; give a config with it')
    if prompts is None:
        return set()
    # Prompts that differ from the bank include text.
    if bank is None or not torch.equal(bank.embeddings, prompts.embeddings.cpu()):
        raise InputError('adapt: tunes visual prompts only; set prompts without text first, or reset_prompts')
    return {name for name, is_hidden in zip(prompts.names, prompts.negative.tolist(), strict=True) if is_hidden}


def _exemplar_bank(images: Sequence[AnnotatedImage], digest: str) -> PromptBank:
    """Bank with the mean embedding of the boxes of each class of the images."""
    labels = [name for image in images for name in image.names]
    names = list(dict.fromkeys(labels))
    index = torch.tensor([names.index(name) for name in labels])
    rows = torch.cat([image.embeddings for image in images]).float().cpu()
    means = PromptSet.from_exemplars(rows, index, names).embeddings
    return PromptBank(means, tuple(names), tuple(index.bincount().tolist()), digest)


def supervised_loss(model: Any, image: AnnotatedImage, prompts: PromptSet) -> Tensor:
    """Sum of the detector's supervised losses on one image; GRQO and denoising are left out.

    Args:
        model: The detector.
        image: The image. Boxes of classes that are not offered are left out.
        prompts: Prompts with one embedding per class.
    """
    # Find the prompt of each box.
    index = {name: i for i, name in enumerate(prompts.names)}
    known = [i for i, name in enumerate(image.names) if name in index]
    positive = image.boxes.new_zeros(len(known), len(prompts.embeddings))
    for row, i in enumerate(known):
        positive[row, index[image.names[i]]] = 1
    # Compute the predictions, and their loss for the boxes.
    sets = model.prompt_sets(image.features, [image.sample], prompts)
    output = model.transform(image.features, PromptBatch.stack(sets))
    targets = pad_targets([image.boxes[known]], [positive], [image.sample.img_shape])
    with _without_grqo(model.bbox_head):
        losses = model.bbox_head.loss(output, targets)
    return sum((value for name, value in losses.items() if 'loss' in name), torch.zeros(()))


def tune(
    model: Any,
    images: Sequence[AnnotatedImage],
    prompts: PromptSet,
    steps: int,
    lr: float,
    with_head: bool = False,
) -> PromptSet:
    """Tune the embeddings of prompts on images by AdamW; the result is deterministic.

    Args:
        model: The detector, in evaluation mode. Only the weights of the head are changed, and only with ``with_head``.
        images: At least one image.
        prompts: Prompts with one embedding per class.
        steps: Number of steps. A step uses up to four images; consecutive steps cycle through the images.
        lr: Learning rate; the elements of an embedding are of the order of 1.
        with_head: Whether to tune the head too (:mod:`dinor1.inference.tuned_head`), at a tenth of the learning rate.

    Returns:
        Prompts with the tuned embeddings.
    """
    # Collect the parameters.
    embeddings = prompts.embeddings.detach().clone().requires_grad_(True)
    head = list(head_parameters(model).values()) if with_head else []
    groups = [dict(params=[embeddings], lr=lr)] + ([dict(params=head, lr=HEAD_LR * lr)] if head else [])
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    # Take the steps.
    size = min(BATCH_SIZE, len(images))
    with torch.enable_grad(), _only_trained(model, head):
        for step in range(steps):
            batch = [images[(step * size + i) % len(images)] for i in range(size)]
            tuned = _with_embeddings(prompts, embeddings)
            optimizer.zero_grad()
            sum((supervised_loss(model, image, tuned) for image in batch), torch.zeros(())).div(size).backward()
            optimizer.step()
    return _with_embeddings(prompts, embeddings.detach())


@torch.no_grad()
def mean_loss(model: Any, images: Sequence[AnnotatedImage], prompts: PromptSet) -> float:
    """Mean of :func:`supervised_loss` over the images."""
    return float(torch.stack([supervised_loss(model, image, prompts) for image in images]).mean())


def check_on_left_out_images(
    model: Any,
    images: Sequence[AnnotatedImage],
    start: Callable[[Sequence[AnnotatedImage]], PromptSet],
    steps: int,
    lr: float,
    with_head: bool = False,
) -> tuple[float, float]:
    """Cross-validate a tuning: the loss on images that are left out, before and after the tuning.

    Each image is left out once; with more than five images, each of five groups is left out once.

    Args:
        model: The detector.
        images: At least three images.
        start: Function that makes the initial prompts of the given images only.
        steps: Number of steps of each tuning.
        lr: Learning rate.
        with_head: Whether the head is tuned too; it is restored after each tuning.

    Returns:
        Mean loss before and after, over the images that show a class for which the other images have a prompt.

    Raises:
        InputError: no two images show the same class.
    """
    before, after = [], []
    folds = min(len(images), MAX_FOLDS)
    for fold in range(folds):
        # Make the initial prompts without the images that are left out.
        rest = [image for i, image in enumerate(images) if i % folds != fold]
        prompts = start(rest)
        left_out = [image for image in images[fold::folds] if set(prompts.names) & set(image.names)]
        if not left_out:
            continue
        # Compute the loss on the images that are left out, before and after the tuning.
        before += [mean_loss(model, [image], prompts) for image in left_out]
        with restored_head(model):
            tuned = tune(model, rest, prompts, steps, lr, with_head)
            after += [mean_loss(model, [image], tuned) for image in left_out]
    if not before:
        raise InputError('adapt: no two images show the same class, so that no check is possible; give more images')
    return sum(before) / len(before), sum(after) / len(after)


def _with_embeddings(prompts: PromptSet, embeddings: Tensor) -> PromptSet:
    return PromptSet.from_classes(embeddings, prompts.names, prompts.mask, prompts.negative)


@contextlib.contextmanager
def _only_trained(model: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Switch off the gradients of all weights except some, and delete the gradients of these at the end."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    chosen = {id(parameter) for parameter in trained}
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
            parameter.grad = None if id(parameter) in chosen else parameter.grad


@contextlib.contextmanager
def _without_grqo(head: Any) -> Iterator[None]:
    """Switch off GRQO, which needs a reference model."""
    grqo = head.active_grqo
    try:
        if grqo is not None:
            grqo.enabled = False
        yield
    finally:
        if grqo is not None:
            grqo.enabled = True
