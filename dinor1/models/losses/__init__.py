"""Losses: matching, GRQO, language alignment. Pure functions of tensors."""

from .alignment import LanguageAlignment, symmetric_info_nce
from .grqo import (
    GRQOSettings,
    group_advantage,
    grqo_loss,
    grqo_loss_by_settings,
    objectness_kl,
    query_rewards,
    rewards_from_cost,
)
from .matching import Match, Targets, hungarian_match, matching_cost, pad_targets, targets_of

__all__ = [
    'GRQOSettings',
    'LanguageAlignment',
    'Match',
    'Targets',
    'group_advantage',
    'grqo_loss',
    'grqo_loss_by_settings',
    'hungarian_match',
    'matching_cost',
    'objectness_kl',
    'pad_targets',
    'query_rewards',
    'rewards_from_cost',
    'symmetric_info_nce',
    'targets_of',
]
