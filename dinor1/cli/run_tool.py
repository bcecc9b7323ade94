"""Run a command-line tool: bad input and mistakes in a config are one line, anything else is a traceback."""

import difflib
import re
import warnings
from collections.abc import Callable

import cv2

from dinor1.cli.exit_status import fail, one_line_errors

_UNKNOWN_TYPE = re.compile(r'(\S+) is not in the (\S+?)(?:::(.+?))? registry')
_UNKNOWN_ARGUMENT = re.compile(r"(?:(\w+)(?:\.\w+)?\(\) got an )?unexpected keyword argument '(\w+)'")


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's ``main`` within :func:`~dinor1.cli.exit_status.one_line_errors`, also for mistakes in a config."""
    # A warning of MMDetection, which a user cannot avoid.
    warnings.filterwarnings('ignore', message='torch.meshgrid')
    # OpenCV prints messages about damaged images; our error names the file.
    cv2.setLogLevel(0)
    with one_line_errors():
        try:
            main()
        except (KeyError, TypeError) as error:
            message = _config_mistake(str(error))
            if message is None:
                raise
            fail(message)


def _config_mistake(text: str) -> str | None:
    """MMEngine's long message about a misspelt ``type`` or argument, as one line with the nearest name."""
    found = _UNKNOWN_TYPE.search(text)
    if found:
        name = found[1].strip('"\'')
        return f'config: unknown type {name!r}{_remedy(name, found[3] or found[2])}'
    if text == 'None is not a callable object':  # MMEngine's message for an unknown optimizer
        return 'config: optim_wrapper.optimizer.type is not a known optimizer; check the spelling'
    found = _UNKNOWN_ARGUMENT.search(text)
    if found:
        return f'config: {found[1] or "a component"} takes no argument {found[2]!r}; check the spelling'
    return None


def _remedy(name: str, wanted: str) -> str:
    """Advice for a type that is not among those of kind ``wanted``, such as ``model``."""
    from mmengine.registry import Registry

    from dinor1 import registry

    kinds: dict[str, set[str]] = {}
    for candidate in vars(registry).values():
        while isinstance(candidate, Registry):
            for known in candidate.module_dict:
                kinds.setdefault(known, set()).add(candidate.name)
            candidate = candidate.parent
    if wanted in kinds.get(name, ()):
        # The type exists, but was searched in another scope.
        return " in this scope; the config needs default_scope = 'dinor1'"
    if name in kinds:
        return f' of {wanted}; it is a type of {" and ".join(sorted(kinds[name]))}'
    close = difflib.get_close_matches(name, kinds, n=1, cutoff=0.6)
    return f'; did you mean {close[0]!r}?' if close else '; check the spelling'
