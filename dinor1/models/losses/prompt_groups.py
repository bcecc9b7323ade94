"""GRQO with a group per prompt instead of one per image.

Not in the paper: arXiv 2505.24025 compares all N queries of an image with each other. With many prompts on offer most
queries look for classes that the image does not show, and the group's mean says little about those that do. Here every
query belongs to the prompt kappa(q) at which its token was selected, and the reward compares the queries of one prompt:

- group           G_k = {q: kappa(q) = k}, for the prompts k of the classes that the image shows
- reward          r_q = -min over the objects j of class k of C_qj
- advantage       as in :mod:`.grqo`, normalised within G_k; the floor(mute * |G_k|) of lowest objectness are muted
- gain            the mean over the present prompts of the mean over their groups: every class weighs the same
- KL              optionally one-sided: for a query of an absent class only where the model is more confident than its
                  reference,
                  so that a reference's false response to an absent class is not protected

A group of fewer than :data:`MIN_GROUP` queries has no statistics worth the name; its prompt falls back to the group of
the whole image. With one prompt on offer, and present, all is as in :mod:`.grqo` (there the number of muted queries is
rounded, here it is cut).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .matching import Targets

MIN_GROUP = 6

Gain = Callable[[Tensor], Tensor]


class PromptGroups(NamedTuple):
    """Which prompt each query belongs to, and which prompts count.

    Attributes:
        prompt: (B, Q) index kappa of the best prompt at the query's token.
        member: (B, Q, K) one-hot of ``prompt``.
        present: (B, K) True = the image shows an object of the prompt's class.
        own: (B, K) True = present, and with queries enough for a group of its own.
    """

    prompt: Tensor
    member: Tensor
    present: Tensor
    own: Tensor

    def of_present(self) -> Tensor:
        """(B, Q) True = the query's class is in the image."""
        return self.present.gather(1, self.prompt)


def prompt_groups(token_logits: Tensor, targets: Targets, min_group: int = MIN_GROUP) -> PromptGroups:
    """Group the queries of each image by prompt.

    Args:
        token_logits: (B, Q, K) prompt logits of the selected tokens; -inf where a prompt is not offered.
        targets: Ground truth of the B images.
        min_group: Smaller groups fall back to the image's.
    """
    prompt = token_logits.detach().argmax(-1)
    # One-hot; torch's function reads the largest index back on a CPU.
    member = prompt[..., None] == torch.arange(token_logits.shape[-1], device=prompt.device)
    present = ((targets.positive_map > 0) & targets.valid[..., None]).any(1)
    return PromptGroups(prompt, member, present, present & (member.sum(1) >= min_group))


def prompt_rewards(cost: Tensor, targets: Targets, groups: PromptGroups) -> Tensor:
    """Minus the cost to the nearest object of the query's own prompt.

    Args:
        cost: (L, B, Q, M) of :func:`~dinor1.models.losses.matching.matching_cost`.
        targets: Ground truth.
        groups: From :func:`prompt_groups`.

    Returns:
        (L, B, Q), differentiable; 0 for a query whose class the image does not show.
    """
    index = groups.prompt[:, None].expand(-1, targets.positive_map.shape[1], -1)
    mine = (targets.positive_map.gather(2, index) > 0) & targets.valid[..., None]
    mine = mine.transpose(1, 2)
    # An absent class gets zeros before the minimum: the gradient through an infinite minimum would be NaN.
    absent = ~mine.any(-1, keepdim=True)
    return -cost.masked_fill(~mine, float('inf')).masked_fill(absent, 0.0).amin(-1)


def grouped_advantage(rewards: Tensor, groups: PromptGroups, mute: float, eps: float = 2e-9) -> Tensor:
    """Rewards normalised within the groups of prompts, with the last queries of each muted.

    Args:
        rewards: (L, B, Q) of :func:`prompt_rewards`, queries in the order of selection (falling objectness).
        groups: From :func:`prompt_groups`.
        mute: Share of each group that is muted.
        eps: Added to the unbiased standard deviation.

    Returns:
        (L, B, Q); 0, and without gradient, for muted queries, for those of no group of their own, and in a group whose
        rewards are all equal.
    """
    member = groups.member & groups.own[:, None]
    inside = member.any(-1)
    size = member.sum(1)
    weights = member.to(rewards.dtype)

    def of_my_group(values: Tensor) -> Tensor:
        """(L, B, K) -> (L, B, Q)."""
        return values.gather(2, groups.prompt.expand(len(values), -1, -1))

    def group_sum(values: Tensor) -> Tensor:
        """(L, B, Q) -> (L, B, K)."""
        return torch.einsum('lbq,bqk->lbk', values, weights)

    rewards = rewards.masked_fill(~inside, 0.0)
    blank = rewards.detach()[..., None]
    highest = blank.masked_fill(~member, float('-inf')).amax(2)
    lowest = blank.masked_fill(~member, float('inf')).amin(2)
    equal = of_my_group((highest == lowest).expand_as(highest)) | ~inside
    # Where all rewards are equal the gradient of the root is infinite: such a group is replaced before the division.
    placeholder = torch.arange(rewards.shape[-1], dtype=rewards.dtype, device=rewards.device)
    safe = torch.where(equal, placeholder.expand_as(rewards), rewards)
    centred = safe - of_my_group(group_sum(safe) / size.clamp(min=1))
    variance = group_sum(centred.square()) / (size - 1).clamp(min=1)
    # The deviation of a prompt without a group is not used.
    deviation = torch.where(groups.own, variance, torch.ones_like(variance)).sqrt()
    advantage = centred / (of_my_group(deviation) + eps)

    rank = (weights.cumsum(1) * weights).sum(-1) - 1
    # Floating point may round a share such as 1/3 of the group down.
    kept = size - (size * mute + 1e-6).floor()
    muted = rank >= kept.gather(1, groups.prompt)
    return advantage.masked_fill(equal | muted, 0.0)


def grouped_gain(
    cost: Tensor, targets: Targets, groups: PromptGroups, image_advantage: Tensor, mute: float, gain: Gain
) -> Tensor:
    """Mean gain per image: over the present prompts, over the queries of each.

    Args:
        cost: (L, B, Q, M) matching cost, with gradient.
        targets: Ground truth.
        groups: From :func:`prompt_groups`.
        image_advantage: (L, B, Q) of :func:`~dinor1.models.losses.grqo.group_advantage`, for the prompts that fall
            back to it.
        mute: Share of each group that is muted.
        gain: Advantages (L, B, Q) -> gains (L, B, Q): what the objective makes of them.

    Returns:
        (L, B); 0 for an image without objects.
    """
    num_present = groups.present.sum(1).clamp(min=1)
    size = groups.member.sum(1).clamp(min=1)
    share = (groups.own.to(cost.dtype) / (num_present[:, None] * size)).gather(1, groups.prompt)
    own = gain(grouped_advantage(prompt_rewards(cost, targets, groups), groups, mute))
    fallback = (groups.present & ~groups.own).sum(1).to(cost.dtype) / num_present
    return (own * share).sum(-1) + gain(image_advantage).mean(-1) * fallback


def one_sided(logits: Tensor, ref_logits: Tensor, groups: PromptGroups) -> Tensor:
    """Which queries the one-sided KL counts: (B, Q) True = of a present class, or more confident than the reference.

    Args:
        logits: (B, Q) objectness logits of the selected tokens.
        ref_logits: (B, Q) the reference model's.
        groups: From :func:`prompt_groups`.
    """
    return groups.of_present() | (logits.detach() > ref_logits)
