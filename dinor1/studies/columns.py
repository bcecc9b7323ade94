"""Lists of similar records as columns, so that each key is written once: curves and repeated measurements in a row."""

import itertools
from typing import Any

_MARK = '$columns'


def to_columns(value: Any) -> Any:
    """Replace every list of dicts, at any depth, by columns; nothing is lost.

    Neighbours with the same keys share a group: ``[{'x': 1}, {'x': 2}, {'y': 3}]`` becomes
    ``{'$columns': [{'x': [1, 2]}, {'y': [3]}]}``.

    Args:
        value: What JSON can represent.

    Returns:
        The same with columns. :func:`from_columns` is its inverse.

    Raises:
        ValueError: a dict has the key ``$columns``, which is reserved.
    """
    if isinstance(value, dict):
        if _MARK in value:
            raise ValueError(f'to_columns: the key {_MARK!r} is reserved')
        return {key: to_columns(entry) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    # An empty dict has no column that could count it.
    if not value or not all(isinstance(entry, dict) and entry for entry in value):
        return [to_columns(entry) for entry in value]
    groups = [list(group) for _, group in itertools.groupby(value, key=sorted)]
    if any(_MARK in group[0] for group in groups):
        raise ValueError(f'to_columns: the key {_MARK!r} is reserved')
    return {_MARK: [{key: to_columns([entry[key] for entry in group]) for key in group[0]} for group in groups]}


def from_columns(value: Any) -> Any:
    """Inverse of :func:`to_columns`.

    Raises:
        ValueError: the columns of a group differ in length.
    """
    if isinstance(value, list):
        return [from_columns(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {_MARK}:
        return {key: from_columns(entry) for key, entry in value.items()}
    rows: list[dict[str, Any]] = []
    for group in value[_MARK]:
        columns = {key: from_columns(column) for key, column in group.items()}
        rows += [dict(zip(columns, entries, strict=True)) for entries in zip(*columns.values(), strict=True)]
    return rows
