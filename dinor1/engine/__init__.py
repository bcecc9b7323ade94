"""What happens around the model: hooks on MMEngine's standard Runner."""

from .hooks import (
    GracefulStopHook,
    IntegerTrainingHook,
    LayerNormRemovalHook,
    PromptProtocolHook,
    PromptVisualizationHook,
    ReferenceModelHook,
    ReproducibilityHook,
    WeightNormHook,
)

__all__ = [
    'GracefulStopHook',
    'IntegerTrainingHook',
    'LayerNormRemovalHook',
    'PromptProtocolHook',
    'PromptVisualizationHook',
    'ReferenceModelHook',
    'ReproducibilityHook',
    'WeightNormHook',
]
