"""Building blocks of published papers: one folder per paper, with everything of it inside.

A block needs torch and :mod:`dinor1.utils` alone; its ``register`` module registers the components that configs can
name. The detector never imports a block: :func:`dinor1.register_all` asks each one to register itself.
"""

import importlib
import pkgutil


def register_blocks() -> None:
    """Let every block register its components. Idempotent."""
    for block in pkgutil.iter_modules(__path__):
        importlib.import_module(f'{__name__}.{block.name}.register').register()
