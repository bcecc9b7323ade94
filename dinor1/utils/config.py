"""Reading of configs, where a misspelt key is an error with a suggestion."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from dinor1.registry import HOOKS, LOOPS, MODEL_CONVERTERS, MODELS, TASK_UTILS, takes_argument
from dinor1.utils.errors import InputError

# Top-level keys that MMEngine's Runner and this project's tools read.
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
    'model_converters',
    'runner_type',
]

_CONVERTER = "model_converters=[dict(type='IntegerTraining', ...)]"
_GRQO = (
    "model.bbox_head.loss_grqo=dict(type='GRQOLoss', ...) for the loss and "
    "default_hooks.reference=dict(type='ReferenceModelHook', ...) for its reference model"
)
_PROMPTS = (
    "val_cfg=dict(type='PromptedValLoop', prompts=dict(type='VisualGeneric', ...)) and "
    "test_cfg=dict(type='PromptedTestLoop', prompts=...)"
)
# Keys of earlier versions -> what to write instead.
_REMOVED_KEYS = {
    'quantization': _CONVERTER,
    'default_hooks.grqo': _GRQO,
    'default_hooks.prompts': _PROMPTS,
}
# Keys of a DINOR1 of earlier versions -> where they are now.
_MOVED_MODEL_KEYS = {
    **{
        name: f'model.transformer.{name}'
        for name in (
            'embed_dims',
            'num_heads',
            'feedforward_channels',
            'num_points',
            'num_feature_levels',
            'norm_cfg',
        )
    },
    **{name: f'model.prompts.{name}' for name in ('language_model', 'alignment', 'text_prompts')},
    'prompt_refiner': 'model.prompts.refiner',
}
# Hooks of earlier versions -> what to write instead.
_REMOVED_HOOKS = {
    'IntegerTrainingHook': _CONVERTER,
    'LayerNormRemovalHook': "model_converters=[dict(type='LayerNormRemoval', ...)]",
    'PromptProtocolHook': _PROMPTS,
    'QueryRecorderHook': 'test_cfg.query_recorder=dict(...)',
}
# Prefixes of overrides for earlier versions -> the new key of the same setting; longer prefixes come first.
_REFERENCE = ('warmup', 'refresh', 'by_epoch', 'mode', 'dtype')
_MOVED_SETTINGS = {
    'quantization.': 'model_converters.0.{}',
    **{f'default_hooks.grqo.{name}': f'default_hooks.reference.{name}' for name in _REFERENCE},
    'default_hooks.grqo.': 'model.bbox_head.loss_grqo.{}',
    'default_hooks.prompts.protocol': 'test_cfg.prompts.type, and val_cfg.prompts.type for validation',
    'default_hooks.prompts.prompt_dataset': 'prompt_dataset{}',
    'default_hooks.prompts.': 'test_cfg.prompts.{0}, and val_cfg.prompts.{0} for validation',
}
# Variables of our base configs, whose values are elsewhere once the file has been read -> where.
_SUBSTITUTED = {
    'loss_grqo.': 'model.bbox_head.loss_grqo.{}',
    'prompts.': 'test_cfg.prompts.{0}, and val_cfg.prompts.{0} for validation',
    'prompt_refiner.': 'model.prompts.refiner.{}',
    'shapes_checkpoint': 'load_from',
}
# Registries of the components whose arguments an override may add.
_REGISTRIES = (HOOKS, LOOPS, MODELS, MODEL_CONVERTERS, TASK_UTILS)


def load_config(path: str, cfg_options: dict[str, Any] | None = None) -> Config:
    """Read a config file and apply ``key.path=value`` overrides.

    Raises:
        InputError: the file is missing or invalid, an override names an unknown key, a top-level key is probably
            misspelt, or a key belongs to an earlier version.
    """
    if not Path(path).is_file():
        raise InputError(f'{path}: no such config file')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        # A config can raise any exception; its message is more useful than a traceback through the parser.
        message = str(error).strip().splitlines() or ['']
        reason = f'{type(error).__name__}: {message[-1]}'
        raise InputError(f'{path}: cannot be read as a config ({reason})') from error
    # Apply the overrides.
    for key in cfg_options or {}:
        _check_moved(key)
        _check_override(cfg, key)
    cfg.merge_from_dict(cfg_options or {})
    # Check for keys of earlier versions and misspelt keys.
    for key, instead in _removed(cfg):
        raise InputError(f'{path}: {key} belongs to an earlier version; write {instead}')
    for key in cfg:
        if key not in _KNOWN:
            # A config may define variables of its own; only a near match of a known key counts as misspelt.
            close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.9)
            if close and close[0] not in cfg:
                raise InputError(f'{path}: unknown key {key!r}; did you mean {close[0]!r}?')
    return cfg


def _removed(cfg: Config) -> Iterator[tuple[str, str]]:
    """Keys of earlier versions in a config, each with what to write instead."""
    for key, instead in _REMOVED_KEYS.items():
        node: Any = cfg._cfg_dict
        for part in key.split('.'):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            yield key, instead
    model = cfg.get('model') or {}
    if model.get('type') == 'DINOR1':
        for key in _MOVED_MODEL_KEYS.keys() & model.keys():
            yield f'model.{key}', _MOVED_MODEL_KEYS[key]
    hooks = {f'default_hooks.{name}': hook for name, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks[{number}]': hook for number, hook in enumerate(cfg.get('custom_hooks') or ())}
    for place, hook in hooks.items():
        kind = hook.get('type') if isinstance(hook, dict) else None
        if kind in _REMOVED_HOOKS:
            yield f'{place} of type {kind!r}', _REMOVED_HOOKS[kind]


def _check_moved(key: str) -> None:
    """Check that an override does not name a key of an earlier version.

    Raises:
        InputError: it does; the message names the new key.
    """
    for prefix, place in _SUBSTITUTED.items():
        if key.startswith(prefix):
            where = place.format(key.removeprefix(prefix))
            raise InputError(f'--cfg-options {key}: has no effect once the config has been read; give {where}')
    new = _REMOVED_KEYS.get(key)
    if new is None:
        old = next((old for old in _MOVED_SETTINGS if key.startswith(old)), None)
        if old is None:
            return
        new = _MOVED_SETTINGS[old].format(key.removeprefix(old))
    raise InputError(f'--cfg-options {key}: this key belongs to an earlier version; give {new}')


def _is_argument(node: dict, name: str) -> bool:
    """Whether the component that ``node`` describes takes an argument of this name."""
    kind = node.get('type')
    kinds = [registry.get(kind) for registry in _REGISTRIES] if isinstance(kind, str) else []
    return any(isinstance(kind, type) and takes_argument(kind, name) for kind in kinds)


def _check_override(cfg: Config, key: str) -> None:
    """Check the key of an override, which may add an argument that the config leaves at its default.

    Raises:
        InputError: the key does not exist.
    """
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
                # Arguments of a component may have similar names (num_stages, frozen_stages): require a closer match.
                cutoff = 0.6 if depth == 0 else 0.8
                close = difflib.get_close_matches(part, list(node), n=1, cutoff=cutoff)
                if part in _KNOWN if depth == 0 else not close or _is_argument(node, part):
                    return
                hint = f'did you mean {close[0]!r}?' if close else f'it has {", ".join(map(str, node))}'
                raise InputError(f'--cfg-options {key}: {where} has no key {part!r}; {hint}')
            node = node[part]
        else:
            raise InputError(f'--cfg-options {key}: {where} is not a dict and has no key {part!r}')
