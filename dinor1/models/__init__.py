"""Models: detectors, heads, prompt encoders and losses, registered with MMDetection's.

Names are loaded on demand: the losses are functions of tensors, and whoever imports them need not load MMDetection.
"""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'DINOGRQO': '.detectors',
        'DINOGRQOHead': '.heads',
        'DINOR1': '.detectors',
        'DINOR1Head': '.heads',
        'GRQOSettings': '.losses',
        'MultiScaleDeformableAttention': '.transformer',
        'SwinTransformer': '.backbones',
        'VisualPromptEncoder': '.prompts',
        'WordHashModel': '.prompts',
    },
)


def register() -> None:
    """Import the modules whose decorators register components. Idempotent."""
    from . import backbones, detectors, heads, prompts, transformer  # noqa: F401
