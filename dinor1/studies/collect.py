"""Collect finished runs from their work directories in the table of their study."""

from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json, visible

from .results import RowKey, add_rows, config_hash

RESULT_NAME = 'result.json'
# Fields of every row; other fields depend on the study.
_FIELDS = dict(
    arm=str, seed=int, config=str, config_hash=str, options=list, command=str, metrics=dict, environment=dict
)


def collect_runs(work_dir: str | Path, table: str | Path) -> list[RowKey]:
    """Add the finished runs of a work directory to a table, all of them or none.

    A finished run is a folder with a ``result.json``: ``work_dir`` itself, or folders directly in it. Runs that are
    already in the table are left out. Several processes may add to one table at the same time.

    Args:
        work_dir: Work directory of a run, or the parent of several work directories.
        table: The table, such as ``results/vit_norm.jsonl``; it is created if necessary.

    Returns:
        The keys of the rows that were added, in the order of the table.

    Raises:
        InputError: there is no finished run, a result is broken, or the table has another row of the same arm, seed and
            config hash.
        OSError: the table cannot be written.
    """
    paths = [*visible(work_dir, RESULT_NAME), *visible(work_dir, f'*/{RESULT_NAME}')]
    if not paths:
        raise InputError(f'{work_dir}: no finished run (a folder with {RESULT_NAME}); check the path')
    return add_rows(table, [read_result(path) for path in paths])


def read_result(path: str | Path) -> dict[str, Any]:
    """Read the result of a run.

    Raises:
        InputError: the file is missing or broken, or lacks a field that every row has.
    """
    row = read_json(path)
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(row, dict) or not isinstance(row.get(key), kind)]
    if wrong:
        raise InputError(f'{path}: no {", ".join(wrong)}, so not the result of a run; delete it, and run it again')
    if row['config_hash'] != config_hash(row['config'], row['options'], row.get('start')):
        raise InputError(f'{path}: config_hash is not that of config, options and start; delete it, and run it again')
    return row
