"""In-batch prompt sampling: which boxes of a training batch serve as prompts for all of its images.

DINO-R1, arXiv 2505.24025: per class of the batch one instance is drawn at random. A class that is absent from an image
is then a hard negative there, and a prompt usually comes from another image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class PromptDraw(NamedTuple):
    """The prompts of one iteration; student and reference model share it, or their KL would compare two questions.

    Attributes:
        image: (K,) index of the image that the exemplar lies on.
        box: (K,) index of the exemplar among the boxes of its image; -1: the whole image, which stands for no class.
        labels: (K,) class of each prompt, rising; -1: no class.
    """

    image: Tensor
    box: Tensor
    labels: Tensor


def sample_prompts(labels: Sequence[Tensor]) -> PromptDraw:
    """Draw one instance per class of the batch, from torch's global generator.

    Args:
        labels: Per image (m,) class indices.

    Returns:
        K = number of distinct classes. A batch without any box gives one prompt, the whole first image with no
        class: everything is then a negative for it, and every parameter still receives a gradient.
    """
    device = labels[0].device
    flat = torch.cat(list(labels))
    if not len(flat):
        index = torch.zeros(1, dtype=torch.long, device=device)
        return PromptDraw(index, index - 1, index - 1)
    lengths = torch.tensor([len(label) for label in labels], device=device)
    image = torch.repeat_interleave(torch.arange(len(labels), device=device), lengths)
    box = torch.cat([torch.arange(len(label), device=device) for label in labels])
    # Of each class the first instance in a random order.
    order = torch.randperm(len(flat), device='cpu').to(device)
    classes, inverse = flat[order].unique(return_inverse=True)
    first = torch.full_like(classes, len(flat)).scatter_reduce(
        0, inverse, torch.arange(len(flat), device=device), reduce='amin'
    )
    chosen = order[first]
    return PromptDraw(image[chosen], box[chosen], classes)


def positive_maps(labels: Sequence[Tensor], draw: PromptDraw) -> list[Tensor]:
    """Per image (m, K): 1 where the prompt is of the object's class."""
    return [(label[:, None] == draw.labels[None]).float() for label in labels]
