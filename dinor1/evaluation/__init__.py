"""Protocols that give a detector its prompts, and metrics."""

from .accuracy import Accuracy
from .coco_metric import CocoPromptMetric
from .cross_entropy import CrossEntropy
from .graphs import MeanAbsoluteError, SBMAccuracy
from .link_prediction import LinkPredictionMetric
from .lvis_metric import LVISFixedMetric
from .paired import PairedDifference, mean_interval, paired_difference
from .prompt_similarity import bernoulli_entropy, iisr
from .queries import QueryStatistics, query_statistics
from .repeats import mean_and_std
from .visual_generic import Exemplar, build_bank, draw_exemplars, embed_exemplars
from .visual_interactive import draw_interactive

__all__ = [
    'Accuracy',
    'CocoPromptMetric',
    'CrossEntropy',
    'Exemplar',
    'LVISFixedMetric',
    'LinkPredictionMetric',
    'MeanAbsoluteError',
    'SBMAccuracy',
    'PairedDifference',
    'QueryStatistics',
    'bernoulli_entropy',
    'build_bank',
    'draw_exemplars',
    'draw_interactive',
    'embed_exemplars',
    'iisr',
    'mean_and_std',
    'mean_interval',
    'paired_difference',
    'query_statistics',
]
