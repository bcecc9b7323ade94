"""What happens around the model: hooks on MMEngine's standard Runner."""

from .hooks import (
    GracefulStopHook,
    IntegerTrainingHook,
    LayerNormRemovalHook,
    LossGradientHook,
    PlateauHook,
    PromptProtocolHook,
    PromptVisualizationHook,
    QueryRecorderHook,
    ReferenceModelHook,
    ReproducibilityHook,
    WeightNormHook,
)

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
