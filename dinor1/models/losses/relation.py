"""Relation distillation: visual prompts learn the similarities of the names of their classes.

B. Qian, D. Shi, X. Wei, *DETR-ViP*, arXiv 2604.14684.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32, full_precision

TARGETS = ('text', 'label')


def soft_targets(text_or_labels: Tensor, tau_t: float, comparable: Tensor | None = None) -> Tensor:
    """Distribution Q over all prompts, for each prompt, that its similarities should have.

    Args:
        text_or_labels: (M, E) text embedding of each prompt's class: Q is the softmax of cosines / ``tau_t``. Or (M,)
            class indices: Q is uniform over the prompts of the same class, and ``tau_t`` has no effect.
        tau_t: Temperature > 0.
        comparable: (M, M) False = the pair is left out. Default: all True.

    Returns:
        (M, M) without gradient; rows sum to 1.
    """
    # Compare the texts or the labels.
    if text_or_labels.is_floating_point():
        unit = F.normalize(text_or_labels.detach(), dim=-1)
        similarity = unit @ unit.t() / tau_t
    else:
        same = text_or_labels[:, None] == text_or_labels
        similarity = torch.zeros(same.shape, device=same.device).masked_fill(~same, float('-inf'))
    # Leave out pairs that cannot be compared.
    if comparable is not None:
        similarity = similarity.masked_fill(~comparable, float('-inf'))
    return similarity.softmax(-1)


def relation_distill_loss(
    visual: Tensor,
    text_or_labels: Tensor,
    tau_v: float = 0.1,
    tau_t: float = 0.07,
    weight: float = 10.0,
    *,
    comparable: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """Cross-entropy between the similarities of visual prompts and those of their classes.

    L = -weight * mean_a sum_b Q_ab S_ab, with Q of :func:`soft_targets` and S = log softmax_b(cos(v_a, v_b) / tau_v).
    The diagonal is part of both. The minimum of L / weight is the entropy of Q, not 0.

    Args:
        visual: (M, C) prompts, one per image and class.
        text_or_labels: (M, E) text embedding of each prompt's class, or (M,) class indices.
        tau_v: Temperature of the visual similarities, > 0.
        tau_t: Temperature of the text similarities, > 0.
        weight: Weight of the loss; the paper uses 10.
        comparable: (M, M) False = the pair is left out of both distributions; the diagonal is True. Default: all True.
        normalize: Use cosines; False: dot products of the visual prompts.

    Returns:
        Scalar; exactly 0 for at most one prompt.
    """
    # Without prompts, keep the graph.
    if not len(visual):
        return visual.sum() * 0
    # Compare the two distributions; pairs that are left out have Q = 0 and log probability -inf.
    log_probability = _log_probability(visual, tau_v, comparable, normalize)
    target = soft_targets(text_or_labels, tau_t, comparable).to(log_probability.dtype)
    return -weight * (target * log_probability).sum(-1).mean()


def _log_probability(visual: Tensor, tau_v: float, comparable: Tensor | None, normalize: bool) -> Tensor:
    """(M, M) log softmax of the similarities of visual prompts; 0 for pairs that are left out."""
    unit = F.normalize(visual, dim=-1) if normalize else visual
    similarity = unit @ unit.t() / tau_v
    if comparable is None:
        return similarity.log_softmax(-1)
    return similarity.masked_fill(~comparable, float('-inf')).log_softmax(-1).masked_fill(~comparable, 0.0)


@MODELS.register_module()
class RelationDistillation(nn.Module):
    """:func:`relation_distill_loss` with settings.

    Args:
        weight: Weight of the loss, > 0.
        tau_v: Temperature of the visual similarities, > 0.
        tau_t: Temperature of the text similarities, > 0.
        target: ``text``: similarities of class names, which need a language model. ``label``: only prompts of the same
            class are similar, a supervised contrast that needs no text.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, weight: float = 10.0, tau_v: float = 0.1, tau_t: float = 0.07, target: str = 'text') -> None:
        super().__init__()
        if target not in TARGETS:
            raise InputError(f"model.prompts.relation_distill.target must be 'text' or 'label', got {target!r}")
        if min(weight, tau_v, tau_t) <= 0:
            raise InputError(
                'model.prompts.relation_distill: weight, tau_v and tau_t must be greater than 0, got '
                f'weight={weight}, tau_v={tau_v} and tau_t={tau_t}'
            )
        self.weight, self.tau_v, self.tau_t, self.target = weight, tau_v, tau_t, target

    def forward(self, visual: Tensor, text_or_labels: Tensor, comparable: Tensor | None = None) -> dict[str, Tensor]:
        """Loss and statistics, computed at least in single precision.

        Args:
            visual: (M, C).
            text_or_labels: (M, E) or (M,), see :func:`relation_distill_loss`.
            comparable: (M, M), see :func:`relation_distill_loss`.

        Returns:
            ``loss_relation``, and the detached statistic ``relation_divergence``: loss / weight minus its minimum.
        """
        with full_precision(visual.device):
            visual = at_least_float32(visual)
            loss = relation_distill_loss(
                visual, text_or_labels, self.tau_v, self.tau_t, self.weight, comparable=comparable
            )
            # The minimum of the loss is the entropy of the targets.
            entropy = torch.special.entr(soft_targets(text_or_labels, self.tau_t, comparable)).sum(-1)
            divergence = loss.detach() / self.weight - (entropy.mean() if len(entropy) else 0)
        return dict(loss_relation=loss, relation_divergence=divergence)
