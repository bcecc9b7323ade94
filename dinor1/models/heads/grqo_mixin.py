"""GRQO for any query-based head: the loss terms and the figures that go to the log."""

import torch
from torch import Tensor

from ..losses import (
    GRQOSettings,
    Match,
    Targets,
    group_advantage,
    grqo_loss_by_settings,
    objectness_kl,
    rewards_from_cost,
)


class GRQOMixin:
    """Adds GRQO's loss to a head that has the matching cost of its decoder layers.

    ``grqo`` is None in supervised fine-tuning; :class:`dinor1.engine.ReferenceModelHook` sets it when the GRQO stage
    begins.
    """

    grqo: GRQOSettings | None = None

    def grqo_losses(
        self,
        cost: Tensor,
        targets: Targets,
        match: Match,
        token_logits: Tensor,
        selected_logits: Tensor,
        ref_logits: Tensor | None,
    ) -> dict[str, Tensor]:
        """Loss and figures.

        Args:
            cost: (L, B, Q, M) matching cost of the decoder layers, with gradient.
            targets: Ground truth.
            match: Assignment; its stages below L are the decoder layers.
            token_logits: (B, Q, K) prompt logits of the selected tokens.
            selected_logits: (B, Q) their maxima over the prompts, in falling order.
            ref_logits: (B, Q) the reference model's at the same tokens; None where ``grqo`` needs none.

        Returns:
            ``loss_grqo``, ``d0.loss_grqo`` ... in MMDetection's naming, and detached ``grqo_*`` figures.
        """
        num_layers, _, num_queries, _ = cost.shape
        num_mute = self.grqo.num_mute(num_queries)
        if ref_logits is None:
            ref_logits = selected_logits.detach()
        layers = grqo_loss_by_settings(self.grqo, cost, targets, token_logits, selected_logits, ref_logits)
        names = [f'd{i}.loss_grqo' for i in range(num_layers - 1)] + ['loss_grqo']
        losses = dict(zip(names, layers.unbind(), strict=True))
        with torch.no_grad():
            rewards = rewards_from_cost(cost, targets)
            losses.update(_figures(rewards, match, selected_logits, ref_logits, num_mute))
        return losses


def _figures(
    rewards: Tensor, match: Match, selected_logits: Tensor, ref_logits: Tensor, num_mute: int
) -> dict[str, Tensor]:
    """What a researcher watches: rewards, advantage of matched and of other queries, KL, entropy of objectness.

    The advantages shown are those before the mute, which sum to zero over a group.
    """
    advantage = group_advantage(rewards, 0)
    # The matched pairs have one stage more, the encoder's. Indexing by a mask would wait for the device.
    matched = advantage.new_zeros(len(rewards) + 1, *rewards.shape[1:])
    matched[match.stage, match.image, match.query] = 1.0
    matched = matched[:-1]
    log_o = torch.nn.functional.logsigmoid(selected_logits.float())
    log_not_o = torch.nn.functional.logsigmoid(-selected_logits.float())
    entropy = -(log_o.exp() * log_o + log_not_o.exp() * log_not_o)
    kept = advantage[..., : advantage.shape[-1] - num_mute]
    return dict(
        grqo_reward_mean=rewards.mean(),
        grqo_reward_std=rewards.std(-1).mean(),
        grqo_advantage_matched=(advantage * matched).sum() / matched.sum().clamp(min=1),
        grqo_advantage_unmatched=(advantage * (1 - matched)).sum() / (1 - matched).sum().clamp(min=1),
        grqo_advantage_kept=kept.mean(),
        grqo_kl=objectness_kl(selected_logits, ref_logits).mean(),
        grqo_objectness_entropy=entropy.mean(),
    )
