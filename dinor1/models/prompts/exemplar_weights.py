"""Prompts that average several exemplars of a training batch: weights of its boxes in each prompt.

Alternatives to DINO-R1's single exemplar per class (:func:`~dinor1.models.prompts.sampling.sample_prompts`):

- class prototypes, as in DETR-ViP (arXiv 2604.14684): the mean over the images that show the class, of the mean over
  the exemplars on each image;
- prompts per image: exemplars of the image itself, as in T-Rex2 (arXiv 2403.14610), or of other images of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def prototype_weights(labels: Sequence[Tensor], classes: Tensor, exclude_self: bool = False) -> Tensor:
    """Weights of class prototypes: every image that shows a class has the same weight, for any number of boxes.

    On each image, the number of exemplars of a class is uniform in {1, ..., number of its boxes}. Uses torch's global
    generator.

    Args:
        labels: Per image (m,) class indices; n boxes in all.
        classes: (K,) distinct class indices; each must occur.
        exclude_self: Leave an image out of the prototypes offered to it, if another image shows the class. Otherwise
            its ground truth would be part of its prompts, which is not the case at test time with exemplars from other
            images.

    Returns:
        (K, n), or (bs, K, n) with ``exclude_self``; rows sum to 1.
    """
    # Draw exemplars on each image.
    image, member = _boxes(labels, classes)
    on_image = member[None] & (image[None] == torch.arange(len(labels), device=image.device)[:, None])[:, None]
    chosen = _some(on_image, _uniform_count(on_image.sum(-1))).float()
    # Average over the exemplars of each image, then over the images.
    votes = chosen / chosen.sum(-1, keepdim=True).clamp(min=1)
    if not exclude_self:
        total = votes.sum(0)
        return total / total.sum(-1, keepdim=True)
    others = votes.sum(0) - votes
    total = torch.where(others.sum(-1, keepdim=True) > 0.5, others, votes)
    return total / total.sum(-1, keepdim=True)


def per_image_weights(labels: Sequence[Tensor], classes: Tensor, max_exemplars: int = 16) -> Tensor:
    """Weights of prompts that are drawn separately for every image.

    With equal probability, the exemplars of a class come from the image itself or from other images, if the class
    occurs there. Half of the prompts have one exemplar; the number of exemplars of the others is uniform in {1, ...,
    min(max_exemplars, number of boxes)}. Uses torch's global generator.

    Args:
        labels: Per image (m,) class indices; n boxes in all.
        classes: (K,) distinct class indices; each must occur.
        max_exemplars: Maximum number of exemplars of a prompt, at least 1.

    Returns:
        (bs, K, n); rows sum to 1.
    """
    # Decide for each image and class whether the exemplars come from the image.
    image, member = _boxes(labels, classes)
    itself = image[None] == torch.arange(len(labels), device=image.device)[:, None]
    own, others = member[None] & itself[:, None], member[None] & ~itself[:, None]
    use_own = torch.rand(own.shape[:2]).to(image.device) < 0.5
    use_own = (use_own | ~others.any(-1)) & own.any(-1)
    candidates = torch.where(use_own[..., None], own, others)
    # Draw the exemplars, and average them.
    single = torch.rand(use_own.shape).to(image.device) < 0.5
    count = _uniform_count(candidates.sum(-1).clamp(max=max_exemplars))
    chosen = _some(candidates, count.masked_fill(single, 1)).float()
    return chosen / chosen.sum(-1, keepdim=True)


def pair_exemplars(labels: Sequence[Tensor]) -> list[Tensor]:
    """Draw the exemplars of every pair of an image and a class on it.

    Their number is uniform in {1, ..., number of boxes of the class on the image}. Uses torch's global generator.

    Args:
        labels: Per image (m,) class indices.

    Returns:
        Per image (m,) class index of the boxes that are exemplars, -1 for the others.
    """
    exemplars = []
    for label in labels:
        member = label.unique()[:, None] == label
        chosen = _some(member, _uniform_count(member.sum(-1))).any(0)
        exemplars.append(label.masked_fill(~chosen, -1))
    return exemplars


def _boxes(labels: Sequence[Tensor], classes: Tensor) -> tuple[Tensor, Tensor]:
    """Image index (n,) of all boxes, and (K, n) True = the box belongs to the class."""
    lengths = torch.tensor([len(label) for label in labels], device=classes.device)
    image = torch.arange(len(labels), device=classes.device).repeat_interleave(lengths)
    return image, torch.cat(list(labels))[None] == classes[:, None]


def _uniform_count(available: Tensor) -> Tensor:
    """Uniform in {1, ..., available}; 1 where nothing is available."""
    return (torch.rand(available.shape).to(available.device) * available).long() + 1


def _some(candidates: Tensor, count: Tensor) -> Tensor:
    """Random subset of the candidates (..., n), of ``count`` (...) elements if there are as many."""
    order = torch.rand(candidates.shape).to(candidates.device).masked_fill(~candidates, 2.0)
    return candidates & (order.argsort(-1).argsort(-1) < count[..., None])
