"""Dataclasses of settings; in a config they are dicts of the fields that differ from a default."""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from dinor1.utils.errors import InputError

Settings = TypeVar('Settings', bound=Any)


def with_defaults(given: Settings | Mapping[str, Any] | None, default: Settings, name: str) -> Settings:
    """Turn an argument into a dataclass of settings.

    Args:
        given: A dataclass of the type of ``default``, which is returned; a mapping, which replaces fields of
            ``default``; or None for ``default`` itself.
        default: A dataclass.
        name: Name of the argument, for messages.

    Returns:
        A dataclass of the type of ``default``.

    Raises:
        InputError: a key of the mapping is not a field, or ``given`` has another type.
        ValueError: the dataclass rejects a value.
    """
    # Return a dataclass as it is.
    if given is None or isinstance(given, type(default)):
        return default if given is None else given
    if not isinstance(given, Mapping):
        raise InputError(
            f'{name} must be a dict, a {type(default).__name__} or None, got {type(given).__name__} {given!r}'
        )
    # Check the keys, and replace the fields.
    known = [field.name for field in fields(default)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f'did you mean {near[0]!r}?' if near else f'known keys are {", ".join(known)}'
            raise InputError(f'{name}: unknown key {key!r}; {hint}')
    return replace(default, **given)
