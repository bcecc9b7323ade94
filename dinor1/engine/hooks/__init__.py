"""Hooks; a hook saves and restores the training state that it owns, apart from weights."""

from .broadcast_buffers import BroadcastBuffersHook
from .graceful_stop import GracefulStopHook
from .half_weights import HalfWeightsHook
from .loss_balance import LossBalanceHook
from .loss_gradients import LossGradientHook
from .prompt_memory import PromptMemoryHook
from .prompt_mode import PromptModeHook
from .prompt_visualization import PromptVisualizationHook
from .reference_model import ReferenceModelHook
from .reproducibility import ReproducibilityHook

__all__ = [
    'BroadcastBuffersHook',
    'GracefulStopHook',
    'HalfWeightsHook',
    'LossBalanceHook',
    'LossGradientHook',
    'PromptMemoryHook',
    'PromptModeHook',
    'PromptVisualizationHook',
    'ReferenceModelHook',
    'ReproducibilityHook',
]
