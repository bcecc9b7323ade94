"""Matching of predictions to ground truth, batched over decoder layers and images.

The cost is that of Grounding DINO in MMDetection (``BinaryFocalLossCost`` + ``BBoxL1Cost`` + ``IoUCost('giou')``), and
it is differentiable: GRQO's reward is minus the minimum of the cost over the ground truths (:mod:`.grqo`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert

from dinor1.structures import DenoisingGroups
from dinor1.utils.precision import compute_dtype, full_precision


class Targets(NamedTuple):
    """Ground truth of a batch, padded to the largest number M of objects in an image.

    Attributes:
        boxes: (B, M, 4) normalised cxcywh in [0, 1].
        positive_map: (B, M, K) 1 where a prompt belongs to the object's class.
        valid: (B, M) False = padding.
        scale: (B, 4) width, height, width, height of the images in pixels.
        counts: Number of objects in each of the B images, as Python integers.
        verified: (B, K) True = every instance of the prompt's class in the image has a box, so that a query without a
            match is a negative of the prompt. False: such a query may show an instance without a box, and the pair of
            query and prompt has no loss.
    """

    boxes: Tensor
    positive_map: Tensor
    valid: Tensor
    scale: Tensor
    counts: tuple[int, ...]
    verified: Tensor

    def indices(self) -> tuple[Tensor, Tensor]:
        """Image index and index within the image of every object: ``valid.nonzero`` without synchronisation."""
        image = [i for i, count in enumerate(self.counts) for _ in range(count)]
        target = [j for count in self.counts for j in range(count)]
        both = torch.tensor([image, target], dtype=torch.long, device=self.valid.device)
        return both[0], both[1]

    def present(self) -> Tensor:
        """(B, K) True = the image has a box of the prompt's class."""
        return ((self.positive_map > 0) & self.valid[..., None]).any(1)

    def incomplete(self) -> Tensor:
        """(B,) True = the image shows a class whose instances may lack boxes."""
        return (self.present() & ~self.verified).any(-1)


class Match(NamedTuple):
    """Matched pairs of all S stages (decoder layers, encoder) and B images: four index tensors of the same length.

    Attributes:
        stage: (n,) in [0, S).
        image: (n,) in [0, B).
        query: (n,) in [0, Q).
        target: (n,) in [0, M).
    """

    stage: Tensor
    image: Tensor
    query: Tensor
    target: Tensor


def pad_targets(
    boxes: Sequence[Tensor],
    positive_maps: Sequence[Tensor],
    img_hw: Sequence[tuple[int, int]] | Tensor,
    verified: Tensor | None = None,
) -> Targets:
    """Pad and normalise the ground truth of a batch.

    Args:
        boxes: Per image (m, 4) pixel xyxy.
        positive_maps: Per image (m, K).
        img_hw: Per image (height, width) of the un-padded network input, pixels.
        verified: (B, K), see :class:`Targets`. Default: all True.
    """
    # Pad to the largest number of objects.
    longest = max(1, max(len(b) for b in boxes))
    padded = boxes[0].new_zeros(len(boxes), longest, 4)
    maps = boxes[0].new_zeros(len(boxes), longest, positive_maps[0].shape[-1])
    for i, (box, positive_map) in enumerate(zip(boxes, positive_maps, strict=True)):
        padded[i, : len(box)] = box
        maps[i, : len(box)] = positive_map.to(maps.dtype)
    counts = tuple(len(b) for b in boxes)
    valid = torch.arange(longest, device=padded.device) < torch.tensor(counts, device=padded.device)[:, None]
    # Normalise by the size of each image.
    height, width = torch.as_tensor(img_hw, dtype=padded.dtype, device=padded.device).unbind(-1)
    scale = torch.stack([width, height, width, height], -1)
    if verified is None:
        verified = torch.ones(len(boxes), maps.shape[-1], dtype=torch.bool, device=maps.device)
    return Targets(box_convert(padded / scale[:, None], 'xyxy', 'cxcywh'), maps, valid, scale, counts, verified)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper corner (..., 2) and area (...) of boxes (..., 4) cxcywh."""
    half = boxes[..., 2:] / 2
    return boxes[..., :2] - half, boxes[..., :2] + half, boxes[..., 2] * boxes[..., 3]


def pairwise_giou(boxes: Tensor, targets: Tensor, eps: float = 1e-12) -> Tensor:
    """Generalised IoU in [-1, 1] of every box (..., Q, 4) with every target (..., M, 4), cxcywh -> (..., Q, M).

    The ratio of areas does not change when an axis is scaled, so normalised boxes give the value of pixel boxes.
    """
    # Compute intersection and smallest enclosing box of every pair.
    low, high, area = _corners(boxes[..., :, None, :])
    target_low, target_high, target_area = _corners(targets[..., None, :, :])
    inner = (torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp(min=0)
    outer = torch.maximum(high, target_high) - torch.minimum(low, target_low)
    intersection, hull = inner[..., 0] * inner[..., 1], outer[..., 0] * outer[..., 1]
    # Combine the areas: IoU minus the share of the enclosing box that neither box covers.
    union = (area + target_area - intersection).clamp(min=eps)
    hull = hull.clamp(min=eps)
    return intersection / union - (hull - union) / hull


def matching_cost(
    cls_logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    *,
    cls_weight: float = 2.0,
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
    eps: float = 1e-12,
) -> Tensor:
    """Cost of every query against every ground truth of its image, with gradient.

    Args:
        cls_logits: (S, B, Q, K); -inf in the columns of prompts that are not offered.
        boxes: (S, B, Q, 4) normalised cxcywh.
        targets: Ground truth of the B images.
        cls_weight: Weight of the focal cost.
        l1_weight: Weight of the L1 distance of normalised cxcywh.
        giou_weight: Weight of the negative GIoU.
        alpha: Weight of the positive term of the focal cost; the negative has 1 - alpha.
        gamma: Exponent of the focal cost.
        eps: Added to probabilities before their logarithm.

    Returns:
        (S, B, Q, M) in at least single precision; +inf at padded ground truths.
    """
    # Compute the focal cost: prompts of the object's class are positives, the other verified prompts are negatives.
    dtype = compute_dtype(cls_logits)
    probability, boxes = cls_logits.to(dtype).sigmoid(), boxes.to(dtype)
    positive = -(probability + eps).log() * alpha * (1 - probability).pow(gamma)
    negative = -(1 - probability + eps).log() * (1 - alpha) * probability.pow(gamma)
    negative = negative * targets.verified[:, None]
    positive_map = targets.positive_map.to(dtype)
    with full_precision(cls_logits.device):  # autocast would round the cost, and change the matching
        focal = negative.sum(-1, keepdim=True) + (positive - negative) @ positive_map.transpose(-1, -2)
    # Add the box costs.
    target_boxes = targets.boxes.to(dtype)
    l1 = (boxes[..., :, None, :] - target_boxes[:, None]).abs().sum(-1)
    cost = cls_weight * focal + l1_weight * l1 - giou_weight * pairwise_giou(boxes, target_boxes)
    return cost.masked_fill(~targets.valid[:, None, :], float('inf'))


def hungarian_match(cost: Tensor, targets: Targets) -> Match:
    """One-to-one assignment of minimum total cost, for each stage and image.

    Args:
        cost: (S, B, Q, M); it is copied to the host once for all S * B assignments.
        targets: Ground truth, for the number of objects in each image.

    Returns:
        Matched pairs, min(Q, number of objects) for each stage and image.

    Raises:
        FloatingPointError: the cost contains NaN.
    """
    # Copy the cost to the host.
    host = cost.detach().cpu().numpy()
    if np.isnan(host).any():
        raise FloatingPointError(
            'the matching cost is NaN: training diverged; lower the learning rate or the maximum gradient norm'
        )
    # Match the queries of each stage and image to its objects.
    pairs = [
        (stage, image, query, target)
        for stage in range(host.shape[0])
        for image, count in enumerate(targets.counts)
        for query, target in zip(*linear_sum_assignment(host[stage, image, :, :count]), strict=True)
    ]
    return Match(*torch.tensor(pairs, dtype=torch.long, device=cost.device).reshape(-1, 4).unbind(-1))


def denoising_match(targets: Targets, num_layers: int, groups: DenoisingGroups) -> Match:
    """Assignment of the denoising queries: in each group, the first M of the 2 M queries are the positives.

    Args:
        targets: Ground truth that the queries were made of.
        num_layers: Number of decoder layers, which all have the same assignment.
        groups: Layout of the denoising queries.
    """
    # Locate the objects, and the first query of each group.
    image, target = targets.indices()
    num_groups = groups.num_groups if len(image) else 0
    device = image.device
    first = torch.arange(num_groups, device=device) * (2 * targets.valid.shape[1])
    # Combine every decoder layer with every group and every object.
    stage = torch.arange(num_layers, device=device)
    stage, first, pair = (
        t.flatten() for t in torch.meshgrid(stage, first, torch.arange(len(image), device=device), indexing='ij')
    )
    return Match(stage, image[pair], first + target[pair], target[pair])
