"""Detection with a trained model: images and prompts in, boxes out."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {'DINOR1Inferencer': '.inferencer', 'VisualPrompt': '.visual_prompt'}
)
