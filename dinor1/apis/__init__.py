"""What a script or a notebook calls.

Names are looked up when they are asked for: a tool that only prints its help need not wait for MMDetection.
"""

import importlib

_HOMES = {
    'DINOR1Inferencer': 'inferencer',
    'VisualPrompt': 'visual_prompt',
    'check_checkpoint': 'checkpoint',
    'load_config': 'config',
    'load_model': 'checkpoint',
    'run_tool': 'cli',
}
__all__ = list(_HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
