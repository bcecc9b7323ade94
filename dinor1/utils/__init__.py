"""Utilities for all parts of the package: files, errors, devices, configs, fixes for third-party packages."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register every component; MMEngine calls a function of this name in every package of its configs.

    Args:
        init_default_scope: Whether ``dinor1`` becomes the default scope.
    """
    from dinor1.utils.registration import register_all  # Imports MMDetection.

    register_all(init_default_scope)
