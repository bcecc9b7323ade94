"""Quality-aware classification: the target of a matched query is a power of its IoU.

The matchability-aware loss of S. Huang et al., *DEIM*, arXiv 2412.04234, section 3.2. Here it is a control for the
ranking of queries (:mod:`.prompt_ranking`): it uses the quality of a box, but does not compare queries.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.precision import at_least_float32, full_precision

from .matching import Match, Targets
from .prompt_ranking import ranking_sets
from .settings import FRACTION, NOT_NEGATIVE, POSITIVE, check_ranges


def quality_aware_loss(logits: Tensor, positive: Tensor, negative: Tensor, quality: Tensor, gamma: float) -> Tensor:
    """Sum over pairs of query and prompt.

    A positive has the binary cross-entropy to the target u^gamma, a negative p^gamma times the cross-entropy to 0,
    where the factor has no gradient.

    Args:
        logits: (..., Q, K); pairs that are neither positive nor negative may have any value.
        positive: (..., Q, K) True = positive.
        negative: (..., Q, K) True = negative.
        quality: (..., Q) IoU u in [0, 1].
        gamma: Exponent > 0.

    Returns:
        (...), sums over the last two dimensions.
    """
    # Replace logits that do not count, which may be infinite.
    logits = logits.masked_fill(~(positive | negative), 0.0)
    target = torch.where(positive, quality[..., None].to(logits.dtype).pow(gamma), 0.0)
    weight = torch.where(negative, logits.detach().sigmoid().pow(gamma), positive.to(logits.dtype))
    return (F.binary_cross_entropy_with_logits(logits, target, reduction='none') * weight).sum(dim=(-2, -1))


@MODELS.register_module()
class QualityAwareLoss(nn.Module):
    """:func:`quality_aware_loss` of every stage, divided by the number of positives.

    It has the arguments and results of :class:`~dinor1.models.losses.PromptRankingLoss`, and can replace it in a head.

    Args:
        loss_weight: Weight of the loss, >= 0.
        gamma: Exponent of the IoU and of the probabilities of negatives, > 0.
        duplicate_iou: IoU in [0, 1] above which an unmatched query is a duplicate and no negative.

    Attributes:
        loss_weight: Weight of the loss; :class:`dinor1.engine.LossBalanceHook` may set it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, loss_weight: float = 1.0, gamma: float = 1.5, duplicate_iou: float = 0.5) -> None:
        super().__init__()
        check_ranges(
            'QualityAwareLoss',
            loss_weight=(loss_weight, NOT_NEGATIVE),
            gamma=(gamma, POSITIVE),
            duplicate_iou=(duplicate_iou, FRACTION),
        )
        self.loss_weight, self.gamma, self.duplicate_iou = loss_weight, gamma, duplicate_iou

    def forward(self, logits: Tensor, boxes: Tensor, targets: Targets, match: Match, offered: Tensor) -> Tensor:
        """Loss of each stage; see :meth:`dinor1.models.losses.PromptRankingLoss.forward`."""
        sets = ranking_sets(boxes, targets, match, offered, self.duplicate_iou)
        with full_precision(logits.device):
            logits = at_least_float32(logits).flatten(1, 2)
            positive, negative = sets.positive.flatten(1, 2), sets.negative.flatten(1, 2)
            loss = quality_aware_loss(logits, positive, negative, sets.quality.flatten(1, 2), self.gamma)
            return self.loss_weight * loss / positive.flatten(1).sum(1).clamp(min=1)
