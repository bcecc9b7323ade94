"""Names of a package that are loaded on first use (PEP 562).

Importing a package of this project is instant. The first use of a name applies the fixes for third-party packages and
loads MMDetection.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dinor1.utils import compat


def lazy_exports(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make ``__getattr__``, ``__dir__`` and ``__all__`` of a package that imports its modules on demand.

    Args:
        package: The package's ``__name__``.
        homes: Exported name -> relative name of the module that defines it, such as ``'.inferencer'``.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        # Apply the fixes before a module imports MMDetection.
        compat.apply()
        value = getattr(importlib.import_module(homes[name], package), name)
        # Store the value, so that Python does not call this function for it again.
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *homes}), list(homes)


def load_all(package: str) -> None:
    """Load all names of a package that uses :func:`lazy_exports`."""
    module = importlib.import_module(package)
    for name in module.__all__:
        getattr(module, name)
