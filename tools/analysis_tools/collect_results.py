#!/usr/bin/env python
"""Print a table of test results.

Examples:
    python tools/analysis_tools/collect_results.py work_dirs/demo_shapes/test/*
    python tools/analysis_tools/collect_results.py work_dirs/*/test_* --out results.md
"""

import argparse
import os
from pathlib import Path

from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, read_json

_METRICS = {'coco/bbox_mAP': 'AP', 'coco/bbox_mAP_50': 'AP50'}


def table(folders: list[str]) -> str:
    """Markdown table with one row per folder that tools/test.py wrote.

    Raises:
        InputError: a folder has no ``metrics.json``, or one without AP.
    """
    rows = []
    for folder in folders:
        record = _record(Path(folder) / 'metrics.json')
        numbers = [_number(record, key) for key in _METRICS]
        rows.append([Path(folder).name, Path(record['ann_file']).name, _prompts(record), *numbers])
    return markdown.table(['run', 'annotations', 'prompts', *_METRICS.values()], rows, 'lllrr')


def _record(path: Path) -> dict:
    """Read ``metrics.json`` of tools/test.py, and check that it has everything that a row shows."""
    record = read_json(path)
    kinds = dict(metrics=dict, protocol=dict, ann_file=str)
    # Check the record.
    strange = [key for key in kinds if not isinstance(record, dict) or not isinstance(record.get(key), kinds[key])]
    if strange:
        raise InputError(f'{path}: no {", ".join(strange)}, so not written by tools/test.py; run it again')
    # Check the metrics.
    for section in ('metrics', 'metrics_std') if 'runs' in record else ('metrics',):
        values = record.get(section)
        missing = [key for key in _METRICS if not isinstance(values, dict) or type(values.get(key)) not in (int, float)]
        if missing:
            raise InputError(f'{path}: no {", ".join(missing)} in {section}; run tools/test.py again')
    return record


def _prompts(record: dict) -> str:
    protocol = record['protocol']
    settings = {'num_exemplars': 'N={}', 'seed': 'seed {}'}
    words = [text.format(protocol[key]) for key, text in settings.items() if key in protocol]
    if words and isinstance(record.get('runs'), list):
        words[-1] = f'{len(record["runs"])} seeds'
    return ', '.join([str(protocol.get('protocol', '-')), *words])


def _number(record: dict, key: str) -> str:
    spread = f' ± {record["metrics_std"][key]:.3f}' if 'runs' in record else ''
    return f'{record["metrics"][key]:.3f}{spread}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folders', nargs='+', help='folders that tools/test.py wrote metrics.json to')
    parser.add_argument('--out', metavar='FILE.md', help='also write the table to a file')
    args = parser.parse_args()
    text = table(args.folders)
    if args.out:
        with atomic_path(args.out) as temporary:
            temporary.write_text(text + os.linesep)
    print(text)


if __name__ == '__main__':
    run_command(main)
