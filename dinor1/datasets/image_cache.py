"""Prepared images of a data set in one memory-mapped file, shared by all workers and ranks of a machine."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, locked, read_json, write_json

_FORMAT = 1
_GIB = 1024**3

# An image in a cache: its pixels, (H, W, 3) uint8, and the (height, width) of its file.
Prepared = tuple[np.ndarray, tuple[int, int]]


class ImageCache:
    """Loaded and resized images of a data set, uncompressed in a file that is built once.

    The file is mapped read-only, so that the operating system keeps one copy in memory for all processes of the
    machine. Its name contains a digest of the settings of the transform, and of path, size and times of every image:
    a data set that has changed gets a new file. An image that changes after the build is read from its own file.

    Args:
        folder: Folder of the file; one below ``/dev/shm`` keeps it in memory. Delete the folder to free the space.
        max_gib: Maximum size of the file, in GiB.

    Raises:
        InputError: ``max_gib`` is not positive.
    """

    def __init__(self, folder: str | os.PathLike, max_gib: float = 4.0) -> None:
        if not max_gib > 0:
            raise InputError(f'image cache: max_gib must be positive, got {max_gib}')
        self.folder, self.max_gib = Path(folder), max_gib
        self.file: Path | None = None
        self._index: dict[str, dict[str, Any]] = {}
        self._pixels: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map copies all pixels. Instead, every process maps the file on first use.
        return self.__dict__ | {'_pixels': None}

    def build(
        self,
        paths: Iterable[str],
        settings: Any,
        size: Callable[[str], tuple[int, int]],
        load: Callable[[str], Prepared],
    ) -> None:
        """Map the file of these images; write it first if it does not exist, while other processes wait.

        Args:
            paths: Image files; a file that occurs twice is stored once.
            settings: Everything that the pixels depend on, apart from the files; its ``repr`` is part of the digest.
            size: Path of an image -> (height, width) of the resized image in pixels, without decoding it.
            load: Path of an image -> the resized image.

        Raises:
            InputError: an image is missing or cannot be read, or the file would be larger than ``max_gib`` or than the
                free space.
        """
        # Name the file after everything that its content depends on.
        versions = {path: _version(path) for path in sorted(set(paths))}
        if None in versions.values():
            missing = next(path for path, version in versions.items() if version is None)
            raise InputError(f'{missing}: missing; restore the file')
        key = json.dumps([_FORMAT, cv2.__version__, repr(settings), versions])
        file = self.folder / f'images_{hashlib.sha256(key.encode()).hexdigest()[:24]}.bin'
        index_file = file.with_suffix('.json')
        # Every process logs the size, because only the first rank writes a log and another one may write the file.
        total = 0 if _complete(file, index_file) else self._announce(file, [size(path) for path in versions])
        # One process writes. It writes the index last: if the index exists, the pixels are complete.
        with locked(self.folder, wait=True):
            if not _complete(file, index_file):
                free = shutil.disk_usage(self.folder).free
                if total > free:
                    raise InputError(
                        f'image cache {self.folder}: {len(versions)} images take {total / _GIB:.3g} GiB, '
                        f'{free / _GIB:.3g} GiB are free; choose another folder'
                    )
                _write(file, index_file, versions, load)
        self._index, self._pixels, self.file = read_json(index_file), None, file
        print_log(f'Image cache: {len(versions)} images from {file}', logger='current')

    def get(self, path: str) -> Prepared | None:
        """Copy of the pixels of an image, and the (height, width) of its file.

        Returns:
            None if the image is not in the cache, or its file has changed since.

        Raises:
            InputError: the cache has not been built.
        """
        if self.file is None:
            raise InputError(
                'image cache: has not been built; use CocoPromptDataset or a subclass, and put the transform with the '
                'cache directly into its pipeline'
            )
        # Look up the image, and check that its file has not changed.
        entry = self._index.get(path)
        if entry is None or _version(path) != entry['version']:
            return None
        if self._pixels is None and os.path.getsize(self.file):
            self._pixels = np.memmap(self.file, np.uint8, mode='r')
        # Copy its pixels.
        height, width = entry['shape']
        start = entry['offset']
        pixels = np.array(self._pixels[start : start + height * width * 3]).reshape(height, width, 3)
        return pixels, tuple(entry['full'])

    def _announce(self, file: Path, sizes: list[tuple[int, int]]) -> int:
        """Log the size of the file to be written, and return it in bytes.

        Raises:
            InputError: the size is above the limit.
        """
        total = sum(height * width * 3 for height, width in sizes)
        what = f'{len(sizes)} images take {total / _GIB:.3g} GiB'
        if total > self.max_gib * _GIB:
            raise InputError(
                f'image cache {self.folder}: {what}, max_gib is {self.max_gib:g}; raise it, or leave out the cache'
            )
        print_log(f'Image cache: {what}; one process writes {file}', logger='current')
        return total


def _version(path: str) -> list[int] | None:
    """Size and times of a file, at least one of which changes with its content; None if there is no such file."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    # Copying a file can preserve its modification time, but not its status-change time (ctime).
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _complete(file: Path, index_file: Path) -> bool:
    """Whether a cache has been written completely."""
    if not file.is_file() or not index_file.is_file():
        return False
    return file.stat().st_size == sum(
        entry['shape'][0] * entry['shape'][1] * 3 for entry in read_json(index_file).values()
    )


def _write(file: Path, index_file: Path, versions: dict[str, Any], load: Callable[[str], Prepared]) -> None:
    """Write the pixels of all images, one after the other, and then the index."""
    index, offset = {}, 0
    with atomic_path(file) as temporary, open(temporary, 'wb') as stream:
        for path, version in versions.items():
            pixels, full = load(path)
            index[path] = dict(offset=offset, shape=pixels.shape[:2], full=full, version=version)
            # Write instead of mapping: on a full disk, writing to a map kills the process.
            stream.write(np.ascontiguousarray(pixels).tobytes())
            offset += pixels.nbytes
        stream.flush()
        os.fsync(stream.fileno())
    write_json(index, index_file)
