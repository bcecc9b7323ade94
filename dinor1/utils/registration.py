"""Register all components in MMEngine's registries."""

import importlib

from mmengine.registry import init_default_scope

from dinor1.utils import compat
from dinor1.utils.lazy import load_all

_MMDET = ('mmdet.models', 'mmdet.datasets', 'mmdet.evaluation', 'mmdet.engine', 'mmdet.visualization')
_OURS = ('dinor1.models', 'dinor1.datasets', 'dinor1.evaluation', 'dinor1.engine')


def register_all(default_scope: bool = True) -> None:
    """Register every component under the scope ``dinor1``, and make ``dinor1`` the default scope. Idempotent.

    Afterwards, any config of this project or of MMDetection can be built.

    Args:
        default_scope: Whether ``dinor1`` becomes the default scope.
    """
    # Apply the fixes without which MMDetection cannot be imported.
    compat.apply()
    # Import the modules that register components.
    for package in _MMDET:
        importlib.import_module(package)
    for package in _OURS:
        load_all(package)
    importlib.import_module('dinor1.blocks').register_blocks()
    if default_scope:
        init_default_scope('dinor1')
