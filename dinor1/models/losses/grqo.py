"""Group Relative Query Optimization (GRQO): pure functions of tensors.

Pan et al., *DINO-R1: Incentivizing Reasoning Capability in Vision Foundation Models*, arXiv 2505.24025, Algorithm 1.
For every decoder layer and image the N queries form a group. With the matcher's cost C (differentiable):

- reward          r_i = -min_j C_ij
- advantage       A_i = (r_i - mean r) / (std r + eps), zero for the muted queries
- KL (estimator k3) of the objectness o_i = sigmoid(best prompt logit) to that of a reference model,
                  KL_i = rho - log rho - 1 with rho = o_ref_i / o_i
- loss            L = mean_i(-alpha A_i + beta KL_i), one value per decoder layer

Two facts that the formulas hide. The mean of A over a whole group is identically zero, and so is its gradient: the
reward acts only through the mute, which turns it into a contrast between the queries of high and of low objectness.
And because r carries gradient, this is no policy gradient; that reading is offered as another ``objective``. Groups by
prompt and a one-sided KL, which are not in the paper, are in :mod:`.prompt_groups`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.utils.errors import InputError

from .matching import Targets, matching_cost, pad_targets
from .prompt_groups import MIN_GROUP, Gain, grouped_gain, one_sided, prompt_groups

Objective = Literal['contrast', 'policy', 'clipped']
OBJECTIVES: tuple[Objective, ...] = ('contrast', 'policy', 'clipped')
Group = Literal['image', 'prompt']
GROUPS: tuple[Group, ...] = ('image', 'prompt')


@dataclass(frozen=True)
class GRQOSettings:
    """What a config says about GRQO.

    Attributes:
        objective: See :func:`grqo_loss`.
        alpha: Weight of the advantage.
        beta: Weight of the KL term; with 0 only ``clipped`` needs a reference model.
        mute: Share of the queries that is muted, those of lowest objectness; the release mutes 300 of 900.
        groups: ``image``: all queries of an image are one group, as published. ``prompt``: those of one prompt are
            (:mod:`.prompt_groups`).
        one_sided_kl: Count the KL of a query whose class the image does not show only where the model is surer than
            its reference.
        allow_vanishing: Accept settings with which the reward term is identically zero: for the experiment that shows
            it, and for nothing else.

    Raises:
        InputError: a setting is out of range, or makes the reward vanish (see the module's text).
    """

    objective: Objective = 'contrast'
    alpha: float = 0.01
    beta: float = 0.04
    mute: float = 1 / 3
    groups: Group = 'image'
    one_sided_kl: bool = False
    allow_vanishing: bool = False

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f'grqo: objective must be one of {", ".join(OBJECTIVES)}; got {self.objective!r}')
        if self.alpha < 0 or self.beta < 0 or not 0 <= self.mute < 1:
            raise InputError(
                f'grqo: expected alpha >= 0, beta >= 0 and mute in [0, 1); got alpha={self.alpha}, '
                f'beta={self.beta}, mute={self.mute}'
            )
        if self.groups not in GROUPS:
            raise InputError(f'grqo: groups must be one of {", ".join(GROUPS)}; got {self.groups!r}')
        if self._needs_mute and self.mute == 0:
            raise InputError(
                'grqo: with mute=0 the reward term and its gradient are identically zero; '
                "set mute to 1/3, choose objective='policy', or set alpha=0 for the KL term alone"
            )
        if self._needs_mute and self.groups == 'prompt' and self.mute * MIN_GROUP < 1:
            raise InputError(
                f'grqo: mute={self.mute:.3g} mutes nobody in a group of {MIN_GROUP} queries, and the reward term would '
                f"vanish there; with groups='prompt' set mute to 1/{MIN_GROUP} or more"
            )

    @property
    def _needs_mute(self) -> bool:
        return self.objective == 'contrast' and self.alpha > 0 and not self.allow_vanishing

    @property
    def needs_reference(self) -> bool:
        """Whether a term compares with a reference model: the KL, or the ratio of ``clipped``."""
        return self.beta > 0 or (self.objective == 'clipped' and self.alpha > 0)

    def num_mute(self, num_queries: int) -> int:
        """How many of ``num_queries`` are muted.

        Raises:
            InputError: so few queries that rounding mutes none, and the reward term would vanish.
        """
        num_mute = round(self.mute * num_queries)
        if self._needs_mute and not 0 < num_mute < num_queries:
            raise InputError(
                f'grqo: mute={self.mute:.3g} of {num_queries} queries mutes {num_mute}, which makes the reward term '
                'vanish; use more queries or another share'
            )
        return num_mute


def rewards_from_cost(cost: Tensor, targets: Targets) -> Tensor:
    """Quality of each query: minus its cost to the nearest ground truth.

    Args:
        cost: (L, B, Q, M) of :func:`~dinor1.models.losses.matching.matching_cost`.
        targets: Ground truth of the B images.

    Returns:
        (L, B, Q), differentiable. An image without ground truth gives every query the same reward 0.
    """
    empty = ~targets.valid.any(-1)
    # The fill comes before the minimum: the gradient through an infinite minimum would be NaN.
    return -cost.masked_fill(empty[:, None, None], 0.0).amin(-1)


def query_rewards(
    cls_logits: Tensor,
    boxes: Tensor,
    targets: Sequence[dict[str, Tensor]],
    img_hw: Tensor,
    **cost_weights: float,
) -> Tensor:
    """Rewards of all queries of all decoder layers and images.

    Args:
        cls_logits: (L, B, Q, K) prompt logits.
        boxes: (L, B, Q, 4) normalised cxcywh.
        targets: Per image ``boxes`` (m, 4) pixel xyxy and ``positive_map`` (m, K).
        img_hw: (B, 2) height and width in pixels.
        **cost_weights: Keyword arguments of :func:`~dinor1.models.losses.matching.matching_cost`.

    Returns:
        (L, B, Q) rewards, unbounded above by about ``2 * giou_weight``; higher is better.
    """
    padded = pad_targets([t['boxes'] for t in targets], [t['positive_map'] for t in targets], img_hw)
    return rewards_from_cost(matching_cost(cls_logits, boxes, padded, **cost_weights), padded)


def group_advantage(rewards: Tensor, num_mute: int, eps: float = 2e-9) -> Tensor:
    """Rewards normalised within their group, with the last queries muted.

    Args:
        rewards: (..., Q), queries in the order of selection (falling objectness).
        num_mute: How many of the last queries get advantage 0; 0 mutes nothing.
        eps: Added to the unbiased standard deviation.

    Returns:
        (..., Q). A group whose rewards are all equal, or of a single query, has advantage 0 and no gradient.

    Raises:
        ValueError: ``num_mute`` is not in [0, Q).
    """
    num_queries = rewards.shape[-1]
    if not 0 <= num_mute < num_queries:
        raise ValueError(f'num_mute must be in [0, {num_queries}), the number of queries; got {num_mute}')
    if num_queries == 1:
        return rewards * 0
    degenerate = (rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)).expand_as(rewards)
    # Where all rewards are equal the gradient of the root is infinite: such a group is replaced before the division.
    placeholder = torch.arange(num_queries, dtype=rewards.dtype, device=rewards.device).expand_as(rewards)
    safe = torch.where(degenerate, placeholder, rewards)
    advantage = (safe - safe.mean(-1, keepdim=True)) / (safe.std(-1, keepdim=True) + eps)
    kept = torch.arange(num_queries, device=rewards.device) < num_queries - num_mute
    return advantage.masked_fill(degenerate | ~kept, 0.0)


def objectness_kl(logits: Tensor, ref_logits: Tensor, eps: float = 2e-9) -> Tensor:
    """Estimator k3 of the KL divergence between the objectness of two models, per query.

    Args:
        logits: (B, Q) the model's best prompt logit at the tokens which it selected.
        ref_logits: (B, Q) the reference model's at the same tokens.
        eps: Added to both probabilities.

    Returns:
        (B, Q), >= 0, and 0 exactly where the logits are equal.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_ratio = (ref_logits.to(dtype).sigmoid() + eps).log() - (logits.to(dtype).sigmoid() + eps).log()
    # expm1 keeps the difference exact near 0, where rho - log(rho) - 1 cancels.
    return log_ratio.expm1() - log_ratio


def grqo_loss(
    rewards: Tensor,
    logits: Tensor,
    ref_logits: Tensor,
    *,
    alpha: float = 0.01,
    beta: float = 0.04,
    num_mute: int,
    objective: Objective = 'contrast',
    eps_low: float = 0.2,
    eps_high: float = 0.28,
) -> Tensor:
    """GRQO's loss, one value per decoder layer.

    Args:
        rewards: (L, B, Q) of :func:`query_rewards`.
        logits: (B, Q) objectness logits of the selected tokens, in falling order.
        ref_logits: (B, Q) the reference model's, gathered at the same tokens; no gradient reaches them.
        alpha: Weight of the advantage.
        beta: Weight of the KL term.
        num_mute: Number of muted queries.
        objective: ``contrast``: -A_i, the release's, gradient through the rewards. ``policy``: -stop_grad(A_i) log o_i,
            REINFORCE on the selection probability. ``clipped``: GRPO's clipped ratio o_i / o_ref_i.
        eps_low: Lower clip of ``clipped``.
        eps_high: Upper clip of ``clipped``.

    Returns:
        (L,) means over images and queries.
    """
    ref_logits = ref_logits.detach()
    gain = _gain_of(objective, logits.to(rewards.dtype), ref_logits.to(rewards.dtype), eps_low, eps_high)
    advantage = group_advantage(rewards, num_mute)
    return (-alpha * gain(advantage) + beta * objectness_kl(logits, ref_logits)).mean(dim=(-2, -1))


def grqo_loss_by_settings(
    settings: GRQOSettings,
    cost: Tensor,
    targets: Targets,
    token_logits: Tensor,
    logits: Tensor,
    ref_logits: Tensor,
) -> Tensor:
    """GRQO's loss as a config describes it, one value per decoder layer.

    Args:
        settings: What the config says.
        cost: (L, B, Q, M) matching cost of the decoder layers, with gradient.
        targets: Ground truth.
        token_logits: (B, Q, K) prompt logits of the selected tokens; read for groups by prompt and the one-sided KL.
        logits: (B, Q) their maxima over the prompts, in falling order.
        ref_logits: (B, Q) the reference model's at the same tokens; no gradient reaches them.

    Returns:
        (L,) means over images and queries; with ``groups='image'`` and the full KL exactly those of :func:`grqo_loss`.
    """
    rewards = rewards_from_cost(cost, targets)
    num_mute = settings.num_mute(cost.shape[2])
    weights = dict(alpha=settings.alpha, beta=settings.beta)
    if settings.groups == 'image' and not settings.one_sided_kl:
        return grqo_loss(rewards, logits, ref_logits, num_mute=num_mute, objective=settings.objective, **weights)
    groups = prompt_groups(token_logits, targets)
    ref_logits = ref_logits.detach()
    gain = _gain_of(settings.objective, logits.to(rewards.dtype), ref_logits.to(rewards.dtype))
    advantage = group_advantage(rewards, num_mute)
    if settings.groups == 'prompt':
        gained = grouped_gain(cost, targets, groups, advantage, settings.mute, gain)
    else:
        gained = gain(advantage).mean(-1)
    kl = objectness_kl(logits, ref_logits)
    if settings.one_sided_kl:
        kl = kl.masked_fill(~one_sided(logits, ref_logits, groups), 0.0)
    return (-settings.alpha * gained + settings.beta * kl.mean(-1)).mean(-1)


def _gain_of(
    objective: Objective, logits: Tensor, ref_logits: Tensor, eps_low: float = 0.2, eps_high: float = 0.28
) -> Gain:
    """What an objective makes of advantages (L, B, Q), see :func:`grqo_loss`."""
    if objective == 'contrast':
        return lambda advantage: advantage
    if objective == 'policy':
        return lambda advantage: advantage.detach() * F.logsigmoid(logits)
    if objective == 'clipped':
        ratio = (F.logsigmoid(logits) - F.logsigmoid(ref_logits)).exp()
        clipped = ratio.clamp(1 - eps_low, 1 + eps_high)
        return lambda advantage: torch.minimum(ratio * advantage.detach(), clipped * advantage.detach())
    raise ValueError(f'objective must be one of {", ".join(OBJECTIVES)}; got {objective!r}')
