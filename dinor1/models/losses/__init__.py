"""Losses: matching, GRQO, language alignment, relation distillation, contrast of instances."""

from .alignment import LanguageAlignment, alignment_loss, symmetric_info_nce
from .grqo import (
    GRQOLoss,
    group_advantage,
    grqo_loss,
    objectness_kl,
    query_rewards,
    rewards_from_cost,
)
from .instance_contrast import Exemplars, InstanceContrast, instance_contrast_loss
from .matching import Match, Targets, hungarian_match, matching_cost, pad_targets
from .relation import RelationDistillation, relation_distill_loss, soft_targets

__all__ = [
    'Exemplars',
    'GRQOLoss',
    'InstanceContrast',
    'LanguageAlignment',
    'Match',
    'RelationDistillation',
    'Targets',
    'alignment_loss',
    'group_advantage',
    'grqo_loss',
    'hungarian_match',
    'instance_contrast_loss',
    'matching_cost',
    'objectness_kl',
    'pad_targets',
    'query_rewards',
    'relation_distill_loss',
    'rewards_from_cost',
    'soft_targets',
    'symmetric_info_nce',
]
