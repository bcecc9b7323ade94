"""Packages that a config needs and that are not installed with dinor1: visualizer backends and file backends."""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends

from dinor1.utils.errors import InputError

# Type of a visualizer backend of MMEngine -> module that it imports, and how to install it.
_VISUALIZERS = {
    'TensorboardVisBackend': ('tensorboard', 'pip install tensorboard'),
    'WandbVisBackend': ('wandb', 'pip install wandb'),
    'MLflowVisBackend': ('mlflow', 'pip install mlflow'),
    'ClearMLVisBackend': ('clearml', 'pip install clearml'),
    'NeptuneVisBackend': ('neptune', 'pip install neptune'),
    'DVCLiveVisBackend': ('dvclive', 'pip install dvclive'),
    'AimVisBackend': ('aim', 'pip install aim'),
}
# Name of a file backend of MMEngine -> module that it imports, and how to install it.
_FILES = {
    'lmdb': ('lmdb', 'pip install lmdb'),
    'petrel': ('petrel_client', "install the package 'petrel_client' of your cluster"),
    'memcached': ('mc', "install the package 'mc' of your cluster"),
}
_ELSE = 'or copy the data to this machine'


def check_packages(cfg: Config, name: str) -> None:
    """Raise an error if a visualizer backend or a file backend of a config cannot be used.

    MMEngine reports a missing package only when it is needed, and with a traceback.

    Args:
        cfg: The config.
        name: Its file name, for messages.

    Raises:
        InputError: a package is not installed, or a file backend does not exist.
    """
    for key, value in _entries(cfg._cfg_dict):
        if isinstance(value, Mapping):
            _check_visualizer(value.get('type'), f'{name}: {key}')
        if key.rsplit('.', 1)[-1] in ('backend_args', 'file_client_args') and isinstance(value, Mapping):
            _check_backend(value.get('backend'), f'{name}: {key}')
        if isinstance(value, str) and '://' in value:
            _check_prefix(value, f'{name}: {key}')


def _entries(node: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Every value within a config, with its dotted key."""
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for key, value in items:
        where = f'{place}.{key}' if place else str(key)
        yield where, value
        yield from _entries(value, where)


def _check_visualizer(kind: Any, where: str) -> None:
    module, command = _VISUALIZERS.get(kind, (None, '')) if isinstance(kind, str) else (None, '')
    if module is not None and not _installed(module):
        raise InputError(f"{where}: {kind} needs the package '{module}'; {command}, or use LocalVisBackend")


def _check_backend(backend: Any, where: str) -> None:
    if backend is None:
        return
    if backend not in backends:
        s3 = "; paths that begin with s3:// are read by the backend 'petrel'" if backend == 's3' else ''
        raise InputError(f'{where}: no file backend is named {backend!r}{s3}; give one of {", ".join(backends)}')
    module, command = _FILES.get(backend, (None, ''))
    if module is not None and not _installed(module):
        raise InputError(f"{where}: the backend {backend!r} needs the package '{module}'; {command}, {_ELSE}")


def _check_prefix(path: str, where: str) -> None:
    """Check a path such as ``s3://bucket/image.png``, whose backend follows from its beginning."""
    prefix = path.split('://')[0].split(':')[-1]
    needed = next((name for name, kind in backends.items() if kind is prefix_to_backends.get(prefix)), None)
    module, command = _FILES.get(needed, (None, '')) if needed is not None else (None, '')
    if module is not None and not _installed(module):
        raise InputError(f"{where}: {path} is read by the package '{module}'; {command}, {_ELSE}")


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
