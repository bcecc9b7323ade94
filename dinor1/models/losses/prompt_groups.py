"""GRQO with a group per prompt instead of one per image.

This is not in the paper: arXiv 2505.24025 compares all N queries of an image with each other. With many prompts, most
queries search for classes that are absent from the image, and they dominate the mean of the group. Here each query q
belongs to the prompt kappa(q) with the highest logit at its token, and the reward compares the queries of one prompt:

- group           G_k = {q: kappa(q) = k}, for the prompts k of the classes that are present in the image
- reward          r_q = -min over the objects j of class k of C_qj
- advantage       as in :mod:`.grqo`, normalised within G_k; the floor(mute * |G_k|) queries of lowest objectness are
                  muted
- gain            the mean over the present prompts of the mean over their groups: every class has the same weight
- KL              optionally one-sided: for a query of an absent class, counted only where the model is more confident
                  than the reference, so that false responses of the reference to absent classes are not preserved

Groups of fewer than :data:`MIN_GROUP` queries are too small for statistics; their prompts fall back to the group of the
whole image. With a single prompt, whose class is present, the result is that of :mod:`.grqo`, except that the number of
muted queries is rounded down here and to the nearest integer there.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .matching import Targets

MIN_GROUP = 6

Gain = Callable[[Tensor], Tensor]


class PromptGroups(NamedTuple):
    """Which prompt each query belongs to, and which prompts have a group.

    Attributes:
        prompt: (B, Q) index kappa of the prompt with the highest logit at the query's token.
        member: (B, Q, K) one-hot of ``prompt``.
        present: (B, K) True = the image contains an object of the prompt's class.
        own: (B, K) True = the prompt has a separate group: its class is present, every instance has a box, and the
            group has enough queries.
    """

    prompt: Tensor
    member: Tensor
    present: Tensor
    own: Tensor

    def of_present(self) -> Tensor:
        """(B, Q) True = the class of the query is present in the image."""
        return self.present.gather(1, self.prompt)


def prompt_groups(token_logits: Tensor, targets: Targets, min_group: int = MIN_GROUP) -> PromptGroups:
    """Group the queries of each image by prompt.

    Args:
        token_logits: (B, Q, K) prompt logits of the selected tokens; -inf where a prompt is not offered.
        targets: Ground truth of the B images.
        min_group: Prompts with fewer queries fall back to the group of the image.
    """
    prompt = token_logits.detach().argmax(-1)
    # One-hot by comparison, because torch's function copies the largest index to the host.
    member = prompt[..., None] == torch.arange(token_logits.shape[-1], device=prompt.device)
    present = targets.present()
    return PromptGroups(prompt, member, present, present & targets.verified & (member.sum(1) >= min_group))


def prompt_rewards(cost: Tensor, targets: Targets, groups: PromptGroups) -> Tensor:
    """Rewards by prompt: minus the cost to the nearest object of the query's own prompt.

    Args:
        cost: (L, B, Q, M) of :func:`~dinor1.models.losses.matching.matching_cost`.
        targets: Ground truth.
        groups: From :func:`prompt_groups`.

    Returns:
        (L, B, Q), differentiable; 0 for a query whose class is absent from the image.
    """
    # Find the objects that belong to the prompt of each query, (B, Q, M).
    index = groups.prompt[:, None].expand(-1, targets.positive_map.shape[1], -1)
    mine = (targets.positive_map.gather(2, index) > 0) & targets.valid[..., None]
    mine = mine.transpose(1, 2)
    # Take the minimum over these objects. Fill absent classes before: the gradient of an infinite minimum is NaN.
    absent = ~mine.any(-1, keepdim=True)
    return -cost.masked_fill(~mine, float('inf')).masked_fill(absent, 0.0).amin(-1)


def grouped_advantage(rewards: Tensor, groups: PromptGroups, mute: float, eps: float = 2e-9) -> Tensor:
    """Rewards normalised within the group of each prompt, with the last queries of each group muted.

    Args:
        rewards: (L, B, Q) of :func:`prompt_rewards`, queries in the order of selection (descending objectness).
        groups: From :func:`prompt_groups`.
        mute: Fraction of each group that is muted, in [0, 1).
        eps: Added to the unbiased standard deviation.

    Returns:
        (L, B, Q); 0, and without gradient, for muted queries, for queries whose prompt has no group of its own, and in
        a group whose rewards are all equal.
    """
    # Restrict the groups to prompts with a separate group.
    member = groups.member & groups.own[:, None]
    inside = member.any(-1)
    size = member.sum(1)
    weights = member.to(rewards.dtype)

    def of_my_group(values: Tensor) -> Tensor:
        """Look up, for each query, the value of its group: (L, B, K) -> (L, B, Q)."""
        return values.gather(2, groups.prompt.expand(len(values), -1, -1))

    def group_sum(values: Tensor) -> Tensor:
        """Sum the values of the queries of each group: (L, B, Q) -> (L, B, K)."""
        return torch.einsum('lbq,bqk->lbk', values, weights)

    # Find the groups whose rewards are all equal.
    rewards = rewards.masked_fill(~inside, 0.0)
    blank = rewards.detach()[..., None]
    highest = blank.masked_fill(~member, float('-inf')).amax(2)
    lowest = blank.masked_fill(~member, float('inf')).amin(2)
    equal = of_my_group((highest == lowest).expand_as(highest)) | ~inside
    # Replace their rewards: the gradient of the square root is infinite there.
    placeholder = torch.arange(rewards.shape[-1], dtype=rewards.dtype, device=rewards.device)
    safe = torch.where(equal, placeholder.expand_as(rewards), rewards)
    # Normalise within each group.
    centred = safe - of_my_group(group_sum(safe) / size.clamp(min=1))
    variance = group_sum(centred.square()) / (size - 1).clamp(min=1)
    # Prompts without a group get variance 1 as a placeholder, which is not used.
    deviation = torch.where(groups.own, variance, torch.ones_like(variance)).sqrt()
    advantage = centred / (of_my_group(deviation) + eps)

    # Mute the last queries of each group.
    rank = (weights.cumsum(1) * weights).sum(-1) - 1
    # The small term corrects fractions such as 1/3: rounding may put their product with the size just below an integer.
    kept = size - (size * mute + 1e-6).floor()
    muted = rank >= kept.gather(1, groups.prompt)
    return advantage.masked_fill(equal | muted, 0.0)


def grouped_gain(
    cost: Tensor, targets: Targets, groups: PromptGroups, image_advantage: Tensor, mute: float, gain: Gain
) -> Tensor:
    """Mean gain of each image: over its present prompts, and over the queries of each prompt.

    Args:
        cost: (L, B, Q, M) matching cost, with gradient.
        targets: Ground truth.
        groups: From :func:`prompt_groups`.
        image_advantage: (L, B, Q) of :func:`~dinor1.models.losses.grqo.group_advantage`, used for prompts without a
            group of their own.
        mute: Fraction of each group that is muted, in [0, 1).
        gain: Function of the objective from advantages (L, B, Q) to gains (L, B, Q).

    Returns:
        (L, B); 0 for an image without objects.
    """
    # Weight the present prompts equally. Classes whose instances may lack boxes do not count, because it is unknown
    # whether their queries are right.
    judged = groups.present & targets.verified
    num_present = judged.sum(1).clamp(min=1)
    size = groups.member.sum(1).clamp(min=1)
    share = (groups.own.to(cost.dtype) / (num_present[:, None] * size)).gather(1, groups.prompt)
    # Compute the gain of prompts with a separate group.
    own = gain(grouped_advantage(prompt_rewards(cost, targets, groups), groups, mute))
    # Use the group of the image for the other prompts.
    fallback = (judged & ~groups.own).sum(1).to(cost.dtype) / num_present
    return (own * share).sum(-1) + gain(image_advantage).mean(-1) * fallback


def one_sided(logits: Tensor, ref_logits: Tensor, groups: PromptGroups) -> Tensor:
    """Queries that the one-sided KL counts: (B, Q) True = class present, or more confident than the reference.

    Args:
        logits: (B, Q) objectness logits of the selected tokens.
        ref_logits: (B, Q) objectness logits of the reference model at the same tokens.
        groups: From :func:`prompt_groups`.
    """
    return groups.of_present() | (logits.detach() > ref_logits)
