"""The names under which configs know the norms, and the optimizer constructor that treats them as norms."""

from .registry import BASELINES, NORMS


def register() -> None:
    """Make MMEngine know the norms, and the optimizer constructor that treats them as norms. Idempotent.

    The norms go into MMEngine's root registry, where MMCV keeps its own: a registry of a sibling scope is not searched
    when the default scope is ``mmdet``.

    Raises:
        KeyError: another class has one of the names already.
    """
    from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

    from .optim_constructor import NormAwareOptimWrapperConstructor

    for name, norm in (NORMS | BASELINES).items():
        if MODELS.module_dict.get(name) is not norm:
            MODELS.register_module(name=name, module=norm)
    constructor = NormAwareOptimWrapperConstructor
    if OPTIM_WRAPPER_CONSTRUCTORS.module_dict.get(constructor.__name__) is not constructor:
        OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=constructor)
