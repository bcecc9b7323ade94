"""Hooks: state that is not weights lives here, is saved here and restored here."""

from .graceful_stop import GracefulStopHook
from .loss_gradients import LossGradientHook
from .prompt_protocol import PromptProtocolHook
from .prompt_visualization import PromptVisualizationHook
from .query_recorder import QueryRecorderHook
from .reference_model import ReferenceModelHook
from .reproducibility import ReproducibilityHook

__all__ = [
    'GracefulStopHook',
    'LossGradientHook',
    'PromptProtocolHook',
    'PromptVisualizationHook',
    'QueryRecorderHook',
    'ReferenceModelHook',
    'ReproducibilityHook',
]
