"""File backend of MMEngine that reads files inside ZIP archives: ``backend_args=dict(backend='zip')``."""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.fileio import BaseStorageBackend, register_backend

from dinor1.utils.errors import InputError


@register_backend('zip', force=True)
class ZipBackend(BaseStorageBackend):
    """Reads files inside ZIP archives, and files outside of them as usual.

    The path of a file leads through the archive: ``data/train2017.zip/train2017/000000000009.jpg`` is the member
    ``train2017/000000000009.jpg`` of ``data/train2017.zip``. Archives stay open; every process opens its own.
    """

    def __init__(self) -> None:
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._process = os.getpid()

    def get(self, filepath: str | Path) -> bytes:
        """Content of a file.

        Raises:
            InputError: there is no such file, or the archive is damaged.
        """
        archive, member = _divide(str(filepath))
        try:
            return Path(filepath).read_bytes() if archive is None else self._open(archive).read(member)
        except (KeyError, FileNotFoundError):
            raise InputError(f'{filepath}: no such file; check the path, and the names inside the archive') from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged, unknown kind, encrypted
            raise InputError(f'{filepath}: the archive cannot be read ({error}); make it again') from error

    def get_text(self, filepath: str | Path, encoding: str = 'utf-8') -> str:
        """Content of a text file; see :meth:`get`."""
        return self.get(filepath).decode(encoding)

    @contextlib.contextmanager
    def get_local_path(self, filepath: str | Path) -> Iterator[str]:
        """Path of a copy of a file outside of its archive, while the context lasts; see :meth:`get`."""
        if _divide(str(filepath))[0] is None:
            yield str(filepath)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / Path(filepath).name
            copy.write_bytes(self.get(filepath))
            yield str(copy)

    def _open(self, path: str) -> zipfile.ZipFile:
        # A worker process must not share the file position of its parent process.
        if self._process != os.getpid():
            self._archives, self._process = {}, os.getpid()
        if path not in self._archives:
            self._archives[path] = zipfile.ZipFile(path)
        return self._archives[path]

    def __getstate__(self) -> dict:
        return dict(self.__dict__, _archives={})


def _divide(path: str) -> tuple[str | None, str]:
    """Archive and member that a path leads to; the archive is None for a path outside of archives."""
    parts = Path(path).parts
    for end, part in enumerate(parts[:-1], 1):
        archive = os.path.join(*parts[:end])
        if part.lower().endswith('.zip') and not os.path.isdir(archive):
            return archive, '/'.join(parts[end:])
    return None, path
