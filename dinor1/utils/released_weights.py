"""Weights that come with dinor1: half-precision safetensors files, each with the name of its config.

A released file has the weights of the detector without its frozen language model, which brings its own weights. Its
address is ``dinor1://NAME``, wherever a checkpoint is expected: ``load_from``, ``dinor1 test CONFIG dinor1://lite``.
"""

import difflib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path

SCHEME = 'dinor1://'
DEFAULT = 'lite'
FOLDER = Path(__file__).parent.with_name('weights')
# Parts of a detector that are not in a released file.
LANGUAGE_MODEL = 'language_model.'
_FORMAT = 'dinor1.weights/1'


class ReleasedWeights(NamedTuple):
    """Content of a weights file.

    Attributes:
        state_dict: Weights; floating-point numbers in the precision of the file.
        meta: Texts: ``config`` (name of the config), ``format`` and others.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, str]


def released_names() -> list[str]:
    """Names of the weights that come with dinor1."""
    return sorted(path.stem for path in FOLDER.glob('*.safetensors'))


def released_file(name: str) -> Path:
    """File of the weights with a name or address, such as ``lite`` or ``dinor1://lite``.

    Raises:
        InputError: there are no weights of this name.
    """
    stem = name.removeprefix(SCHEME)
    path = FOLDER / f'{stem}.safetensors'
    if '/' in stem or not path.is_file():
        names = released_names()
        close = difflib.get_close_matches(stem, names, n=1)
        hint = f'did you mean {SCHEME}{close[0]}?' if close else f'there are {", ".join(names) or "none"}'
        raise InputError(f'{name}: no weights of this name come with dinor1; {hint}')
    return path


def read_weights_file(path: str | PathLike) -> ReleasedWeights:
    """Read a safetensors file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(path, framework='pt') as file:
            return ReleasedWeights({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; correct the path') from None
    except (SafetensorError, OSError) as error:
        raise InputError(f'{path}: not a readable safetensors file ({error}); get it again') from None


def write_weights_file(path: str | PathLike, state_dict: Mapping[str, Tensor], config: str, **meta: str) -> None:
    """Write the weights of a detector in half precision, without its language model.

    Args:
        path: File to write, completely or not at all.
        state_dict: Weights.
        config: Name of the config that comes with dinor1.
        **meta: Further texts, such as the checksum of the original.

    Raises:
        InputError: a weight does not fit into half precision.
    """
    tensors = {}
    # Convert the weights to half precision.
    for name, tensor in state_dict.items():
        if name.startswith(LANGUAGE_MODEL):
            continue
        half = tensor.half() if tensor.is_floating_point() else tensor
        if half.is_floating_point() and not half.isfinite().all():
            raise InputError(f'{name}: has values that half precision cannot represent; train again with weight decay')
        tensors[name] = half.contiguous()
    # Write them with the name of their config.
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=dict(format=_FORMAT, config=config, **meta))


def config_of(path: str | PathLike) -> str:
    """Name of the config of a weights file.

    Raises:
        InputError: the file does not name its config.
    """
    try:
        with safe_open(path, framework='pt') as file:
            meta = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f'{path}: not a readable safetensors file ({error}); get it again') from None
    if meta.get('format') != _FORMAT or 'config' not in meta:
        raise InputError(f'{path}: does not name the config that it was trained with; give both config and checkpoint')
    return meta['config']


def load_from_released(filename: str, map_location: str | torch.device | None = None, logger: object = None) -> dict:
    """Read released weights as a checkpoint; MMEngine calls this for addresses ``dinor1://NAME``.

    Args:
        filename: The address.
        map_location: Device of the weights.
        logger: Ignored.

    Raises:
        InputError: there are no weights of this name, or the file is damaged.
    """
    return as_checkpoint(released_file(filename), map_location)


def as_checkpoint(path: str | PathLike, map_location: str | torch.device | None = None) -> dict:
    """Read a safetensors file in the form of a checkpoint, ``dict(state_dict=..., meta=...)``."""
    weights = read_weights_file(path)
    device = 'cpu' if map_location is None or callable(map_location) else map_location
    return dict(state_dict={k: v.to(device) for k, v in weights.state_dict.items()}, meta=dict(weights.meta))
