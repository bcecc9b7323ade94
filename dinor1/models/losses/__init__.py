"""Losses: matching, GRQO, language alignment."""

from .alignment import LanguageAlignment, symmetric_info_nce
from .grqo import (
    GRQOLoss,
    group_advantage,
    grqo_loss,
    objectness_kl,
    query_rewards,
    rewards_from_cost,
)
from .matching import Match, Targets, hungarian_match, matching_cost, pad_targets

__all__ = [
    'GRQOLoss',
    'LanguageAlignment',
    'Match',
    'Targets',
    'group_advantage',
    'grqo_loss',
    'hungarian_match',
    'matching_cost',
    'objectness_kl',
    'pad_targets',
    'query_rewards',
    'rewards_from_cost',
    'symmetric_info_nce',
]
