"""Class names as users write them: when two names mean one class, and which names are rejected."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from dinor1.utils.errors import InputError


def class_key(name: str) -> str:
    """Form of a name that is equal for all spellings of a class: ``'a'``, ``'A'`` and ``'a '``."""
    return unicodedata.normalize('NFC', ' '.join(name.split())).casefold()


def distinct_names(names: Iterable[str]) -> list[str]:
    """The classes of ``names``, without surrounding blanks; of several spellings of a class, the first is kept."""
    spellings: dict[str, str] = {}
    for name in names:
        spellings.setdefault(class_key(name), name.strip())
    return list(spellings.values())


def check_class_name(name: Any, where: str) -> str:
    """Return a class name without surrounding blanks.

    Args:
        name: The name.
        where: Origin of the name, for error messages.

    Raises:
        InputError: it is not a string, is empty, or has characters that are not valid Unicode.
    """
    if not isinstance(name, str):
        raise InputError(f'{where}: {name!r} is not a class name; give a text, such as {str(name)!r}')
    if not name.strip():
        raise InputError(f'{where}: {name!r} is an empty class name; name the class')
    try:
        name.encode()
    except UnicodeEncodeError:  # Python decodes arguments that are not UTF-8 to lone surrogates
        raise InputError(f'{where}: the class name {name!r} is not valid Unicode; write it in UTF-8') from None
    return name.strip()
