"""Reading and writing files so that a failure leaves nothing half-written and says what was wrong."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Noticed while writing to an open file, so that nothing says its name.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_RUST_ERROR = re.compile(r'\(os error (\d+)\)')


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, delete it on failure.

    The temporary name keeps the suffix, because writers of pictures choose the format by it, and begins with a dot
    (see :func:`visible`).

    Raises:
        OSError: it cannot be written; the error names ``path``, which is what the user knows.
    """
    path = Path(path)
    temporary = path.parent / f'.{path.stem}-{secrets.token_hex(6)}{path.suffix}'
    with _errors_name(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        # With the permissions that any new file gets, which tempfile would not give it.
        temporary.touch(exist_ok=False)
        try:
            mode = temporary.stat().st_mode & 0o777
            yield temporary
            # Writers that put a file of their own in its place, as safetensors, may have made it private.
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_name(path: Path, temporary: Path) -> Iterator[None]:
    """Errors of the system that concern the file being written name ``path``, whoever found them."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            ours, number = error.errno in DISK_ERRORS, error.errno
        else:
            folders = [str(folder) for folder in path.parents]
            ours = str(error.filename) in (str(path), str(temporary), *folders)
            # A file that stands where a folder should be "exists" for mkdir.
            is_no_folder = error.errno == errno.EEXIST and str(error.filename) in folders
            number = errno.ENOTDIR if is_no_folder else error.errno
        if not ours:
            raise
        raise OSError(number, os.strerror(number or 0), str(path)) from None
    except Exception as error:
        # Libraries in Rust, as safetensors, say it in words.
        found = _RUST_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def write_image(picture: Any, path: str | os.PathLike) -> None:
    """Write a BGR picture (H, W, 3) of uint8 atomically, in the format that the suffix says.

    Raises:
        InputError: OpenCV cannot encode it in this format.
        OSError: it could not be written.
    """
    import cv2  # Only here: the tools on annotation files start without it.

    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix, picture)
    except cv2.error:  # an unknown suffix
        done = False
    if not done:
        raise InputError(f'{path}: the picture cannot be encoded; give a name that ends in .png')
    # OpenCV's own writer tells a full disk by nothing but False.
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


def check_output(path: str | os.PathLike, option: str = '') -> None:
    """Refuse, before long work, a file that could not be written at its end. Nothing is made.

    Args:
        path: The file.
        option: That gave it, such as ``--out``, for the message.

    Raises:
        InputError: it is a folder, or its folder can neither be written to nor made.
    """
    path, where = Path(path), f'{option} {path}'.strip()
    if path.is_dir():
        raise InputError(f'{where}: is a folder; give the name of a file')
    folder = path.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f'{where}: {folder} is not a folder; give another path')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f'{where}: {folder} may not be written to; change its permissions, or give another path')


def visible(folder: str | os.PathLike, pattern: str) -> list[Path]:
    """Files that match, sorted, without those that are being written or were left by a killed process."""
    return sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith('.'))


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Hold ``folder`` for this process, where the system has locks that end with a process.

    Raises:
        InputError: another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / '.lock', 'w') as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f'{folder}: another process works in this folder; wait for it, or end it') from None
        yield


def write_json(obj: Any, path: str | os.PathLike, **kwargs: Any) -> None:
    """Write ``obj`` as JSON to ``path`` atomically; ``kwargs`` go to :func:`json.dumps`.

    Numbers that are not finite become ``null``: JSON has no others, and many programs refuse Python's ``NaN``.
    """
    text = json.dumps(_finite(obj), allow_nan=False, **kwargs)
    with atomic_path(path) as temporary:
        temporary.write_text(text + '\n')


def _finite(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: _finite(value) for key, value in obj.items()}
    return [_finite(value) for value in obj] if isinstance(obj, list | tuple) else obj


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON; the message has the line and column of the defect.
    """
    try:
        content, problem = parse_json(read_text(path))
    except UnicodeDecodeError as error:
        content, problem = None, not_utf8(error)
    if problem:
        raise InputError(f'{path}: {problem}; restore or regenerate the file')
    return content


def read_text(path: str | os.PathLike) -> str:
    """Text of a file in UTF-8, without the byte order mark that some programs write before it.

    Raises:
        InputError: it does not exist or cannot be read.
        UnicodeDecodeError: it is not UTF-8; see :func:`not_utf8`.
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
    """JSON content and what is wrong with it, with line and column; an empty text: nothing.

    Args:
        text: To parse.
        first_line: Number of its first line in the file.
    """
    try:
        return json.loads(text), ''
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        return None, f'not valid JSON at line {line}, column {error.colno} ({error.msg})'
    except RecursionError:
        return None, f'not valid JSON at line {first_line}, column 1 (nested too deeply)'


def not_utf8(error: UnicodeDecodeError) -> str:
    """What is wrong with a file that is not UTF-8, in the words of :func:`parse_json`."""
    line = error.object.count(b'\n', 0, error.start) + 1
    column = error.start - error.object.rfind(b'\n', 0, error.start)
    return f'not valid JSON at line {line}, column {column} (not UTF-8)'
