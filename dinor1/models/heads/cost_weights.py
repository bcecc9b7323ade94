"""The weights of a matcher, from MMDetection's configs to :func:`~dinor1.models.losses.matching.matching_cost`."""

from collections.abc import Sequence

from mmdet.models.task_modules.assigners.match_cost import BaseMatchCost

from dinor1.utils.errors import InputError


def cost_weights(match_costs: Sequence[BaseMatchCost], focal: str = 'BinaryFocalLossCost') -> dict[str, float]:
    """Arguments of ``matching_cost`` that equal MMDetection's match costs.

    Args:
        match_costs: Of the assigner. A term without a cost here gets weight 0.
        focal: Name of the focal cost that the detector matches by.

    Raises:
        InputError: a cost is neither this one nor ``BBoxL1Cost`` nor ``IoUCost('giou')``.
    """
    names = {focal: 'cls_weight', 'BBoxL1Cost': 'l1_weight', 'IoUCost': 'giou_weight'}
    weights = dict.fromkeys(names.values(), 0.0)
    for cost in match_costs:
        kind = type(cost).__name__
        mode = getattr(cost, 'iou_mode', 'giou')
        if kind not in names or mode != 'giou':
            given = kind if mode == 'giou' else f'{kind}({mode!r})'
            raise InputError(
                f'bbox_head.train_cfg.assigner: match cost {given} is not supported; use {focal}, BBoxL1Cost and '
                "IoUCost('giou')"
            )
        weights[names[kind]] = cost.weight
        if kind == focal:
            weights |= dict(alpha=cost.alpha, gamma=cost.gamma, eps=cost.eps)
    return weights
