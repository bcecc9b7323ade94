"""How the command-line tools end: bad input is one line, anything else is a traceback."""

import difflib
import re
import sys
from collections.abc import Callable

from dinor1.errors import InputError

_UNKNOWN_TYPE = re.compile(r'(\S+) is not in the (\S+?)(?:::(.+?))? registry')
_UNKNOWN_ARGUMENT = re.compile(r"(?:class `(\w+)`.*)?unexpected keyword argument '(\w+)'")


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's ``main``; report bad input as ``error: ...`` on one line and exit with status 2."""
    try:
        main()
    except InputError as error:
        # A worker process of a data loader reports its whole traceback; the message is its last line.
        line = str(error).strip().splitlines()[-1]
        _fail(line.split('InputError: ')[-1])
    except (KeyError, TypeError) as error:
        message = _config_slip(str(error))
        if message is None:
            raise
        _fail(message)


def _fail(message: str) -> None:
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


def _config_slip(text: str) -> str | None:
    """MMEngine's long message about a misspelt ``type`` or argument, as one line with the nearest name."""
    found = _UNKNOWN_TYPE.search(text)
    if found:
        name = found[1].strip('"\'')
        return f'config: unknown type {name!r}{_nearest_type(name)}'
    found = _UNKNOWN_ARGUMENT.search(text)
    if found:
        return f'config: {found[1] or "a component"} takes no argument {found[2]!r}; check the spelling'
    return None


def _nearest_type(name: str) -> str:
    from mmengine.registry import Registry

    from dinor1 import registry

    names: set[str] = set()
    for candidate in vars(registry).values():
        while isinstance(candidate, Registry):
            names.update(candidate.module_dict)
            candidate = candidate.parent
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f'; did you mean {close[0]!r}?' if close else '; check the spelling'
