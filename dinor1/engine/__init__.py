"""What happens around the model: hooks on MMEngine's standard Runner."""

from .hooks import (
    GracefulStopHook,
    PromptProtocolHook,
    PromptVisualizationHook,
    ReferenceModelHook,
    ReproducibilityHook,
)

__all__ = [
    'GracefulStopHook',
    'PromptProtocolHook',
    'PromptVisualizationHook',
    'ReferenceModelHook',
    'ReproducibilityHook',
]
