"""One-to-many assignment with a group of queries per object, as a second branch of every decoder layer.

C. Zhao et al., *MS-DETR*, arXiv 2401.03989, supervises the queries between cross-attention and self-attention one to
many, with equal weights; the weights below are not part of it. With u the IoU of a query with an object, p its
probability for the object's class, and s = 0.7 u + 0.3 p:

- candidates  C_j = the best query of object j, and queries with u > 0.4 that prefer j to other objects; at most 6
- advantage   A_q = (s_q - mean_C s) / (std_C s + 0.05), without gradient
- weight      w_q = |C_j| softmax_C(A)_q, of mean 1 for every object

Normalised over all candidates of an image instead, the weights would follow the difficulty of the objects.
"""

import math
from typing import Literal, NamedTuple

import torch
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy, bbox_overlaps
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.precision import compute_dtype

from .matching import Match, Targets, hungarian_match
from .settings import AT_LEAST_1, BELOW_1, FRACTION, NOT_NEGATIVE, check_choice, check_ranges

CandidateWeights = Literal['advantage', 'uniform', 'shuffled']
CANDIDATE_WEIGHTS: tuple[CandidateWeights, ...] = ('advantage', 'uniform', 'shuffled')
# Added to the deviation of the scores of a group.
_EPS = 0.05


class Candidates(NamedTuple):
    """Queries that serve an object, of all stages and images.

    Attributes:
        match: Pairs of query and object; a query occurs at most once per stage and image.
        score: (n,) score s in [0, 1] of the pairs.
        group: (n,) index of the object of each pair, counted over stages and images.
    """

    match: Match
    score: Tensor
    group: Tensor


@torch.no_grad()
def candidate_scores(logits: Tensor, boxes: Tensor, targets: Targets, iou_share: float = 0.7) -> tuple[Tensor, Tensor]:
    """Score s, and IoU u, of every query for every object of its image.

    Args:
        logits: (S, B, Q, K) prompt logits; -inf where a prompt is not offered.
        boxes: (S, B, Q, 4) normalised cxcywh.
        targets: Ground truth of the B images.
        iou_share: Weight of the IoU in [0, 1]; the probability has the rest.

    Returns:
        Scores and IoUs (S, B, Q, M) in [0, 1]; no meaning at padding.
    """
    dtype = compute_dtype(logits)
    predicted = bbox_cxcywh_to_xyxy(boxes.to(dtype))
    wanted = bbox_cxcywh_to_xyxy(targets.boxes.to(dtype)).expand(len(boxes), -1, -1, -1)
    iou = bbox_overlaps(predicted, wanted, eps=1e-12)
    # An object that several prompts belong to has the mean of their probabilities.
    share = targets.positive_map.to(dtype)
    share = share / share.sum(-1, keepdim=True).clamp(min=1)
    probability = logits.to(dtype).sigmoid() @ share.transpose(-1, -2)
    return iou_share * iou + (1 - iou_share) * probability, iou


@torch.no_grad()
def one_to_many_candidates(
    score: Tensor, iou: Tensor, targets: Targets, size: int = 6, min_iou: float = 0.4
) -> Candidates:
    """Assign up to ``size`` queries to every object, and every query to at most one object.

    Args:
        score: (S, B, Q, M) scores in [0, 1].
        iou: (S, B, Q, M).
        targets: Ground truth of the B images.
        size: Maximum number of queries per object, >= 1.
        min_iou: A query must have a larger IoU than this, unless it is the best one of the object.

    Returns:
        The candidates. The best query of each object comes from the one-to-one assignment of the largest total score,
        so that it is another one for every object; with fewer queries than objects, some objects have none.
    """
    # Find the best query of each object, and let it serve no other.
    num_queries = score.shape[2]
    best = hungarian_match((-score).masked_fill(~targets.valid[:, None, :], math.inf), targets)
    is_best = torch.zeros_like(score, dtype=torch.bool)
    is_best[best] = True
    taken = is_best.any(-1, keepdim=True)
    # Of the other queries, let each serve the object that it has the highest score for.
    eligible = (iou > min_iou) & targets.valid[:, None, :] & ~taken
    preferred = score.masked_fill(~eligible, -math.inf)
    objects = torch.arange(score.shape[-1], device=score.device)
    eligible = eligible & (preferred.argmax(-1, keepdim=True) == objects)
    # Keep the highest scores of each object, the best query first.
    ranked = score.masked_fill(~eligible, -math.inf).masked_fill(is_best, math.inf)
    order = ranked.topk(min(size, num_queries), dim=2).indices
    kept = torch.zeros_like(is_best).scatter(2, order, True) & (eligible | is_best)
    stage, image, query, target = kept.nonzero().unbind(-1)
    group = (stage * score.shape[1] + image) * score.shape[3] + target
    return Candidates(Match(stage, image, query, target), score[stage, image, query, target], group)


def candidate_weights(score: Tensor, group: Tensor, kind: CandidateWeights = 'advantage') -> Tensor:
    """Weights of the candidates of each object.

    Args:
        score: (n,) scores s.
        group: (n,) >= 0, index of the object of each candidate.
        kind: ``advantage``: |C_j| softmax of the normalised scores. ``uniform``: 1, as in MS-DETR. ``shuffled``: those
            of ``advantage`` in a random order within each object, with torch's global generator.

    Returns:
        (n,) > 0 without gradient, of mean 1 for every object; 1 for a candidate that is alone.
    """
    score = score.detach()
    if kind == 'uniform' or not len(score):
        return torch.ones_like(score)
    # Normalise the scores of each object.
    _, index = group.unique(return_inverse=True)
    zeros = score.new_zeros(int(index.max()) + 1)
    size = zeros.index_add(0, index, torch.ones_like(score))[index]
    centred = score - zeros.index_add(0, index, score)[index] / size
    deviation = (zeros.index_add(0, index, centred.square())[index] / size).sqrt()
    # Take the softmax; the advantages of a group lie within the square root of its size.
    exponential = (centred / (deviation + _EPS)).exp()
    weights = size * exponential / zeros.index_add(0, index, exponential)[index]
    if kind == 'shuffled':
        # Sort the candidates by object twice: as they are, and in a random order within each object.
        own = index.argsort(stable=True)
        shuffled = torch.randperm(len(index)).to(index.device)
        shuffled = shuffled[index[shuffled].argsort(stable=True)]
        weights = torch.empty_like(weights).index_copy(0, own, weights[shuffled])
    return weights


@MODELS.register_module()
class OneToManyLoss(nn.Module):
    """Settings of the one-to-many branch, and its assignment; the losses of the pairs are those of the head.

    Args:
        loss_weight: Weight of the loss, >= 0.
        weights: ``advantage``, ``uniform`` or ``shuffled``, see :func:`candidate_weights`.
        size: Maximum number of queries per object, >= 1.
        min_iou: IoU in [0, 1) that a query must exceed, unless it is the best one.
        iou_share: Weight of the IoU in the score of a query, in [0, 1].

    Attributes:
        loss_weight: Weight of the loss; :class:`dinor1.engine.LossBalanceHook` may set it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        weights: CandidateWeights = 'advantage',
        size: int = 6,
        min_iou: float = 0.4,
        iou_share: float = 0.7,
    ) -> None:
        super().__init__()
        check_choice('OneToManyLoss', 'weights', weights, CANDIDATE_WEIGHTS)
        check_ranges(
            'OneToManyLoss',
            loss_weight=(loss_weight, NOT_NEGATIVE),
            size=(size, AT_LEAST_1),
            min_iou=(min_iou, BELOW_1),
            iou_share=(iou_share, FRACTION),
        )
        self.loss_weight, self.weights, self.size = loss_weight, weights, size
        self.min_iou, self.iou_share = min_iou, iou_share

    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[Match, Tensor]:
        """Assign queries to objects.

        Args:
            logits: (S, B, Q, K) prompt logits of the branch; -inf where a prompt is not offered.
            boxes: (S, B, Q, 4) of the branch, normalised cxcywh.
            targets: Ground truth of the B images.

        Returns:
            Pairs of query and object, and the weight (n,) of each.
        """
        score, iou = candidate_scores(logits, boxes, targets, self.iou_share)
        candidates = one_to_many_candidates(score, iou, targets, self.size, self.min_iou)
        return candidates.match, candidate_weights(candidates.score, candidates.group, self.weights)
