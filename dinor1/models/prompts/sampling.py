"""In-batch prompt sampling: which boxes of a training batch serve as prompts for its images.

DINO-R1, arXiv 2505.24025: one instance of each class in the batch is drawn at random. The prompt of a class that is
absent from an image is a hard negative for the image, and the exemplar of a prompt usually lies on another image.
Other ways to sample are in :mod:`.exemplar_weights`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dinor1.utils.errors import InputError


class PromptDraw(NamedTuple):
    """The prompts of one iteration. The reference model shares them, or has other exemplars of the same classes.

    Attributes:
        image: (K,) index of the image that the exemplar lies on.
        box: (K,) index of the exemplar among the boxes of its image; -1: the whole image, which belongs to no class.
        labels: (K,) class index of each prompt, ascending; -1: no class. Prompts from ``memory`` follow.
        classes: Class names indexed by ``labels``; None if the images have no class names.
        offered: (bs, K) True = the prompt is offered to the image; None: all are.
        weights: (K, n) or (bs, K, n) weight of each of the n boxes of the batch, in the order of the images, in the
            embedding of each prompt (of each image); None: the embedding of a prompt is that of its exemplar.
        exemplars: If the draw consists of pairs of an image and a class instead of boxes, per image (m,) class index of
            the boxes that are exemplars, -1: not an exemplar. ``box`` is then the index of the class among the classes
            of the image, ascending, and the columns of ``weights`` are the pairs, image by image, of all processes.
            None: the draw consists of boxes.
        memory: (bs, R, C) embeddings of earlier iterations, the last R of the prompts; None: there are none.
        text: (K, C) text embeddings that replace the exemplars; None: the exemplars are the prompts.
    """

    image: Tensor
    box: Tensor
    labels: Tensor
    classes: Sequence[str] | None = None
    offered: Tensor | None = None
    weights: Tensor | None = None
    exemplars: Sequence[Tensor] | None = None
    memory: Tensor | None = None
    text: Tensor | None = None

    def instance_labels(self, labels: Sequence[Tensor], every_box: bool = False) -> list[Tensor]:
        """Per image the class indices of the encoded boxes or pairs, see :func:`.box_encoding.drawn_prompts`.

        Args:
            labels: Per image (m,) class indices of its boxes.
            every_box: Whether all boxes are encoded.

        Returns:
            Per image (n,); nothing for a batch without boxes.
        """
        if self.exemplars is not None:
            return [exemplar[exemplar >= 0].unique() for exemplar in self.exemplars]
        if every_box or self.weights is not None or self.box[0] < 0:
            return list(labels)
        return [label[self.box[self.image == i]] for i, label in enumerate(labels)]

    def names(self) -> list[str | None]:
        """K class names, None for a prompt of no class.

        Raises:
            InputError: the images have no class names.
        """
        if self.classes is None:
            raise InputError(
                'model.prompts.alignment, relation_distill and refiner, a prompt memory and text prompts need class '
                'names; set return_classes=True in train_dataloader.dataset'
            )
        return [self.classes[i] if i >= 0 else None for i in self.labels.tolist()]


def common_vocabulary(
    labels: Sequence[Tensor], texts: Sequence[Sequence[str] | None]
) -> tuple[list[Tensor], Sequence[str] | None]:
    """Common class indices for a batch whose images may come from data sets with different classes.

    Args:
        labels: Per image (m,) indices into the class names of its data set.
        texts: Per image the class names of its data set, or None.

    Returns:
        The labels as indices into one list of names, and that list. Labels and names are unchanged if all images have
        the same names or no image has names.

    Raises:
        InputError: some images have names and others have none, or a text is a caption.
    """
    # Reject captions.
    if any(isinstance(text, str) for text in texts):
        raise InputError('a training image has a caption instead of class names; use ODVGPromptDataset')
    # Return early in the usual case of one data set.
    first = texts[0]
    if all(text is first or text == first for text in texts):
        return list(labels), first
    # Otherwise number the names in the order of their occurrence.
    named = [text for text in texts if text is not None]
    if len(named) < len(texts):
        raise InputError(
            'a training batch mixes images with and without class names; set return_classes=True in every data set'
        )
    index: dict[str, int] = {}
    renamed = [
        label.new_tensor([index.setdefault(name, len(index)) for name in text])[label]
        for label, text in zip(labels, named, strict=True)
    ]
    return renamed, tuple(index)


def sample_prompts(labels: Sequence[Tensor], classes: Sequence[str] | None = None) -> PromptDraw:
    """Draw one instance of each class in the batch, with torch's global generator.

    Args:
        labels: Per image (m,) class indices, see :func:`common_vocabulary`.
        classes: Class names indexed by ``labels``, or None.

    Returns:
        A prompt for each of the K distinct classes. A batch without any box gives one prompt of no class, the whole
        first image: all queries are then negatives, and all parameters still receive a gradient.
    """
    # Prompt a batch without boxes with the whole first image.
    device = labels[0].device
    flat = torch.cat(list(labels))
    if not len(flat):
        index = torch.zeros(1, dtype=torch.long, device=device)
        return PromptDraw(index, index - 1, index - 1, classes)
    # List the image, and the index within the image, of all instances.
    lengths = torch.tensor([len(label) for label in labels], device=device)
    image = torch.repeat_interleave(torch.arange(len(labels), device=device), lengths)
    box = torch.cat([torch.arange(len(label), device=device) for label in labels])
    # Shuffle the instances, and take the first one of each class.
    order = torch.randperm(len(flat), device='cpu').to(device)
    distinct, inverse = flat[order].unique(return_inverse=True)
    first = torch.full_like(distinct, len(flat)).scatter_reduce(
        0, inverse, torch.arange(len(flat), device=device), reduce='amin'
    )
    chosen = order[first]
    return PromptDraw(image[chosen], box[chosen], distinct, classes)


def exemplar_boxes(labels: Sequence[Tensor], draw: PromptDraw) -> list[Tensor]:
    """Per image (m,) True = the box is an exemplar of a prompt."""
    lengths = [len(label) for label in labels]
    # A box is an exemplar if it has a weight in a prompt,
    if draw.weights is not None:
        return list((draw.weights > 0).flatten(0, -2).any(0).split(lengths))
    # or if it was drawn.
    index = torch.arange(max(lengths), device=draw.image.device)
    return [(index[:length, None] == draw.box[draw.image == i]).any(1) for i, length in enumerate(lengths)]


def positive_maps(labels: Sequence[Tensor], draw: PromptDraw) -> list[Tensor]:
    """Per image (m, K) of 0 and 1; 1 where the prompt has the class of the object."""
    return [(label[:, None] == draw.labels[None]).float() for label in labels]


def drop_prompts(offered: Tensor, probability: float) -> Tensor:
    """Offer only some of the prompts to some of the images.

    A detector whose queries attend to the prompts can depend on how many there are; trained with all prompts of a
    batch, it gives low scores if a user offers a single one. An image is chosen with ``probability``, and keeps a
    random subset of its k prompts, of a size that is uniform in {1, ..., k}. Uses torch's global generator.

    Args:
        offered: (bs, K) True = the prompt may be offered to the image; at least one per image.
        probability: Probability in [0, 1] that an image loses prompts.

    Returns:
        (bs, K) True = the prompt is offered.
    """
    # Draw the number of prompts of each image, and a random order of its prompts.
    chosen, share, order = (
        torch.rand(shape).to(offered.device) for shape in (len(offered), len(offered), offered.shape)
    )
    count = offered.sum(1)
    size = torch.where(chosen < probability, (share * count).long() + 1, count)
    # Keep the first prompts of that order.
    rank = order.masked_fill(~offered, 2.0).argsort(1).argsort(1)
    return offered & (rank < size[:, None])


def offered_boxes(labels: Sequence[Tensor], draw: PromptDraw) -> list[Tensor]:
    """Per image (m,) True = a prompt of the box's class is offered to the image."""
    if draw.offered is None:
        return [torch.ones_like(label, dtype=torch.bool) for label in labels]
    return [
        ((label[:, None] == draw.labels) & offered).any(1) for label, offered in zip(labels, draw.offered, strict=True)
    ]
