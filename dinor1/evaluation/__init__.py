"""Protocols that give a detector its prompts, and metrics."""

from .coco_metric import CocoPromptMetric
from .lvis_metric import LVISFixedMetric
from .prompt_similarity import bernoulli_entropy, iisr
from .queries import QueryStatistics, query_statistics
from .seed_average import mean_and_std
from .visual_generic import Exemplar, build_bank, draw_exemplars, embed_exemplars
from .visual_interactive import draw_interactive

__all__ = [
    'CocoPromptMetric',
    'Exemplar',
    'LVISFixedMetric',
    'QueryStatistics',
    'bernoulli_entropy',
    'build_bank',
    'draw_exemplars',
    'draw_interactive',
    'embed_exemplars',
    'iisr',
    'mean_and_std',
    'query_statistics',
]
