"""Read and write files, with atomic writes and one-line errors."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dinor1.utils.errors import InputError

# Numbers of errors that occur while writing to an open file; these errors do not contain the name of the file.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_RUST_ERROR = re.compile(r'\(os error (\d+)\)')


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, delete it on failure.

    The temporary name keeps the suffix, because image writers choose the format by it, and begins with a dot (see
    :func:`visible`).

    Args:
        path: The file.
        durable: Wait until file and name are on the disk, so that a power failure loses neither the old nor the new
            content.

    Raises:
        OSError: the file cannot be written; the error names ``path`` instead of the temporary file.
    """
    path = Path(path)
    temporary = path.parent / f'.{path.stem}-{secrets.token_hex(6)}{path.suffix}'
    with _errors_name(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Create the file with default permissions, unlike tempfile does.
        temporary.touch(exist_ok=False)
        try:
            mode = temporary.stat().st_mode & 0o777
            yield temporary
            # Restore the permissions: writers such as safetensors replace the file.
            temporary.chmod(mode)
            if durable:
                _flush(temporary)
            temporary.replace(path)
            if durable and os.name == 'posix':
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Write a file, or the names in a folder, from the memory of the operating system to the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _errors_name(path: Path, temporary: Path) -> Iterator[None]:
    """Let errors of Python and of libraries about the file being written name ``path``, not the temporary file."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            ours, number = error.errno in DISK_ERRORS, error.errno
        else:
            folders = [str(folder) for folder in path.parents]
            ours = str(error.filename) in (str(path), str(temporary), *folders)
            # mkdir reports "exists" if a file has the name of the folder.
            is_no_folder = error.errno == errno.EEXIST and str(error.filename) in folders
            number = errno.ENOTDIR if is_no_folder else error.errno
        if not ours:
            raise
        raise OSError(number, os.strerror(number or 0), str(path)) from None
    except Exception as error:
        # Find the error number in the message of a library written in Rust, such as safetensors.
        found = _RUST_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def write_image(image: Any, path: str | os.PathLike) -> None:
    """Write a BGR image (H, W, 3) of uint8 atomically, in the format of the suffix.

    Raises:
        InputError: OpenCV cannot encode it in this format.
        OSError: the file cannot be written.
    """
    import cv2  # Imported here, because tools for annotation files do not need it.

    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix, image)
    except cv2.error:  # an unknown suffix
        done = False
    if not done:
        raise InputError(f'{path}: the image cannot be encoded; give a name that ends in .png')
    # Write the bytes here: OpenCV's writer raises no error if the disk is full.
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def check_output(path: str | os.PathLike, option: str = '') -> None:
    """Check, before a long computation, that its output file can be written; nothing is created.

    Args:
        path: The file.
        option: Name of the user's option, such as ``--out``, for messages.

    Raises:
        InputError: the path is a folder, or the parent folder is not writable and cannot be created.
    """
    # Check the path itself.
    path, where = Path(path), f'{option} {path}'.strip()
    if path.is_dir():
        raise InputError(f'{where}: is a folder; give the name of a file')
    # Check the nearest folder that exists.
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f'{where}: {folder} is not a folder; give another path')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f'{where}: {folder} may not be written to; change its permissions, or give another path')


def check_utf8(path: str | os.PathLike, option: str = '') -> None:
    """Check that a path is valid UTF-8, which some libraries need; a path on Linux may have any bytes.

    Args:
        path: The path.
        option: Name of the user's option, for messages.

    Raises:
        InputError: the path is not valid UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(f'{option} {path}: the path is not valid UTF-8; give another name'.strip()) from None


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def visible(folder: str | os.PathLike, pattern: str) -> list[Path]:
    """Sorted files in ``folder`` that match ``pattern``, without the temporary files of :func:`atomic_path`."""
    return sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith('.'))


@contextlib.contextmanager
def locked(folder: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Lock ``folder``, which is created if necessary. The operating system releases the lock when the process ends.

    Args:
        folder: The folder.
        wait: Whether to wait while the folder is locked.

    Raises:
        InputError: the folder is locked, by another process or within this one, and ``wait`` is False.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / '.lock').acquire(blocking=wait)
    except Timeout:
        raise InputError(f'{folder}: another process works in this folder; wait for it, or end it') from None
    with lock:
        yield


@contextlib.contextmanager
def lock_file(path: str | os.PathLike, timeout: float = 60) -> Iterator[None]:
    """Wait until no other process holds the lock of the file ``path``, and hold the lock.

    The lock is the file ``.NAME.lock`` in the same folder, because ``path`` itself is replaced when it is written.

    Args:
        path: The file, which need not exist; its folder is created if necessary.
        timeout: Seconds to wait.

    Raises:
        InputError: the lock is not free after ``timeout`` seconds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_name(f'.{path.name}.lock')).acquire(timeout=timeout)
    except Timeout:
        raise InputError(
            f'{path}: another process has held its lock for {timeout:g} s; wait for it, or end it'
        ) from None
    with lock:
        yield


def write_json(obj: Any, path: str | os.PathLike, durable: bool = False, **kwargs: Any) -> None:
    """Write ``obj`` as JSON to ``path`` atomically; ``kwargs`` go to :func:`json.dumps`.

    Numbers that are not finite become ``null``, because JSON cannot represent them. ``durable``: see
    :func:`atomic_path`.
    """
    text = dump_json(obj, **kwargs)
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text + '\n')


def dump_json(obj: Any, **kwargs: Any) -> str:
    """Return ``obj`` as JSON, with ``null`` for numbers that are not finite; ``kwargs`` go to :func:`json.dumps`."""
    return json.dumps(_finite(obj), allow_nan=False, **kwargs)


def _finite(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: _finite(value) for key, value in obj.items()}
    return [_finite(value) for value in obj] if isinstance(obj, list | tuple) else obj


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON; the message contains line and column of the error.
    """
    try:
        content, problem = parse_json(read_text(path))
    except UnicodeDecodeError as error:
        content, problem = None, not_utf8(error)
    if problem:
        raise InputError(f'{path}: {problem}; restore or regenerate the file')
    return content


def read_text(path: str | os.PathLike) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: the file does not exist or cannot be read.
        UnicodeDecodeError: the file is not UTF-8; see :func:`not_utf8`.
    """
    try:
        return Path(path).read_bytes().decode('utf-8-sig')
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; check the path') from None
    except IsADirectoryError:
        raise InputError(f'{path}: a folder where a file is expected; give a file') from None
    except PermissionError:
        raise InputError(f'{path}: may not be read; change its permissions') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror}); check the path') from None


def parse_json(text: str, first_line: int = 1) -> tuple[Any, str]:
    """Parse JSON; returns the content, and an error message with line and column (empty if valid).

    Args:
        text: Text to parse.
        first_line: Number of its first line in the file, for the message.
    """
    try:
        return json.loads(text), ''
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        return None, f'not valid JSON at line {line}, column {error.colno} ({error.msg})'
    except RecursionError:
        return None, f'not valid JSON at line {first_line}, column 1 (nested too deeply)'


def not_utf8(error: UnicodeDecodeError) -> str:
    """Error message for a file that is not UTF-8, in the form of :func:`parse_json`."""
    line = error.object.count(b'\n', 0, error.start) + 1
    column = error.start - error.object.rfind(b'\n', 0, error.start)
    return f'not valid JSON at line {line}, column {column} (not UTF-8)'
