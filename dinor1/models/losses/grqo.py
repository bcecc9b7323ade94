"""Group Relative Query Optimization (GRQO): functions of tensors, and the registered loss.

Pan et al., *DINO-R1: Incentivizing Reasoning Capability in Vision Foundation Models*, arXiv 2505.24025, Algorithm 1.
For every decoder layer and image the N queries form a group. With the matcher's cost C (differentiable):

- reward          r_i = -min_j C_ij
- advantage       A_i = (r_i - mean r) / (std r + eps), zero for the muted queries
- KL (estimator k3) of the objectness o_i = sigmoid(highest prompt logit) to that of a reference model,
                  KL_i = rho - log rho - 1 with rho = o_ref_i / o_i
- loss            L = mean_i(-alpha A_i + beta KL_i), one value per decoder layer

The formulas have two consequences. First, the mean of A over a whole group is identically zero, and so is its gradient:
the reward acts only through muting, as a contrast between queries of high and of low objectness. Second, since r is
differentiable, this is not a policy gradient; that is available as another ``objective``. Groups by prompt and a
one-sided KL, which are not in the paper, are in :mod:`.prompt_groups`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.precision import compute_dtype

from .matching import Match, Targets, matching_cost, pad_targets
from .prompt_groups import MIN_GROUP, Gain, grouped_gain, one_sided, prompt_groups
from .settings import BELOW_1, NOT_NEGATIVE, check_choice, check_ranges

Objective = Literal['contrast', 'policy', 'clipped']
OBJECTIVES: tuple[Objective, ...] = ('contrast', 'policy', 'clipped')
Group = Literal['image', 'prompt']
GROUPS: tuple[Group, ...] = ('image', 'prompt')


def rewards_from_cost(cost: Tensor, targets: Targets) -> Tensor:
    """Reward of each query: minus its cost to the nearest ground truth.

    Args:
        cost: (L, B, Q, M) of :func:`~dinor1.models.losses.matching.matching_cost`.
        targets: Ground truth of the B images.

    Returns:
        (L, B, Q), differentiable. 0 for all queries of an image without ground truth, and of an image in which
        instances of a class may lack a box, because a query on such an instance would get a low reward.
    """
    empty = ~targets.valid.any(-1) | targets.incomplete()
    # Fill before taking the minimum: the gradient through an infinite minimum would be NaN.
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
        (L, B, Q) rewards; higher is better.
    """
    padded = pad_targets([t['boxes'] for t in targets], [t['positive_map'] for t in targets], img_hw)
    return rewards_from_cost(matching_cost(cls_logits, boxes, padded, **cost_weights), padded)


def group_advantage(rewards: Tensor, num_mute: int, eps: float = 2e-9) -> Tensor:
    """Rewards normalised within their group, with the last queries muted.

    Args:
        rewards: (..., Q), queries in the order of selection (descending objectness).
        num_mute: Number of last queries that get advantage 0, in [0, Q).
        eps: Added to the unbiased standard deviation.

    Returns:
        (..., Q). A group whose rewards are all equal, or of a single query, has advantage 0 and no gradient.

    Raises:
        ValueError: ``num_mute`` is not in [0, Q).
    """
    # Check the arguments; a single query has no deviation from its mean.
    num_queries = rewards.shape[-1]
    if not 0 <= num_mute < num_queries:
        raise ValueError(f'num_mute must be in [0, {num_queries}), the number of queries; got {num_mute}')
    if num_queries == 1:
        return rewards * 0
    # Replace groups whose rewards are all equal: the gradient of the square root is infinite there.
    degenerate = (rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)).expand_as(rewards)
    placeholder = torch.arange(num_queries, dtype=rewards.dtype, device=rewards.device).expand_as(rewards)
    safe = torch.where(degenerate, placeholder, rewards)
    # Normalise, and mute the last queries.
    advantage = (safe - safe.mean(-1, keepdim=True)) / (safe.std(-1, keepdim=True) + eps)
    return _mute_last(advantage.masked_fill(degenerate, 0.0), num_mute)


def _mute_last(advantage: Tensor, num_mute: int) -> Tensor:
    """Set the advantage (..., Q) of the last ``num_mute`` queries to 0."""
    num_queries = advantage.shape[-1]
    kept = torch.arange(num_queries, device=advantage.device) < num_queries - num_mute
    return advantage.masked_fill(~kept, 0.0)


def objectness_kl(logits: Tensor, ref_logits: Tensor, eps: float = 2e-9) -> Tensor:
    """Estimator k3 of the KL divergence between the objectness of two models, per query.

    Args:
        logits: (B, Q) objectness logits of the tokens that the model selected.
        ref_logits: (B, Q) objectness logits of the reference model at the same tokens.
        eps: Added to both probabilities.

    Returns:
        (B, Q), >= 0; exactly 0 where the logits are equal.
    """
    dtype = compute_dtype(logits)
    log_ratio = (ref_logits.to(dtype).sigmoid() + eps).log() - (logits.to(dtype).sigmoid() + eps).log()
    # Compute rho - 1 with expm1: rho - log(rho) - 1 suffers from cancellation near rho = 1.
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
        logits: (B, Q) objectness logits of the selected tokens, in descending order.
        ref_logits: (B, Q) objectness logits of the reference model at the same tokens; no gradient reaches them.
        alpha: Weight of the advantage.
        beta: Weight of the KL term.
        num_mute: Number of muted queries.
        objective: ``contrast``: -A_i with gradient through the rewards, as in the release. ``policy``:
            -stop_grad(A_i) log o_i, REINFORCE on the objectness. ``clipped``: GRPO's clipped ratio o_i / o_ref_i.
        eps_low: Lower clip of ``clipped``: the ratio is kept above 1 - eps_low.
        eps_high: Upper clip of ``clipped``: the ratio is kept below 1 + eps_high.

    Returns:
        (L,) means over images and queries.
    """
    ref_logits = ref_logits.detach()
    gain = _gain_of(objective, logits.to(rewards.dtype), ref_logits.to(rewards.dtype), eps_low, eps_high)
    advantage = group_advantage(rewards, num_mute)
    return (-alpha * gain(advantage) + beta * objectness_kl(logits, ref_logits)).mean(dim=(-2, -1))


def _gain_of(
    objective: Objective, logits: Tensor, ref_logits: Tensor, eps_low: float = 0.2, eps_high: float = 0.28
) -> Gain:
    """Function that maps advantages (L, B, Q) to the gains (L, B, Q) of an objective, see :func:`grqo_loss`.

    Raises:
        ValueError: there is no such objective.
    """
    if objective == 'contrast':
        return lambda advantage: advantage
    if objective == 'policy':
        return lambda advantage: advantage.detach() * F.logsigmoid(logits)
    if objective == 'clipped':
        ratio = (F.logsigmoid(logits) - F.logsigmoid(ref_logits)).exp()
        clipped = ratio.clamp(1 - eps_low, 1 + eps_high)
        return lambda advantage: torch.minimum(ratio * advantage.detach(), clipped * advantage.detach())
    raise ValueError(f'objective must be one of {", ".join(OBJECTIVES)}; got {objective!r}')


@MODELS.register_module()
class GRQOLoss(nn.Module):
    """GRQO's loss and the statistics of one batch, from one computation.

    Args:
        objective: See :func:`grqo_loss`.
        alpha: Weight of the advantage.
        beta: Weight of the KL term; if it is 0, only ``clipped`` needs a reference model.
        mute: Fraction of the queries that are muted, in [0, 1), those of lowest objectness; the release mutes 300 of
            900.
        groups: ``image``: all queries of an image form a group, as in the paper. ``prompt``: the queries of each prompt
            form a group (:mod:`.prompt_groups`).
        one_sided_kl: For queries whose class is absent from the image, count the KL only where the model is more
            confident than the reference.
        eps_low: Lower clip of ``clipped``: the ratio is kept above 1 - eps_low.
        eps_high: Upper clip of ``clipped``: the ratio is kept below 1 + eps_high.
        allow_vanishing: Accept settings that make the reward term identically zero; only for the experiment that
            demonstrates this.
        beta_per_layer: The KL does not depend on the decoder layer. True: it is added to the loss of each of the L
            layers with weight ``beta``, as in the release, which has a weight of L * ``beta`` in the sum. False:
            ``beta`` is its weight in the sum, in equal parts per layer.

    Attributes:
        enabled: Whether the loss is part of the training; :class:`dinor1.engine.ReferenceModelHook` disables it during
            its warm-up.

    Raises:
        InputError: a setting is out of range, or makes the reward term vanish (see the docstring of this module).
    """

    def __init__(
        self,
        objective: Objective = 'contrast',
        alpha: float = 0.01,
        beta: float = 0.04,
        mute: float = 1 / 3,
        groups: Group = 'image',
        one_sided_kl: bool = False,
        eps_low: float = 0.2,
        eps_high: float = 0.28,
        allow_vanishing: bool = False,
        beta_per_layer: bool = True,
    ) -> None:
        super().__init__()
        self.objective, self.alpha, self.beta, self.mute = objective, alpha, beta, mute
        self.groups, self.one_sided_kl, self.allow_vanishing = groups, one_sided_kl, allow_vanishing
        self.eps_low, self.eps_high, self.beta_per_layer = eps_low, eps_high, beta_per_layer
        self.enabled = True
        self._check()

    def _check(self) -> None:
        # Reject settings out of range.
        check_choice('GRQOLoss', 'objective', self.objective, OBJECTIVES)
        if not (0 <= self.alpha < math.inf and 0 <= self.beta < math.inf and 0 <= self.mute < 1):
            raise InputError(
                f'GRQOLoss: expected alpha >= 0, beta >= 0 and mute in [0, 1); got alpha={self.alpha}, '
                f'beta={self.beta}, mute={self.mute}'
            )
        check_ranges('GRQOLoss', eps_low=(self.eps_low, BELOW_1), eps_high=(self.eps_high, NOT_NEGATIVE))
        check_choice('GRQOLoss', 'groups', self.groups, GROUPS)
        # Reject settings that make the reward term vanish.
        if self._needs_mute and self.mute == 0:
            raise InputError(
                'GRQOLoss: with mute=0 the reward term and its gradient are identically zero; '
                "set mute to 1/3, choose objective='policy', or set alpha=0 for the KL term alone"
            )
        if self._needs_mute and self.groups == 'prompt' and self.mute * MIN_GROUP < 1:
            raise InputError(
                f'GRQOLoss: mute={self.mute:.3g} mutes no query in a group of {MIN_GROUP} queries, and the reward term '
                f"would vanish there; with groups='prompt' set mute to 1/{MIN_GROUP} or more"
            )

    @property
    def _needs_mute(self) -> bool:
        return self.objective == 'contrast' and self.alpha > 0 and not self.allow_vanishing

    @property
    def needs_reference(self) -> bool:
        """Whether a term needs a reference model: the KL, or the ratio of ``clipped``."""
        return self.beta > 0 or (self.objective == 'clipped' and self.alpha > 0)

    def num_mute(self, num_queries: int) -> int:
        """Number of muted queries among ``num_queries``, rounded to the nearest integer.

        Raises:
            InputError: none or all queries would be muted, and the reward term would vanish.
        """
        num_mute = round(self.mute * num_queries)
        if self._needs_mute and not 0 < num_mute < num_queries:
            raise InputError(
                f'GRQOLoss: mute={self.mute:.3g} of {num_queries} queries mutes {num_mute}, which makes the reward '
                'term vanish; use more queries or another mute'
            )
        return num_mute

    def with_weights(self, **weights: float) -> 'GRQOLoss':
        """A copy of this loss, enabled, with other values of ``alpha`` or ``beta``."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return GRQOLoss(**settings | weights)

    def extra_repr(self) -> str:
        """The settings, for the log."""
        return ', '.join(f'{name}={getattr(self, name)}' for name in _SETTINGS)

    def forward(
        self,
        cost: Tensor,
        targets: Targets,
        match: Match,
        token_logits: Tensor,
        selected_logits: Tensor,
        ref_logits: Tensor | None,
    ) -> dict[str, Tensor]:
        """Loss and statistics.

        Args:
            cost: (L, B, Q, M) matching cost of the decoder layers, with gradient.
            targets: Ground truth.
            match: Assignment; stages 0 to L - 1 are the decoder layers, and stage L may be the encoder.
            token_logits: (B, Q, K) prompt logits of the selected tokens; used for groups by prompt and the one-sided
                KL.
            selected_logits: (B, Q) maxima of ``token_logits`` over the prompts, in descending order.
            ref_logits: (B, Q) objectness logits of the reference model at the same tokens; no gradient reaches them.
                None if no term needs them.

        Returns:
            ``d0.loss_grqo``, ``d1.loss_grqo`` and so on, and ``loss_grqo`` of the last layer, as MMDetection names
            them: means over images and queries. Also detached statistics ``grqo_*``. With ``groups='image'`` and the
            full KL of every layer, the losses equal :func:`grqo_loss`.

        Raises:
            InputError: a term needs a reference model, and there is none.
        """
        # Let the model be its own reference if no term needs another one.
        if ref_logits is None:
            if self.needs_reference:
                raise InputError(
                    'GRQOLoss: the KL term and the clipped objective need a reference model; add '
                    "default_hooks.reference=dict(type='ReferenceModelHook'), or set beta=0"
                )
            ref_logits = selected_logits
        ref_logits = ref_logits.detach()
        # Compute rewards, advantages before muting, and KL.
        num_layers, _, num_queries, _ = cost.shape
        num_mute = self.num_mute(num_queries)
        rewards = rewards_from_cost(cost, targets)
        advantage = group_advantage(rewards, 0)
        kl = objectness_kl(selected_logits, ref_logits)
        # Compute the loss of each decoder layer.
        gain = _gain_of(
            self.objective,
            selected_logits.to(rewards.dtype),
            ref_logits.to(rewards.dtype),
            self.eps_low,
            self.eps_high,
        )
        muted = _mute_last(advantage, num_mute)
        if self.groups == 'image' and not self.one_sided_kl:
            layers = (-self.alpha * gain(muted) + self._layer_beta(num_layers) * kl).mean(dim=(-2, -1))
        else:
            layers = self._by_prompt(cost, targets, token_logits, selected_logits, ref_logits, muted, kl, gain)
        # Name the losses, and add the statistics.
        names = [f'd{i}.loss_grqo' for i in range(num_layers - 1)] + ['loss_grqo']
        losses = dict(zip(names, layers.unbind(), strict=True))
        return losses | _figures(rewards.detach(), advantage.detach(), kl.detach(), match, selected_logits, num_mute)

    def _by_prompt(
        self,
        cost: Tensor,
        targets: Targets,
        token_logits: Tensor,
        selected_logits: Tensor,
        ref_logits: Tensor,
        muted: Tensor,
        kl: Tensor,
        gain: Gain,
    ) -> Tensor:
        """Losses (L,) if the groups or the KL depend on the prompts.

        ``muted`` (L, B, Q) are the advantages after muting, ``kl`` (B, Q) is the full KL, and ``gain`` the function of
        the objective; for the other arguments see :meth:`forward`.
        """
        # Average the gains over the queries of each prompt, or over all queries of an image.
        groups = prompt_groups(token_logits, targets)
        if self.groups == 'prompt':
            gained = grouped_gain(cost, targets, groups, muted, self.mute, gain)
        else:
            gained = gain(muted).mean(-1)
        # Drop the KL of queries that the one-sided KL does not count.
        if self.one_sided_kl:
            kl = kl.masked_fill(~one_sided(selected_logits, ref_logits, groups), 0.0)
        return (-self.alpha * gained + self._layer_beta(len(cost)) * kl.mean(-1)).mean(-1)

    def _layer_beta(self, num_layers: int) -> float:
        """Weight of the KL in the loss of one decoder layer."""
        return self.beta if self.beta_per_layer else self.beta / num_layers


_SETTINGS = (
    'objective',
    'alpha',
    'beta',
    'mute',
    'groups',
    'one_sided_kl',
    'eps_low',
    'eps_high',
    'allow_vanishing',
    'beta_per_layer',
)


def _figures(
    rewards: Tensor, advantage: Tensor, kl: Tensor, match: Match, selected_logits: Tensor, num_mute: int
) -> dict[str, Tensor]:
    """Statistics for the log: rewards, advantage of matched and unmatched queries, KL, entropy of objectness.

    The advantages are taken before muting, and sum to zero over a group.
    """
    # Mark the matched queries; ``match`` may have one more stage, the encoder. Indexing with a mask would synchronise.
    matched = advantage.new_zeros(len(rewards) + 1, *rewards.shape[1:])
    matched[match.stage, match.image, match.query] = 1.0
    matched = matched[:-1]
    # Compute the entropy of the objectness, and the advantages of the queries that are not muted.
    logits = selected_logits.detach().float()
    log_o, log_not_o = F.logsigmoid(logits), F.logsigmoid(-logits)
    entropy = -(log_o.exp() * log_o + log_not_o.exp() * log_not_o)
    kept = advantage[..., : advantage.shape[-1] - num_mute]
    return dict(
        grqo_reward_mean=rewards.mean(),
        grqo_reward_std=rewards.std(-1).mean(),
        grqo_advantage_matched=(advantage * matched).sum() / matched.sum().clamp(min=1),
        grqo_advantage_unmatched=(advantage * (1 - matched)).sum() / (1 - matched).sum().clamp(min=1),
        grqo_advantage_kept=kept.mean(),
        grqo_kl=kl.mean(),
        grqo_objectness_entropy=entropy.mean(),
    )
