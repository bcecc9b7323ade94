"""MMDetection's match costs as arguments of :func:`~dinor1.models.losses.matching.matching_cost`."""

import math
from collections.abc import Sequence

from mmdet.models.task_modules.assigners.match_cost import BaseMatchCost

from dinor1.utils.errors import InputError


def cost_weights(match_costs: Sequence[BaseMatchCost], focal: str = 'BinaryFocalLossCost') -> dict[str, float]:
    """Convert MMDetection's match costs to arguments of ``matching_cost`` that give the same cost.

    Args:
        match_costs: Match costs of the assigner. A term that is not in this list gets weight 0.
        focal: Class name of the focal cost that the detector uses.

    Raises:
        InputError: a cost is none of ``focal``, ``BBoxL1Cost`` and ``IoUCost('giou')``, or its weight is not finite.
    """
    # Start from weight 0 for every term.
    names = {focal: 'cls_weight', 'BBoxL1Cost': 'l1_weight', 'IoUCost': 'giou_weight'}
    weights = dict.fromkeys(names.values(), 0.0)
    for cost in match_costs:
        # Reject costs that matching_cost does not implement.
        kind = type(cost).__name__
        mode = getattr(cost, 'iou_mode', 'giou')
        if kind not in names or mode != 'giou':
            given = kind if mode == 'giou' else f'{kind}({mode!r})'
            raise InputError(
                f'bbox_head.train_cfg.assigner: match cost {given} is not supported; use {focal}, BBoxL1Cost and '
                "IoUCost('giou')"
            )
        if not math.isfinite(cost.weight):
            raise InputError(f'bbox_head.train_cfg.assigner: the weight of {kind} must be finite, got {cost.weight}')
        # Copy the weight, and for the focal cost its other settings.
        weights[names[kind]] = cost.weight
        if kind == focal:
            weights |= dict(alpha=cost.alpha, gamma=cost.gamma, eps=cost.eps)
    return weights
