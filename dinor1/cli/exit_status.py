"""Errors of command-line tools: what a user can correct is one line and status 2, anything else is a traceback.

Needs no deep-learning library, so that the tools on annotation files start at once.
"""

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import NoReturn

from dinor1.utils.errors import InputError
from dinor1.utils.io import DISK_ERRORS

_NO_SPACE = 'make room, or give another path'
_PERMISSION = 'change its permissions, or give another path'
# Errors of a file or its disk, with the advice for each. Other system errors, such as those of a network, keep their
# traceback.
_ADVICE = {
    errno.ENOENT: 'check the path',
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: 'give a path that can be written to',
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EFBIG: _NO_SPACE,
    errno.EIO: 'check the disk, or give another path',
    errno.ENAMETOOLONG: 'give a shorter path',
} | dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP), 'give another path')


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn bad input and file errors into a line ``error: ...`` and status 2, an interruption into status 130."""
    try:
        yield
    except InputError as error:
        # A worker process of a data loader reports its whole traceback; the message is its last line.
        lines = str(error).strip().splitlines() or ['bad input']
        fail(lines[-1].split('InputError: ')[-1])
    except OSError as error:
        # Without a file's name it may be an error of a socket, unless its number is that of a disk error.
        if error.errno not in _ADVICE or (error.filename is None and error.errno not in DISK_ERRORS):
            raise
        where = '' if error.filename is None else f'{error.filename}: '
        fail(f'{where}{error.strerror}; {_ADVICE[error.errno]}')
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)


def fail(message: str) -> NoReturn:
    """Print an error line and exit with status 2."""
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)
