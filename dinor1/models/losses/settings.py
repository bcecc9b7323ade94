"""Checks of the settings of losses."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dinor1.utils.errors import InputError


class Range(NamedTuple):
    """Range of a setting.

    Attributes:
        text: The range in messages, such as ``>= 0``.
        contains: Whether a number is in the range.
    """

    text: str
    contains: Callable[[float], bool]


NOT_NEGATIVE = Range('>= 0', lambda value: 0 <= value < math.inf)
POSITIVE = Range('> 0', lambda value: 0 < value < math.inf)
AT_LEAST_1 = Range('>= 1', lambda value: value >= 1)
FRACTION = Range('in [0, 1]', lambda value: 0 <= value <= 1)
BELOW_1 = Range('in [0, 1)', lambda value: 0 <= value < 1)


def check_choice(loss: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Check a setting that has a few possible values.

    Args:
        loss: Name of the loss.
        name: Name of the setting.
        value: Its value.
        choices: The possible values.

    Raises:
        InputError: the value is none of them.
    """
    if value not in choices:
        raise InputError(f'{loss}: {name} must be one of {", ".join(choices)}; got {value!r}')


def check_ranges(loss: str, **settings: tuple[float, Range]) -> None:
    """Check several numbers.

    Args:
        loss: Name of the loss.
        **settings: Value and range of each setting, at least two settings.

    Raises:
        InputError: a value is out of its range, or NaN.
    """
    if not all(range_.contains(value) for value, range_ in settings.values()):
        expected = _enumerated([f'{name} {range_.text}' for name, (_, range_) in settings.items()])
        got = _enumerated([str(value) for value, _ in settings.values()])
        raise InputError(f'{loss}: expected {expected}; got {got}')


def _enumerated(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return f'{", ".join(items[:-1])} and {items[-1]}'
