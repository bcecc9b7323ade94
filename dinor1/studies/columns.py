"""Write lists of similar records, such as curves or repeated measurements, as columns, so that a key appears once."""

import itertools
from typing import Any

_MARK = '$columns'


def to_columns(value: Any) -> Any:
    """Replace every list of dicts, at any depth, by columns, without loss.

    Consecutive dicts with the same keys share columns: ``[{'x': 1}, {'x': 2}, {'y': 3}]`` becomes
    ``{'$columns': [{'x': [1, 2]}, {'y': [3]}]}``.

    Args:
        value: A value that JSON can represent.

    Returns:
        The value with columns. :func:`from_columns` is the inverse.

    Raises:
        ValueError: a dict has the key ``$columns``, which is reserved.
    """
    # Convert the entries of a dict.
    if isinstance(value, dict):
        if _MARK in value:
            raise ValueError(f'to_columns: the key {_MARK!r} is reserved')
        return {key: to_columns(entry) for key, entry in value.items()}
    if not isinstance(value, list):
        return value
    # Convert the entries of a list that cannot become columns; an empty dict would leave no trace in them.
    if not value or not all(isinstance(entry, dict) and entry for entry in value):
        return [to_columns(entry) for entry in value]
    # Turn each group of dicts with the same keys into columns.
    groups = [list(group) for _, group in itertools.groupby(value, key=sorted)]
    if any(_MARK in group[0] for group in groups):
        raise ValueError(f'to_columns: the key {_MARK!r} is reserved')
    return {_MARK: [{key: to_columns([entry[key] for entry in group]) for key in group[0]} for group in groups]}


def from_columns(value: Any) -> Any:
    """Inverse of :func:`to_columns`.

    Raises:
        ValueError: columns that belong together differ in length.
    """
    # Convert the entries of lists and dicts.
    if isinstance(value, list):
        return [from_columns(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {_MARK}:
        return {key: from_columns(entry) for key, entry in value.items()}
    # Turn columns into rows.
    rows: list[dict[str, Any]] = []
    for group in value[_MARK]:
        columns = {key: from_columns(column) for key, column in group.items()}
        rows += [dict(zip(columns, entries, strict=True)) for entries in zip(*columns.values(), strict=True)]
    return rows
