"""Ranking of the queries of each prompt: matched queries above the others, well located ones above the rest.

This is not in the paper of DINO-R1. The logits of one prompt, over all queries and images of a batch, form a group.
With z the logits, P the matched queries (positives), N the queries that are neither matched nor duplicates, and u the
IoU of a positive with its object:

- advantage   A_i = (u_i - mean_P u) / (std_P u + 0.05), without gradient
- weight      w_i = clip(1 + A_i / 2, 0.25, 2), divided by its mean over P
- loss        mean_i w_i T log(1 + sum_j exp((z_j - z_i) / T)) over i in P and j in N
              + c mean (u_i - u_i') softplus(z_i' - z_i) over the pairs of P with u_i > u_i' + 0.05

The loss depends on differences of logits of one prompt only, so that its gradients sum to zero over each group. Related
losses that rank the detections of an image or a data set: Rank & Sort (arXiv 2107.11669), Rank-DETR (arXiv 2310.08854)
and Align-DETR (arXiv 2304.07527).
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32, compute_dtype, full_precision

from .matching import Match, Targets
from .settings import NOT_NEGATIVE, POSITIVE, check_choice, check_ranges

RankingGroup = Literal['prompt', 'all', 'random']
RANKING_GROUPS: tuple[RankingGroup, ...] = ('prompt', 'all', 'random')
# The IoUs of two positives must differ by this much to be ranked; also added to the deviation of the IoUs.
_MARGIN = 0.05


class RankingSets(NamedTuple):
    """Positives and negatives of every prompt.

    Attributes:
        positive: (S, B, Q, K) True = the query is matched to an object of the prompt's class.
        negative: (S, B, Q, K) True = the query is a negative of the prompt. Neither positive nor negative are
            duplicates, queries of prompts that are not offered, and those of images that were not annotated for the
            class.
        quality: (S, B, Q) IoU in [0, 1] of a matched query with its object, 0 for the others; without gradient.
    """

    positive: Tensor
    negative: Tensor
    quality: Tensor


@torch.no_grad()
def ranking_sets(
    boxes: Tensor, targets: Targets, match: Match, offered: Tensor, duplicate_iou: float = 0.5
) -> RankingSets:
    """Divide the pairs of query and prompt into positives, negatives and the rest.

    Args:
        boxes: (S, B, Q, 4) normalised cxcywh.
        targets: Ground truth of the B images.
        match: One-to-one assignment of the S stages.
        offered: (B, K) True = the prompt is offered to the image.
        duplicate_iou: A query without a match is a duplicate, and no negative, of prompts whose class has an object
            with a larger IoU than this.
    """
    # Compare all boxes with all objects.
    dtype = compute_dtype(boxes)
    predicted = bbox_cxcywh_to_xyxy(boxes.to(dtype))
    wanted = bbox_cxcywh_to_xyxy(targets.boxes.to(dtype)).expand(len(boxes), -1, -1, -1)
    iou = bbox_overlaps(predicted, wanted, eps=1e-12)
    # Mark the matched pairs, and keep their IoU.
    positive_map = (targets.positive_map > 0) & targets.valid[..., None]
    positive = torch.zeros(*boxes.shape[:3], positive_map.shape[-1], dtype=torch.bool, device=boxes.device)
    positive[match.stage, match.image, match.query] = positive_map[match.image, match.target]
    quality = iou.new_zeros(boxes.shape[:3])
    quality[match.stage, match.image, match.query] = iou[match.stage, match.image, match.query, match.target]
    # Of the other pairs, leave out duplicates and those that the annotations say nothing about.
    duplicate = (iou > duplicate_iou).to(dtype) @ positive_map.to(dtype) > 0
    judged = (offered & targets.verified)[:, None]
    return RankingSets(positive & offered[:, None], ~positive & ~duplicate & judged, quality)


def quality_weights(quality: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Weights w of positives by their IoU, relative to the other positives of their group.

    Args:
        quality: (n,) IoU in [0, 1].
        group: (n,) index of the group in [0, num_groups).
        num_groups: Number of groups; groups may be empty.

    Returns:
        (n,) > 0, of mean 1 in every group; 1 for a positive that is alone, or whose group has equal IoUs.
    """
    mean = _group_mean(quality, group, num_groups)[group]
    deviation = _group_mean((quality - mean).square(), group, num_groups)[group].sqrt()
    weights = (1 + 0.5 * (quality - mean) / (deviation + _MARGIN)).clamp(0.25, 2.0)
    return weights / _group_mean(weights, group, num_groups)[group]


def ranking_loss(
    logits: Tensor,
    positive: Tensor,
    negative: Tensor,
    quality: Tensor,
    group: Tensor,
    num_groups: int,
    *,
    temperature: float = 1.0,
    pair_weight: float = 0.5,
    weighted: bool = True,
) -> Tensor:
    """Ranking loss of the entries of several groups.

    Args:
        logits: (E,), any value where neither positive nor negative.
        positive: (E,) True = positive.
        negative: (E,) True = negative.
        quality: (E,) IoU in [0, 1] of the positives, without gradient.
        group: (E,) index of the group in [0, num_groups).
        num_groups: Number of groups.
        temperature: T > 0.
        pair_weight: Weight c of the pairs of positives.
        weighted: Whether better located positives have larger weights, see :func:`quality_weights`; False: all have 1.

    Returns:
        Mean over the groups that have a positive; 0 without any. A group without negatives has only pairs of positives.
    """
    # Select the positives; a sum of nothing keeps the logits in the graph, as DDP requires.
    own = positive.nonzero().flatten()
    z, u, k = logits[own], quality[own].to(logits.dtype), group[own]
    if not len(own):
        return z.sum()
    # Rank them above the negatives of their group.
    pressure, has_negatives = _group_logsumexp(logits / temperature, negative, group, num_groups)
    above = temperature * F.softplus(pressure[k] - z / temperature)
    above = above.masked_fill(~has_negatives[k], 0.0)
    if weighted:
        above = above * quality_weights(u, k, num_groups)
    losses = _group_mean(above, k, num_groups)
    # Rank better located positives above the others.
    if pair_weight:
        better, worse = ((k[:, None] == k) & (u[:, None] > u + _MARGIN)).nonzero().unbind(-1)
        pairs = (u[better] - u[worse]) * F.softplus(z[worse] - z[better])
        losses = losses + pair_weight * _group_mean(pairs, k[better], num_groups)
    # Average over the groups with a positive.
    alive = torch.zeros_like(losses, dtype=torch.bool).index_fill(0, k, True)
    return losses.sum() / alive.sum()


def _group_mean(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Mean (G,) of the values (n,) of each group; 0 for an empty group."""
    zeros = values.new_zeros(num_groups)
    count = zeros.index_add(0, group, torch.ones_like(values))
    return zeros.index_add(0, group, values) / count.clamp(min=1)


def _group_logsumexp(values: Tensor, member: Tensor, group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Log sum exp (G,) of the members among the values (E,) of each group, 0 without one; and (G,) True = has one."""
    # Subtract the largest value of each group, so that no exponential overflows.
    values = values.masked_fill(~member, -math.inf)
    largest = values.new_full((num_groups,), -math.inf).scatter_reduce(0, group, values.detach(), 'amax')
    has_member = largest > -math.inf
    largest = largest.masked_fill(~has_member, 0.0)
    total = values.new_zeros(num_groups).index_add(0, group, (values - largest[group]).exp())
    # The logarithm of 0 would have an infinite gradient.
    return total.masked_fill(~has_member, 1.0).log() + largest, has_member


@MODELS.register_module()
class PromptRankingLoss(nn.Module):
    """:func:`ranking_loss` of every stage: the decoder layers and the encoder's selected tokens.

    Args:
        loss_weight: Weight of the loss, >= 0.
        groups: ``prompt``: the logits of each prompt form a group. ``all``: one group of all prompts. ``random``: as
            many groups as prompts, each of random pairs of query and prompt; controls of the study.
        weights: ``quality``: better located positives have larger weights; ``uniform``: all have 1.
        pair_weight: Weight of the pairs of positives, >= 0.
        temperature: Temperature T > 0 of the logits.
        duplicate_iou: IoU in [0, 1] above which an unmatched query is a duplicate and no negative.

    Attributes:
        loss_weight: Weight of the loss; :class:`dinor1.engine.LossBalanceHook` may set it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        groups: RankingGroup = 'prompt',
        weights: str = 'quality',
        pair_weight: float = 0.5,
        temperature: float = 1.0,
        duplicate_iou: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice('PromptRankingLoss', 'groups', groups, RANKING_GROUPS)
        if weights not in ('quality', 'uniform'):
            raise InputError(f"PromptRankingLoss: weights must be 'quality' or 'uniform', got {weights!r}")
        check_ranges(
            'PromptRankingLoss',
            loss_weight=(loss_weight, NOT_NEGATIVE),
            pair_weight=(pair_weight, NOT_NEGATIVE),
            temperature=(temperature, POSITIVE),
        )
        if not 0 <= duplicate_iou <= 1:
            raise InputError(f'PromptRankingLoss: duplicate_iou must be in [0, 1], got {duplicate_iou}')
        self.loss_weight, self.groups, self.weighted = loss_weight, groups, weights == 'quality'
        self.pair_weight, self.temperature, self.duplicate_iou = pair_weight, temperature, duplicate_iou

    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets, match: Match, offered: Tensor) -> Tensor:
        """Loss of each stage, computed at least in single precision.

        Args:
            logits: (S, B, Q, K); any value where a prompt is not offered.
            boxes: (S, B, Q, 4) normalised cxcywh.
            targets: Ground truth of the B images.
            match: One-to-one assignment of the S stages.
            offered: (B, K) True = the prompt is offered to the image.

        Returns:
            (S,).
        """
        sets = ranking_sets(boxes, targets, match, offered, self.duplicate_iou)
        # Number the groups of all pairs of query and prompt.
        num_prompts = logits.shape[-1]
        group = torch.arange(num_prompts, device=logits.device).expand(logits.shape[1:]).flatten()
        if self.groups == 'all':
            group = torch.zeros_like(group)
        values = []
        with full_precision(logits.device):
            for stage in range(len(logits)):
                if self.groups == 'random':
                    group = group[torch.randperm(len(group)).to(group.device)]
                value = ranking_loss(
                    at_least_float32(logits[stage]).flatten(),
                    sets.positive[stage].flatten(),
                    sets.negative[stage].flatten(),
                    sets.quality[stage][..., None].expand(sets.positive.shape[1:]).flatten(),
                    group,
                    num_prompts,
                    temperature=self.temperature,
                    pair_weight=self.pair_weight,
                    weighted=self.weighted,
                )
                values.append(value * self.loss_weight)
        return torch.stack(values)
