"""Losses: matching, GRQO and forms of it, language alignment, relation distillation, contrast of instances."""

from .alignment import LanguageAlignment, alignment_loss, symmetric_info_nce
from .exemplar_group import (
    ExemplarColumns,
    ExemplarGroupLoss,
    exemplar_advantages,
    exemplar_group_loss,
    exemplar_rewards,
    exemplar_weights,
)
from .grqo import (
    GRQOLoss,
    group_advantage,
    grqo_loss,
    objectness_kl,
    query_rewards,
    rewards_from_cost,
)
from .instance_contrast import Exemplars, InstanceContrast, instance_contrast_loss
from .matching import Match, Targets, denoising_match, hungarian_match, matching_cost, pad_targets
from .one_to_many import OneToManyLoss, candidate_scores, candidate_weights, one_to_many_candidates
from .prompt_ranking import PromptRankingLoss, quality_weights, ranking_loss, ranking_sets
from .quality_aware import QualityAwareLoss, quality_aware_loss
from .relation import RelationDistillation, relation_distill_loss, soft_targets

__all__ = [
    'ExemplarColumns',
    'ExemplarGroupLoss',
    'Exemplars',
    'GRQOLoss',
    'InstanceContrast',
    'LanguageAlignment',
    'Match',
    'OneToManyLoss',
    'PromptRankingLoss',
    'QualityAwareLoss',
    'RelationDistillation',
    'Targets',
    'alignment_loss',
    'candidate_scores',
    'candidate_weights',
    'denoising_match',
    'exemplar_advantages',
    'exemplar_group_loss',
    'exemplar_rewards',
    'exemplar_weights',
    'group_advantage',
    'grqo_loss',
    'hungarian_match',
    'instance_contrast_loss',
    'matching_cost',
    'objectness_kl',
    'one_to_many_candidates',
    'pad_targets',
    'quality_aware_loss',
    'quality_weights',
    'query_rewards',
    'ranking_loss',
    'ranking_sets',
    'relation_distill_loss',
    'rewards_from_cost',
    'soft_targets',
    'symmetric_info_nce',
]
