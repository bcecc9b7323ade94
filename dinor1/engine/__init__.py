"""What happens around the model: loops and hooks on MMEngine's standard Runner."""

from .hooks import (
    GracefulStopHook,
    LossGradientHook,
    PromptProtocolHook,
    PromptVisualizationHook,
    QueryRecorderHook,
    ReferenceModelHook,
    ReproducibilityHook,
)

__all__ = [
    'GracefulStopHook',
    'LossGradientHook',
    'PromptProtocolHook',
    'PromptVisualizationHook',
    'QueryRecorderHook',
    'ReferenceModelHook',
    'ReproducibilityHook',
]
