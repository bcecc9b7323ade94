"""Files of a project: each change is written immediately, and kept in memory if it cannot be written."""

import contextlib
import os
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import locked, read_json, write_json

_README = 'The state of `dinor1 annotate`: boxes per image, classes and exemplars. Remove this folder to start again.\n'


class Store:
    """Small JSON files in a folder that only one process may use.

    A file is on the disk when :meth:`write` returns. The content is written to a temporary file, which then replaces
    the old file. If the process is killed, the file has either the old or the new content. Content that cannot be
    written, for example because the disk is full, is kept in memory. :meth:`retry` and every later :meth:`write` try
    again to write it.

    Args:
        folder: The folder, which is created if necessary.

    Raises:
        InputError: another process uses the folder.
        OSError: the folder cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unsaved: dict[str, Any] = {}
        self._problem = ''
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(locked(folder))
        self._write_readme()

    @property
    def problem(self) -> str:
        """Reason why files could not be written; empty: all files are on the disk."""
        return self._problem if self._unsaved else ''

    @property
    def num_unsaved(self) -> int:
        """Number of files that are not on the disk in their current form."""
        return len(self._unsaved)

    def write(self, name: str, content: Any) -> bool:
        """Write a file.

        Args:
            name: Path within the folder.
            content: Content for JSON.

        Returns:
            Whether this file and all earlier ones are on the disk.
        """
        self._unsaved[name] = content
        return self.retry()

    def retry(self) -> bool:
        """Write the files that could not be written before; returns whether all files are on the disk now."""
        for name, content in list(self._unsaved.items()):
            try:
                write_json(content, self.folder / name, durable=True)
            except OSError as error:
                self._problem = f'{self.folder / name}: {error.strerror or error}'
                return False
            del self._unsaved[name]
        return True

    def read(self, name: str) -> Any:
        """Content of a file; None: the file does not exist.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / name
        return read_json(path) if os.path.lexists(path) else None

    def close(self) -> None:
        """Write the files that are not on the disk yet, and release the lock of the folder."""
        self.retry()
        self._lock.close()

    def _write_readme(self) -> None:
        """Write a file that explains the folder to users who find it."""
        path = self.folder / 'README.md'
        if not path.exists():
            with contextlib.suppress(OSError):
                path.write_text(_README)


def check_work_dir(folder: Path) -> None:
    """Check that a work directory can be created and written to.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    # Find the nearest folder that exists.
    existing = folder.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    # Check that files can be created in it.
    if not existing.is_dir():
        raise InputError(f'--work-dir {folder}: {existing} is not a folder; give another path')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f'{folder}: {existing} is not writable; give a folder for the state with --work-dir')
