"""Reading and writing files so that a failure leaves nothing half-written and says what was wrong."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dinor1.errors import InputError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` on success, delete it on failure.

    The temporary name keeps the suffix, because writers of pictures choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem}-', suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result file gets the permissions that any new file gets.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(obj: Any, path: str | os.PathLike, **kwargs: Any) -> None:
    """Write ``obj`` as JSON to ``path`` atomically; ``kwargs`` go to :func:`json.dumps`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(obj, **kwargs) + '\n')


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON; the message has the line and column of the defect.
    """
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        raise InputError(f'{path}: no such file; check the path') from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: cannot be read ({error})') from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f'{path}: not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); '
            'restore or regenerate the file'
        ) from None
