"""Registration of the optimizers and the hook."""

import logging

from .adamp import AdamP
from .sgdp import SGDP


def register() -> None:
    """Register the optimizers in MMEngine's ``OPTIMIZERS``, and import the hook's module. Idempotent.

    Another package's optimizer of the same name is replaced, with a warning that names the package.
    """
    from mmengine.logging import print_log
    from mmengine.registry import OPTIMIZERS

    from . import weight_norm_hook  # noqa: F401

    # Register each optimizer, replacing another one of the same name.
    for optimizer in (AdamP, SGDP):
        name = optimizer.__name__
        other = OPTIMIZERS.module_dict.get(name)
        if other is optimizer:
            continue
        if other is not None:
            print_log(
                f"optimizer '{name}' of {other.__module__} is replaced by that of {optimizer.__module__}",
                logger='current',
                level=logging.WARNING,
            )
        OPTIMIZERS.register_module(module=optimizer, force=other is not None)
