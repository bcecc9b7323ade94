"""Hooks: state that is not weights lives here, is saved here and restored here."""

from .graceful_stop import GracefulStopHook
from .integer_training import IntegerTrainingHook
from .layernorm_removal import LayerNormRemovalHook
from .loss_gradients import LossGradientHook
from .plateau import PlateauHook
from .prompt_protocol import PromptProtocolHook
from .prompt_visualization import PromptVisualizationHook
from .query_recorder import QueryRecorderHook
from .reference_model import ReferenceModelHook
from .reproducibility import ReproducibilityHook
from .weight_norm import WeightNormHook

__all__ = [
    'GracefulStopHook',
    'IntegerTrainingHook',
    'LayerNormRemovalHook',
    'LossGradientHook',
    'PlateauHook',
    'PromptProtocolHook',
    'PromptVisualizationHook',
    'QueryRecorderHook',
    'ReferenceModelHook',
    'ReproducibilityHook',
    'WeightNormHook',
]
