"""LayerNorm removal as a model converter: ``model_converters=[dict(type='LayerNormRemoval', ...)]`` in a config."""

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from dinor1.registry import MODEL_CONVERTERS
from dinor1.utils.model_converters import ModelConverter

from .removal_hook import LayerNormRemovalHook


@MODEL_CONVERTERS.register_module()
class LayerNormRemoval(ModelConverter):
    """Swaps the LayerNorms of a model when it is built, and switches them during training.

    Equivalent to a :class:`LayerNormRemovalHook` in the config, except that the model has its buffers before a
    checkpoint is compared or loaded, so that runs can be resumed and checkpoints tested by the tools.

    Args:
        **schedule: Arguments of :class:`LayerNormRemovalHook`.

    Raises:
        InputError: see :class:`LayerNormRemovalHook`.
    """

    def __init__(self, **schedule: Any) -> None:
        self.hook = LayerNormRemovalHook(**schedule)

    def convert(self, model: nn.Module, seed: int) -> nn.Module:
        """Swap the norms of ``model`` in place; nothing is random.

        Raises:
            InputError: no LayerNorm of the model belongs to a stage.
        """
        self.hook.prepare(model)
        return model

    def hooks(self) -> list[Hook]:
        """Hooks of the converter: the one that switches the norms."""
        return [self.hook]
