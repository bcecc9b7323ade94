"""Makes the optimizers known to MMEngine, so that a config can say ``optimizer=dict(type='AdamP')``."""

import logging

from .adamp import AdamP
from .sgdp import SGDP


def register() -> None:
    """Register :class:`AdamP` and :class:`SGDP` in MMEngine's ``OPTIMIZERS``. Idempotent.

    Another package's optimizer of the same name is replaced, with a warning that says whose it was.
    """
    from mmengine.logging import print_log
    from mmengine.registry import OPTIMIZERS

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
