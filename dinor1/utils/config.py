"""Reading configs so that a typo is an error with a suggestion."""

import difflib
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from dinor1.registry import HOOKS, MODELS, takes_argument
from dinor1.utils.errors import InputError

# What MMEngine's Runner and this project's tools read at the top level of a config.
_KNOWN = [
    'model',
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'auto_scale_lr',
    'optim_wrapper',
    'param_scheduler',
    'val_evaluator',
    'test_evaluator',
    'default_hooks',
    'custom_hooks',
    'data_preprocessor',
    'load_from',
    'resume',
    'launcher',
    'env_cfg',
    'log_processor',
    'log_level',
    'visualizer',
    'default_scope',
    'randomness',
    'experiment_name',
    'work_dir',
    'prompt_dataset',
    'custom_imports',
    'quantization',
]


def load_config(path: str, cfg_options: dict[str, Any] | None = None) -> Config:
    """Read a config file and apply ``key.path=value`` overrides.

    ``quantization = dict(...)`` at the top level stands for an ``IntegerTrainingHook`` with these arguments.

    Raises:
        InputError: the file is missing or broken, an override names a key that the config does not have, or a
            top-level key looks like a misspelt one.
    """
    if not Path(path).is_file():
        raise InputError(f'{path}: no such config file')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        # Whatever a config raises while it is read, its text tells more than a trace through the parser.
        message = str(error).strip().splitlines() or ['']
        reason = f'{type(error).__name__}: {message[-1]}'
        raise InputError(f'{path}: cannot be read as a config ({reason})') from error
    for key in cfg_options or {}:
        _check_override(cfg, key)
    cfg.merge_from_dict(cfg_options or {})
    for key in cfg:
        if key not in _KNOWN:
            # Free variables are welcome; only what is nearly a known key is taken for a slip.
            close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.9)
            if close and close[0] not in cfg:
                raise InputError(f'{path}: unknown key {key!r}; did you mean {close[0]!r}?')
    quantization = cfg.pop('quantization', None)
    if quantization is not None:
        hook = dict(type='IntegerTrainingHook', **quantization)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    return cfg


def _is_argument(node: dict, name: str) -> bool:
    """Whether the component that ``node`` describes takes an argument of this name."""
    kinds = [registry.get(node['type']) for registry in (HOOKS, MODELS)] if isinstance(node.get('type'), str) else []
    return any(isinstance(kind, type) and takes_argument(kind, name) for kind in kinds)


def _check_override(cfg: Config, key: str) -> None:
    """An override may add arguments that the config leaves at their default, but not misspell a key."""
    node: Any = cfg._cfg_dict
    parts = key.split('.')
    for depth, part in enumerate(parts):
        where = '.'.join(parts[:depth]) or 'the config'
        if isinstance(node, list | tuple):
            if not part.isdigit() or int(part) >= len(node):
                raise InputError(f'--cfg-options {key}: {where} is a list of {len(node)}; {part!r} is not in it')
            node = node[int(part)]
        elif isinstance(node, ConfigDict | dict):
            if part not in node:
                # Components have arguments of similar names (num_stages and frozen_stages): there, be surer.
                cutoff = 0.6 if depth == 0 else 0.8
                close = difflib.get_close_matches(part, list(node), n=1, cutoff=cutoff)
                if part in _KNOWN if depth == 0 else not close or _is_argument(node, part):
                    return
                hint = f'did you mean {close[0]!r}?' if close else f'it has {", ".join(map(str, node))}'
                raise InputError(f'--cfg-options {key}: {where} has no key {part!r}; {hint}')
            node = node[part]
        else:
            raise InputError(f'--cfg-options {key}: {where} is not a dict and has no key {part!r}')
