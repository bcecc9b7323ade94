"""Errors of the command line: user errors print one line and end with status 2, anything else prints a traceback.

This module imports no deep-learning library, so that the commands for annotation files start immediately.
"""

import contextlib
import difflib
import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import cv2

from dinor1.utils.errors import InputError
from dinor1.utils.io import DISK_ERRORS

_NO_SPACE = 'free disk space, or give another path'
_PERMISSION = 'change its permissions, or give another path'
_OPENMMLAB = ('mmengine', 'mmcv', 'mmdet')
# Error number of a file or disk error -> advice. Other system errors, such as network errors, print a traceback.
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


def run_command(main: Callable[[], None]) -> None:
    """Run the main function of a command within :func:`one_line_errors`."""
    # A command must not fail at its end because the terminal cannot show a character.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    # Silence OpenCV's messages about damaged images: our error names the file.
    cv2.setLogLevel(0)
    # Silence a warning of MMDetection that a user cannot avoid.
    warnings.filterwarnings('ignore', message='torch.meshgrid')
    with one_line_errors():
        main()


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn user errors into a line ``error: ...`` and status 2, and an interruption into status 130.

    User errors are bad input (:class:`~dinor1.utils.errors.InputError`), file errors, texts that are not Unicode,
    optional packages that are not installed, and components of a config that do not exist or do not take their
    arguments.
    """
    try:
        yield
    except InputError as error:
        # A worker process of a data loader reports its whole traceback; the message is its last line.
        lines = str(error).strip().splitlines() or ['bad input']
        fail(lines[-1].split('InputError: ')[-1])
    except BrokenPipeError:
        # The program that reads the output, such as head, has ended. Discard the rest, or Python prints an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        # Without a file name it may be a socket error, unless the error number is that of a disk error.
        if error.errno not in _ADVICE or (error.filename is None and error.errno not in DISK_ERRORS):
            raise
        where = '' if error.filename is None else f'{error.filename}: '
        fail(f'{where}{error.strerror}; {_ADVICE[error.errno]}')
    except ImportError as error:
        # MMEngine and MMDetection say how to install an optional package.
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get('__name__', '').split('.')[0] not in _OPENMMLAB or not str(error).strip():
            raise
        fail(' '.join(str(error).split()))
    except UnicodeEncodeError as error:
        # A path or name contains half of a UTF-16 surrogate pair, which is not valid Unicode.
        if error.reason != 'surrogates not allowed':
            raise
        fail(f'{error.object!r} is not valid Unicode; rename it')
    except (KeyError, TypeError) as error:
        message = _component_error(error)
        if message is None:
            raise
        fail(message)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)


def fail(message: str) -> NoReturn:
    """Print an error line and exit with status 2."""
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


def _component_error(error: Exception) -> str | None:
    """Describe an error in the component of a config that MMEngine was building; None for any other error."""
    # Find the call of MMEngine's build function in the traceback.
    functions = sys.modules.get('mmengine.registry.build_functions')
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    building = [frame for frame in frames if functions and frame.f_code is functions.build_from_cfg.__code__]
    if not building:
        return None
    values = building[-1].f_locals
    component = values.get('obj_cls')
    # Describe an unknown type.
    if isinstance(error, KeyError) and 'obj_type' in values and component is None:
        return (
            f'config: unknown type {values["obj_type"]!r}{_similar_type(values["obj_type"], values["registry"].name)}'
        )
    # Describe a wrong argument: the error comes from the call itself, or from constructors that pass arguments on.
    inner = frames[frames.index(building[-1]) + 1 :]
    if isinstance(error, TypeError) and component and all(frame.f_code.co_name == '__init__' for frame in inner):
        return f'config: {_wrong_argument(component, values["args"]) or error}; check the spelling'
    return None


def _wrong_argument(component: Any, given: Mapping[str, Any]) -> str:
    """Name an argument that a component does not take; empty if it takes them all."""
    from dinor1.utils.component_check import arguments

    known, name = arguments(component), getattr(component, '__name__', str(component))
    wrong = [argument for argument in given if argument not in known]
    return f'{name} takes no argument {wrong[0]!r}' if wrong else ''


def _similar_type(name: str, wanted: str) -> str:
    """Advice for a type that is not in the registry ``wanted``, such as ``model``."""
    from mmengine.registry import Registry

    from dinor1 import registry

    # List the registries of each known type.
    kinds: dict[str, set[str]] = {}
    for candidate in vars(registry).values():
        while isinstance(candidate, Registry):
            for known in candidate.module_dict:
                kinds.setdefault(known, set()).add(candidate.name)
            candidate = candidate.parent
    # Give advice: a scope, a registry, or a similar name.
    if wanted in kinds.get(name, ()):
        return " in this scope; the config needs default_scope = 'dinor1'"
    if name in kinds:
        return f' of {wanted}; it is a type of {" and ".join(sorted(kinds[name]))}'
    close = difflib.get_close_matches(name, kinds, n=1, cutoff=0.6)
    return f'; did you mean {close[0]!r}?' if close else '; check the spelling'
