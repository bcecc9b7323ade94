"""A group of exemplars per class: each is a scoring column of its own, and weak ones get a larger weight.

This is not in the paper of DINO-R1. The queries are those of the usual prompts; G other exemplars of each class score
them as well. With l_jg the focal loss of exemplar g at the query matched to object j, and without gradient:

- reward      R_kg = mean of lbar_j - l_jg over the objects j of class k, lbar_j the mean of l_jg over the exemplars
- advantage   A_kg = (R_kg - mean_g R) / (std_g R + 0.1 mean |l|)
- weight      w_kg = clip(G softmax_g(-A / tau), 0.25, 2), divided by its mean over g
- loss        mean_kg w_kg Lcol_kg + c mean_jg (sigma(z_jg) - mean_g sigma(z_jg))^2

A learned policy pi over the exemplars, if there is one, adds -mean_k sum_g pi_kg A_kg. Lcol_kg is the focal loss of the
whole column, and the mean in the second term, the consistency, has no gradient. An exemplar is never compared with the
objects of its own image: with these it is alike for other reasons than its class.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32, full_precision

from .settings import AT_LEAST_1, POSITIVE, check_choice, check_ranges

ExemplarWeights = Literal['advantage', 'uniform', 'shuffled', 'flipped']
EXEMPLAR_WEIGHTS: tuple[ExemplarWeights, ...] = ('advantage', 'uniform', 'shuffled', 'flipped')
# Part of the mean loss that is added to the deviation of the rewards.
_SHARE = 0.1


class ExemplarColumns(NamedTuple):
    """Exemplars of the classes of a batch, which score the queries and are not offered as prompts.

    Attributes:
        embeddings: (B, K, G, C) after the encoder.
        image: (K, G) index of the image that the exemplar lies on.
        valid: (K, G) True = there is such an exemplar; a class with fewer than G boxes has its first ones.
        policy: (K, G) probabilities of a learned policy over the exemplars; None: there is no policy.
    """

    embeddings: Tensor
    image: Tensor
    valid: Tensor
    policy: Tensor | None = None


def exemplar_rewards(loss: Tensor, counted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Rewards of exemplars: how much lower than the others' their losses at the matched queries are.

    Args:
        loss: (n, G) loss of each exemplar of an object's class at the query matched to the object.
        counted: (n, G) True = the exemplar exists and lies on another image than the object.
        label: (n,) class index of each object in [0, num_classes).
        num_classes: Number of classes K.

    Returns:
        (K, G); 0 for an exemplar without any object to compare it with.
    """
    count = counted.to(loss.dtype)
    mean = (loss * count).sum(1, keepdim=True) / count.sum(1, keepdim=True).clamp(min=1)
    zeros = loss.new_zeros(num_classes, loss.shape[1])
    total = zeros.index_add(0, label, (mean - loss) * count)
    return total / zeros.index_add(0, label, count).clamp(min=1)


def exemplar_advantages(rewards: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """Rewards of the exemplars, normalised within each class.

    Args:
        rewards: (K, G) of :func:`exemplar_rewards`.
        scale: (K,) >= 0, mean loss of the class at matched queries.
        valid: (K, G) True = there is such an exemplar.

    Returns:
        (K, G), of mean 0 over the exemplars of each class; 0 where there is none.
    """
    present = valid.to(rewards.dtype)
    size = present.sum(1, keepdim=True).clamp(min=1)
    centred = (rewards - (rewards * present).sum(1, keepdim=True) / size) * present
    deviation = (centred.square().sum(1, keepdim=True) / size).sqrt()
    # The last term avoids a division by zero where all losses are zero.
    return centred / (deviation + _SHARE * scale[:, None] + 1e-12)


def exemplar_weights(
    rewards: Tensor, scale: Tensor, valid: Tensor, tau: float = 1.0, kind: ExemplarWeights = 'advantage'
) -> Tensor:
    """Weights of the exemplars of each class.

    Args:
        rewards: (K, G) of :func:`exemplar_rewards`.
        scale: (K,) >= 0, mean loss of the class at matched queries.
        valid: (K, G) True = there is such an exemplar; these come first.
        tau: Temperature > 0.
        kind: ``advantage``: exemplars with low rewards have larger weights. ``flipped``: those with high rewards.
            ``shuffled``: weights of ``advantage`` in a random order within each class, with torch's global generator.
            ``uniform``: 1.

    Returns:
        (K, G), of mean 1 over the exemplars of each class; 1 for an exemplar that is alone, 0 where there is none.
    """
    present = valid.to(rewards.dtype)
    if kind == 'uniform':
        return present
    # Take the softmax of the advantages over the exemplars of each class, and limit the weights.
    size = present.sum(1, keepdim=True).clamp(min=1)
    advantage = exemplar_advantages(rewards, scale, valid)
    sign = 1.0 if kind == 'flipped' else -1.0
    score = (sign * advantage / tau).masked_fill(~valid, -math.inf)
    # A softmax over no exemplar would be NaN.
    score = score.masked_fill(~valid.any(1, keepdim=True), 0.0)
    weights = (size * score.softmax(1)).clamp(0.25, 2.0) * present
    # Scale the limited weights back to a mean of 1.
    weights = weights / ((weights.sum(1, keepdim=True)) / size).clamp(min=1e-12)
    # As a control, permute the weights within each class.
    if kind == 'shuffled':
        order = torch.rand(valid.shape).to(valid.device).masked_fill(~valid, 2.0).argsort(1)
        weights = weights.gather(1, order)
    return weights


def exemplar_group_loss(
    logits: Tensor,
    focal: Tensor,
    positive: Tensor,
    judged: Tensor,
    columns: ExemplarColumns,
    *,
    tau: float = 1.0,
    weights: ExemplarWeights = 'advantage',
    column_weight: float = 1.0,
    consistency_weight: float = 0.5,
) -> Tensor:
    """Loss of one decoder layer.

    Args:
        logits: (B, Q, K, G) of the exemplars, finite.
        focal: (B, Q, K, G) focal loss of these logits.
        positive: (B, Q, K) True = the query is matched to an object of the class.
        judged: (B, K) True = a query without a match is a negative of the class.
        columns: The exemplars.
        tau: Temperature > 0 of the weights.
        weights: See :func:`exemplar_weights`.
        column_weight: Weight of the focal loss of the columns.
        consistency_weight: Weight c of the consistency.

    Returns:
        Scalar; 0 without any exemplar.
    """
    # Find the exemplars that an object may be compared with: those of its class on other images.
    image, query, label = positive.nonzero().unbind(-1)
    other_image = columns.image != torch.arange(len(logits), device=logits.device)[:, None, None]
    usable = columns.valid & other_image  # (B, K, G)
    counted = usable[image, label]
    # Compute the weights of the exemplars from their losses at the matched queries.
    loss = focal.detach()[image, query, label]
    rewards = exemplar_rewards(loss, counted, label, logits.shape[2])
    count = loss.new_zeros(logits.shape[2]).index_add(0, label, counted.sum(1).to(loss.dtype))
    scale = loss.new_zeros(logits.shape[2]).index_add(0, label, (loss.abs() * counted).sum(1)) / count.clamp(min=1)
    weight = exemplar_weights(rewards, scale, columns.valid, tau, weights)
    # Average the focal loss of each column over its positives, then over all columns.
    member = usable[:, None] & (positive | judged[:, None])[..., None]
    num_positives = (usable[:, None] & positive[..., None]).sum(dim=(0, 1)).clamp(min=1)
    column = (focal * member).sum(dim=(0, 1)) / num_positives
    total = column_weight * (weight * column).sum() / columns.valid.sum().clamp(min=1)
    # Draw the probabilities at each matched query to their mean.
    probability = logits[image, query, label].sigmoid()
    mean = (probability * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
    difference = (probability - mean.detach()).square() * counted
    total = total + consistency_weight * difference.sum() / counted.sum().clamp(min=1)
    # Let the policy prefer exemplars with high advantages.
    if columns.policy is not None:
        advantage = exemplar_advantages(rewards, scale, columns.valid)
        total = total - (columns.policy * advantage).sum() / columns.valid.any(1).sum().clamp(min=1)
    return total


@MODELS.register_module()
class ExemplarGroupLoss(nn.Module):
    """:func:`exemplar_group_loss` of every decoder layer.

    Args:
        loss_weight: Weight of the loss, >= 0.
        group_size: Number G of exemplars per class, >= 1; a class with fewer boxes in the batch has fewer.
        weights: ``advantage``; ``uniform``, ``shuffled`` and ``flipped`` are controls of the study.
        tau: Temperature > 0 of the weights.
        column_weight: Weight >= 0 of the focal loss of the columns; 0: the consistency alone, a control.
        consistency_weight: Weight >= 0 of the consistency.

    Attributes:
        loss_weight: Weight of the loss; :class:`dinor1.engine.LossBalanceHook` may set it.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        group_size: int = 4,
        weights: ExemplarWeights = 'advantage',
        tau: float = 1.0,
        column_weight: float = 1.0,
        consistency_weight: float = 0.5,
    ) -> None:
        super().__init__()
        check_choice('ExemplarGroupLoss', 'weights', weights, EXEMPLAR_WEIGHTS)
        check_ranges('ExemplarGroupLoss', group_size=(group_size, AT_LEAST_1), tau=(tau, POSITIVE))
        if not all(0 <= value < math.inf for value in (loss_weight, column_weight, consistency_weight)):
            raise InputError(
                'ExemplarGroupLoss: loss_weight, column_weight and consistency_weight must be finite and at least 0; '
                f'got {loss_weight}, {column_weight} and {consistency_weight}'
            )
        self.loss_weight, self.group_size, self.weights, self.tau = loss_weight, group_size, weights, tau
        self.column_weight, self.consistency_weight = column_weight, consistency_weight

    def forward(
        self, logits: Tensor, focal: Tensor, positive: Tensor, judged: Tensor, columns: ExemplarColumns
    ) -> Tensor:
        """Loss (L,) of each decoder layer, computed at least in single precision.

        Args:
            logits: (L, B, Q, K, G) of the exemplars, finite.
            focal: (L, B, Q, K, G) focal loss of these logits.
            positive: (L, B, Q, K) True = the query is matched to an object of the class.
            judged: (B, K) True = a query without a match is a negative of the class.
            columns: The exemplars.
        """
        with full_precision(logits.device):
            values = [
                exemplar_group_loss(
                    at_least_float32(logits[layer]),
                    at_least_float32(focal[layer]),
                    positive[layer],
                    judged,
                    columns,
                    tau=self.tau,
                    weights=self.weights,
                    column_weight=self.column_weight,
                    consistency_weight=self.consistency_weight,
                )
                for layer in range(len(logits))
            ]
        return self.loss_weight * torch.stack(values)
