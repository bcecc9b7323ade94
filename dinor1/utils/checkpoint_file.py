"""Read checkpoint files without running code that they contain.

A checkpoint is a pickle, which can run any code when it is loaded. torch's safe mode loads only tensors, plain data
and the classes of :func:`allowed_classes`. The unsafe mode is never used.
"""

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch.hub import download_url_to_file, get_dir
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dinor1.utils.errors import InputError
from dinor1.utils.released_weights import as_checkpoint


def load_file(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Load a checkpoint as ``torch.load`` does, in its safe mode, or a safetensors file.

    Args:
        file: Path, or a binary file.
        map_location: As for ``torch.load``.
        weights_only: Ignored; accepted because callers of ``torch.load`` pass it.

    Raises:
        InputError: the file contains objects that are not allowed, is compressed, or does not fit into memory.
        UnpicklingError: the file is damaged.
    """
    name = str(file) if isinstance(file, str | os.PathLike) else 'checkpoint'
    # Check a file on the disk, and read safetensors.
    if isinstance(file, str | os.PathLike):
        _check_size(Path(file))
        if Path(file).suffix == '.safetensors':
            return as_checkpoint(file, map_location)
    # Load everything else in torch's safe mode.
    with _one_line(name, lambda: get_unsafe_globals_in_checkpoint(file)):
        return torch.load(file, map_location=map_location, weights_only=True)


def load_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True) -> Any:
    """Download a checkpoint, unless it was downloaded before, and load it as :func:`load_file` does.

    Args:
        url: Address.
        model_dir: Folder of downloaded files; default: ``checkpoints`` in torch's hub folder.
        map_location: As for ``torch.load``.
        progress: Whether to show a progress bar on standard error.

    Raises:
        InputError: as :func:`load_file`.
        UnpicklingError: the file is damaged.
    """
    # Download the file, under the name that torch.hub gives it.
    path = Path(model_dir or Path(get_dir()) / 'checkpoints') / Path(urlparse(url).path).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), progress=progress)
    return load_file(path, map_location)


def allowed_classes() -> list[Any]:
    """Classes and functions that a checkpoint may contain besides tensors and plain data.

    They are NumPy's arrays, scalars and dtypes, and those that MMEngine stores with its logs and schedules.
    """
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    core = np._core if hasattr(np, '_core') else np.core
    dtypes = {type(np.dtype(kind)) for kind in set(np.sctypeDict.values())}
    return [
        slice,
        np.ndarray,
        np.dtype,
        core.multiarray._reconstruct,
        core.multiarray.scalar,
        # The names in files of NumPy 1.
        (core.multiarray._reconstruct, 'numpy.core.multiarray._reconstruct'),
        (core.multiarray.scalar, 'numpy.core.multiarray.scalar'),
        *dtypes,
        HistoryBuffer,
        OneCycleParamScheduler,
        # A pickle stores a method as a call of getattr.
        (_method, 'builtins.getattr'),
    ]


def _method(component: Any, name: str) -> Any:
    """``getattr`` for only those methods that MMEngine stores with its logs and schedules."""
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    methods = {
        HistoryBuffer: ('min', 'max', 'current', 'mean'),
        OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
    }
    if name not in methods.get(component, ()):
        raise UnpicklingError(f'getattr({component}, {name!r}) is not allowed')
    return getattr(component, name)


@contextlib.contextmanager
def _one_line(name: str, unsafe: Callable[[], list[str]]) -> Iterator[None]:
    """Allow the classes of :func:`allowed_classes`, and name other classes in a one-line error."""
    with safe_globals(allowed_classes()):
        try:
            yield
        except UnpicklingError as error:
            # List the classes; this fails for damaged files and for torch's format before release 1.6.
            names: list[str] = []
            with contextlib.suppress(Exception):
                names = sorted(unsafe())
            if not names:
                raise
            raise InputError(
                f'{name}: holds Python objects ({", ".join(names[:3])}), and loading them could run any code; save it '
                'again with tensors, numbers and texts only, on a machine where you trust it'
            ) from error


def _check_size(path: Path) -> None:
    """Reject a file that would fill the memory.

    Raises:
        InputError: the file is compressed, which checkpoints of torch never are, or larger than the memory.
    """
    if not path.is_file():
        return
    # Reject a compressed archive, whose content may be much larger than the file.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        # Entries may also share the same bytes of the file.
        packed = any(entry.file_size > entry.compress_size for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f'{path}: a compressed archive, not a checkpoint; unpack it, or download it again')
    # Compare the size with the memory of this machine.
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        if path.stat().st_size > memory:
            sizes = f'{path.stat().st_size / 2**30:.1f} GiB, and this machine has {memory / 2**30:.1f} GiB of memory'
            raise InputError(f'{path}: {sizes}; give a smaller checkpoint')
