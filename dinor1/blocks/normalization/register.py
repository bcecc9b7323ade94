"""Registration of the norms and of their optimizer constructor."""

from .registry import BASELINES, NORMS


def register() -> None:
    """Register the norms and their optimizer constructor in MMEngine. Idempotent.

    The norms go into MMEngine's root registry, as MMCV's do: registries of sibling scopes are not searched when the
    default scope is ``mmdet``.

    Raises:
        KeyError: another class already has one of the names.
    """
    from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

    from .optim_constructor import NormAwareOptimWrapperConstructor

    for name, norm in (NORMS | BASELINES).items():
        if MODELS.module_dict.get(name) is not norm:
            MODELS.register_module(name=name, module=norm)
    constructor = NormAwareOptimWrapperConstructor
    if OPTIM_WRAPPER_CONSTRUCTORS.module_dict.get(constructor.__name__) is not constructor:
        OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=constructor)
