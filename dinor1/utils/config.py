"""Read configs, and report misspelt keys with a suggestion."""

import difflib
import inspect
import math
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from dinor1.registry import HOOKS, LOOPS, MODEL_CONVERTERS, MODELS, TASK_UTILS
from dinor1.utils.component_check import Mistake, arguments, lookup, mistakes
from dinor1.utils.config_files import find_config
from dinor1.utils.errors import InputError
from dinor1.utils.moved_keys import check_not_moved, moved_argument, removed_keys, warn_of_renamed_types
from dinor1.utils.registration import register_all

# Top-level keys: arguments of MMEngine's Runner, other keys that it reads, and our keys.
_KNOWN = [
    *inspect.signature(Runner.__init__).parameters,
    *('runner_type', 'model_wrapper_cfg', 'find_unused_parameters', 'custom_imports'),
    *('prompt_dataset', 'model_converters', 'tta_model', 'tta_pipeline'),
]

# An override may add arguments to components of these registries.
_REGISTRIES = (HOOKS, LOOPS, MODELS, MODEL_CONVERTERS, TASK_UTILS)


def load_config(name: str | PathLike, cfg_options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, apply ``key.path=value`` overrides, and check the arguments of its components.

    Every component is registered first, so that the config can be checked and built.

    Args:
        name: Config file, or the name of one that comes with dinor1, see
            :func:`dinor1.utils.config_files.find_config`.
        cfg_options: Overrides, by dotted key.

    Raises:
        InputError: the file is missing or invalid, an override names an unknown key, a top-level key is probably
            misspelt, a key belongs to an earlier version, a number is NaN, or a component of ours does not accept an
            argument.
    """
    # Read the file.
    file, path = find_config(name), str(name)
    register_all()
    try:
        cfg = Config.fromfile(file)
    except Exception as error:
        # A config is a program and can raise any exception: report its message without the traceback.
        message = str(error).strip().splitlines() or ['']
        reason = f'{type(error).__name__}: {message[-1]}'
        raise InputError(f'{path}: cannot be read as a config ({reason})') from error
    # Apply the overrides.
    options = dict(cfg_options or {})
    for key in options:
        check_not_moved(key)
        _check_override(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except TypeError as error:  # a dict replaces a value that is not a dict
        raise InputError(f'--cfg-options: {error}') from error
    # Check for keys of earlier versions and misspelt keys.
    for key, instead in removed_keys(cfg):
        where = f'--cfg-options {key}' if key in options else f'{path}: {key}'
        raise InputError(f'{where} belongs to an earlier version; write {instead}')
    for key in cfg:
        if key not in _KNOWN:
            # A config may define its own variables; only a near match of a known key counts as misspelt.
            close = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.9)
            if close and close[0] not in cfg:
                raise InputError(f'{path}: unknown key {key!r}; did you mean {close[0]!r}?')
    warn_of_renamed_types(cfg, path)
    # NaN is no setting of any component, and would only appear in the results.
    for key in nan_keys(cfg._cfg_dict):
        where = f'--cfg-options {key}' if key in options else f'{path}: {key}'
        raise InputError(f'{where} is NaN; give a number')
    # Check the arguments of components.
    for mistake in mistakes(cfg._cfg_dict):
        raise InputError(_message(mistake, path, options))
    return cfg


def _message(mistake: Mistake, path: str, cfg_options: dict[str, Any]) -> str:
    """Describe a mistake in one line that begins with the override or the file that contains it."""
    given = next((key for key in cfg_options if f'{mistake.key}.'.startswith(f'{key}.')), None)
    where = f'{path}: {mistake.key}' if given is None else f'--cfg-options {mistake.key}'
    moved = moved_argument(mistake.component, mistake.argument, mistake.key)
    if moved is not None:
        return f'{where} belongs to an earlier version; write {moved}'
    return f'{where}: {mistake.text}'


def nan_keys(node: Any, place: str = '') -> Iterator[str]:
    """Dotted keys of the numbers in a config that are NaN."""
    if isinstance(node, float) and math.isnan(node):
        yield place
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in items:
        yield from nan_keys(value, f'{place}.{key}' if place else str(key))


def _is_argument(node: dict, name: str) -> bool:
    """Whether the component that ``node`` describes takes an argument of this name."""
    kind = node.get('type')
    kinds = [lookup(registry, kind) for registry in _REGISTRIES] if isinstance(kind, str) else []
    return any(isinstance(kind, type) and name in arguments(kind) for kind in kinds)


def _check_override(cfg: Config, key: str) -> None:
    """Check that the key of an override exists, or names an argument that the config leaves at its default.

    Raises:
        InputError: the key does not exist.
    """
    # Follow the key through dicts and lists.
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
                # Require a closer match inside components: their arguments may be similar (num_stages, frozen_stages).
                cutoff = 0.6 if depth == 0 else 0.8
                close = difflib.get_close_matches(part, list(node), n=1, cutoff=cutoff)
                if part in _KNOWN if depth == 0 else not close or _is_argument(node, part):
                    return
                moved = moved_argument(str(node.get('type')), part, '.'.join(parts[: depth + 1]))
                if moved is not None:
                    raise InputError(f'--cfg-options {key}: this key belongs to an earlier version; give {moved}')
                hint = f'did you mean {close[0]!r}?' if close else f'it has {", ".join(map(str, node))}'
                raise InputError(f'--cfg-options {key}: {where} has no key {part!r}; {hint}')
            node = node[part]
        else:
            raise InputError(f'--cfg-options {key}: {where} is not a dict and has no key {part!r}')
