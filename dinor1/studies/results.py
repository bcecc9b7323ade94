"""Read and write the table of a study: a file of JSON lines with a row per run.

A row is one line: a JSON object with sorted keys (``arm``, ``seed``, ``config``, ``config_hash``, ``options``,
``start``, ``command``, ``metrics``, ``environment``, times, and other results that the study keeps). Rows are sorted by
arm and seed, so that a new run changes no other line. Lists of records are written as columns
(:mod:`dinor1.studies.columns`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, dump_json, lock_file, not_utf8, parse_json, read_text

from .columns import from_columns, to_columns


class RowKey(NamedTuple):
    """Key of a row, unique in a table.

    Attributes:
        arm: Name of the arm.
        seed: Seed of the run; None for a measurement without a seed.
        config_hash: See :func:`config_hash`; None for a measurement without a config.
    """

    arm: str
    seed: int | None = None
    config_hash: str | None = None

    def __str__(self) -> str:
        parts = [f'arm {self.arm!r}']
        parts += [] if self.seed is None else [f'seed {self.seed}']
        parts += [] if self.config_hash is None else [f'config hash {self.config_hash}']
        return ', '.join(parts)


def config_hash(config: str, options: Sequence[str], start: Mapping[str, Any] | None) -> str:
    """Hash of the settings of a run.

    The hash covers the name of the config and not its content, which depends on the machine (paths of data sets come
    from the environment).

    Args:
        config: Path of the config file.
        options: ``--cfg-options``, in their order.
        start: Arm, checkpoint and ``resume`` of the run to continue; None for a run from scratch.

    Returns:
        The first 12 hexadecimal digits of SHA-256.
    """
    text = json.dumps([config, list(options), None if start is None else dict(start)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def row_key(row: Mapping[str, Any]) -> RowKey:
    """The key of a row."""
    return RowKey(row['arm'], row.get('seed'), row.get('config_hash'))


def read_rows(table: str | Path) -> list[dict[str, Any]]:
    """Read the rows of a table, in the order of the file.

    Raises:
        InputError: the file is missing, a line is not a row, or two rows have the same key.
    """
    # Read the lines.
    try:
        lines = read_text(table).splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f'{table}: {not_utf8(error)}; restore the file') from None
    rows: dict[RowKey, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # Parse the row.
        row, problem = parse_json(line, number)
        if problem:
            raise InputError(f'{table}: {problem}; restore the file')
        if not isinstance(row, dict) or not isinstance(row.get('arm'), str):
            raise InputError(f'{table}: line {number} is no row with an arm; restore the file')
        try:
            row = from_columns(row)
        except (ValueError, AttributeError, TypeError):
            raise InputError(f'{table}: line {number} has columns that do not fit together; restore the file') from None
        # Check the key.
        key = row_key(row)
        if key in rows:
            raise InputError(f'{table}: line {number} is a second row of {key}; delete one of them')
        rows[key] = row
    return list(rows.values())


def add_rows(table: str | Path, rows: Iterable[Mapping[str, Any]]) -> list[RowKey]:
    """Add rows to a table, all of them or none, without replacing a row.

    Several processes may add to the same table at the same time: they wait for each other.

    Args:
        table: The file; it is created if necessary.
        rows: The rows. A row that is already in the table, with the same content, is left out.

    Returns:
        The keys of the rows that were added, in the order of the table.

    Raises:
        InputError: the table has a row with the same key and different content, or is broken.
        OSError: the file cannot be written.
    """
    table = Path(table)
    with lock_file(table):
        # Find the rows that are new.
        old = {row_key(row): _line(row) for row in (read_rows(table) if table.is_file() else [])}
        new: dict[RowKey, str] = {}
        for row in rows:
            # Compare as text, in which numbers that JSON cannot represent are null.
            key, line = row_key(row), _line(row)
            if old.get(key, new.get(key, line)) != line:
                raise InputError(f'{table}: has another row of {key}; delete that row to replace it')
            if key not in old:
                new[key] = line
        # Write old and new rows.
        if new:
            lines = old | new
            with atomic_path(table) as temporary:
                temporary.write_text(''.join(f'{lines[key]}\n' for key in sorted(lines, key=_order)), encoding='utf-8')
    return sorted(new, key=_order)


def _line(row: Mapping[str, Any]) -> str:
    return dump_json(to_columns(dict(row)), sort_keys=True, separators=(',', ':'), ensure_ascii=False)


def _order(key: RowKey) -> tuple:
    # Sort None before numbers and texts.
    return key.arm, -1 if key.seed is None else key.seed, key.config_hash or ''
