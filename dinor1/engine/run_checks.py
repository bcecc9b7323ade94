"""Check a config before a runner creates folders, builds a model and loads data.

MMEngine reports the same errors later and with a traceback.
"""

import math
from typing import Any

from mmengine.config import Config

from dinor1.engine.optional_packages import check_packages
from dinor1.registry import OPTIMIZERS
from dinor1.utils.component_check import lookup
from dinor1.utils.errors import InputError

_TRAIN = ('train_dataloader', 'train_cfg', 'optim_wrapper')
_VAL = ('val_dataloader', 'val_cfg', 'val_evaluator')
_TEST = ('test_dataloader', 'test_cfg', 'test_evaluator')

# Fields of a sample that say for which classes an image of a federated data set was annotated.
_SCOPE = ('annotated_labels', 'exhaustive_labels')


def check_training(cfg: Config, name: str) -> None:
    """Raise an error for a config that cannot train.

    Args:
        cfg: The config, with all overrides.
        name: Its file name, for messages.

    Raises:
        InputError: a part is missing, a number such as the batch size is out of range, or a package is not installed.
    """
    # Check that all parts are there, and the packages that they need.
    _require(cfg, name, ('model', *_TRAIN), 'train')
    check_packages(cfg, name)
    for parts in (_VAL, _TEST):
        _all_or_none(cfg, name, parts)
    # Check the data.
    _check_loaders(cfg, name, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    _check_vocabularies(cfg, name)
    _check_federated(cfg.train_dataloader.get('dataset'), name, 'train_dataloader.dataset')
    # Check the schedule.
    for key in ('max_epochs', 'max_iters'):
        _check_number(cfg.train_cfg, key, 1, f'{name}: train_cfg')
    if cfg.train_cfg.get('val_interval') != math.inf:  # infinity: no validation
        _check_number(cfg.train_cfg, 'val_interval', 1, f'{name}: train_cfg')
    # Check the optimizer.
    optimizer = cfg.optim_wrapper.get('optimizer')
    if isinstance(optimizer, dict):
        if isinstance(optimizer.get('type'), str) and lookup(OPTIMIZERS, optimizer['type']) is None:
            raise InputError(
                f'{name}: optim_wrapper.optimizer.type is not a known optimizer: {optimizer["type"]!r}; '
                'check the spelling'
            )
        _check_number(optimizer, 'lr', 0, f'{name}: optim_wrapper.optimizer', whole=False)
    check_seed((cfg.get('randomness') or {}).get('seed'), f'{name}: randomness.seed')


def check_testing(cfg: Config, name: str) -> None:
    """Raise an error for a config that cannot test.

    Args:
        cfg: The config, with all overrides.
        name: Its file name, for messages.

    Raises:
        InputError: as for :func:`check_training`.
    """
    _require(cfg, name, ('model', *_TEST), 'test')
    check_packages(cfg, name)
    _all_or_none(cfg, name, _VAL)
    _check_loaders(cfg, name, ('val_dataloader', 'test_dataloader'))


def check_seed(seed: Any, option: str) -> None:
    """Raise an error for a seed that random number generators do not accept; None means a random seed.

    Raises:
        InputError: the seed is not an integer in [0, 2^32).
    """
    if seed is not None and not (type(seed) is int and 0 <= seed < 2**32):
        raise InputError(f'{option} must be a whole number in [0, 2^32), got {seed!r}')


def _require(cfg: Config, name: str, keys: tuple[str, ...], purpose: str) -> None:
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise InputError(f'{name}: has no {", ".join(missing)}; give a config that can {purpose}')
    invalid = [key for key in keys if not isinstance(cfg[key], dict) and not key.endswith('evaluator')]
    if invalid:
        raise InputError(f'{name}: {invalid[0]} must be a dict, got {cfg[invalid[0]]!r}')
    if 'type' not in cfg.model:
        raise InputError(f"{name}: model has no type; write for example type='DINOR1'")


def _all_or_none(cfg: Config, name: str, parts: tuple[str, ...]) -> None:
    missing = [key for key in parts if cfg.get(key) is None]
    if 0 < len(missing) < len(parts):
        raise InputError(f'{name}: has no {", ".join(missing)}; give all of {", ".join(parts)}, or none')


def _check_loaders(cfg: Config, name: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        loader = cfg.get(key)
        if isinstance(loader, dict):
            if not isinstance(loader.get('dataset'), dict):
                raise InputError(f'{name}: {key} has no dataset; give one')
            _check_number(loader, 'batch_size', 1, f'{name}: {key}')
            _check_number(loader, 'num_workers', 0, f'{name}: {key}')


def _check_vocabularies(cfg: Config, name: str) -> None:
    """Check that data sets with different classes pass on their class names: the detector matches classes by name."""
    dataset = cfg.train_dataloader.get('dataset')
    if cfg.model.get('type') != 'DINOR1' or 'classes' not in (dataset.get('ignore_keys') or ()):
        return
    for number, part in enumerate(dataset.get('datasets', ())):
        packed = [step for step in part.get('pipeline') or () if step.get('type') == 'PackDetInputs']
        if not part.get('return_classes') or not all('text' in step.get('meta_keys', ()) for step in packed):
            raise InputError(
                f'{name}: train_dataloader.dataset.datasets[{number}] does not pass on its class names, and the sets '
                "have different classes; set return_classes=True and add 'text' to meta_keys of PackDetInputs"
            )


def _check_federated(dataset: dict, name: str, where: str) -> None:
    """Check that a federated data set passes on for which classes its images were annotated."""
    # Check the data sets within a wrapper.
    for number, part in enumerate(dataset.get('datasets') or ()):
        _check_federated(part, name, f'{where}.datasets[{number}]')
    if isinstance(dataset.get('dataset'), dict):
        _check_federated(dataset['dataset'], name, f'{where}.dataset')
    # Check the meta keys of a federated data set.
    if not dataset.get('federated'):
        return
    for step in dataset.get('pipeline') or ():
        missing = [
            key for key in _SCOPE if step.get('type') == 'PackDetInputs' and key not in step.get('meta_keys', ())
        ]
        if missing:
            raise InputError(
                f'{name}: {where} is federated and does not pass on for which classes its images were annotated; add '
                f'{" and ".join(map(repr, missing))} to meta_keys of PackDetInputs'
            )


def _check_number(node: dict, key: str, least: int, where: str, whole: bool = True) -> None:
    value = node.get(key)
    if value is None:
        return
    # Compare type() because isinstance() accepts booleans. 9e4 counts as a whole number.
    valid = type(value) in (int, float) and math.isfinite(value) and value >= least
    valid = valid and (not whole or value == int(value))
    if not valid:
        kind = 'a whole number' if whole else 'a finite number'
        raise InputError(f'{where}.{key} must be {kind} of at least {least}, got {value!r}')
