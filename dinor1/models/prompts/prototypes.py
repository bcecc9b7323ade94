"""Class prototypes: the mean of the prompts of each class.

DETR-ViP (arXiv 2604.14684), global prompt integration: all (image, class) prompts of a batch have the same weight.
"""

import torch
from torch import Tensor


def class_prototypes(prompts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Plain mean of the prompts of each class, without normalisation.

    Args:
        prompts: (M, C) embeddings.
        labels: (M,) class index of each.

    Returns:
        Means (P, C) and the P distinct classes, ascending.
    """
    classes, index = labels.unique(return_inverse=True)
    # A matrix product is deterministic on every device, unlike a scattered sum.
    member = (index == torch.arange(len(classes), device=index.device)[:, None]).to(prompts.dtype)
    return member @ prompts / member.sum(1, keepdim=True), classes
