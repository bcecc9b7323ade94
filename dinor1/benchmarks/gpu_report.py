"""Make tables from the records of :mod:`dinor1.benchmarks.gpu_plan`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json
from dinor1.utils.markdown import table

# Metrics of a validation that are shown: end of the name -> heading.
_METRICS = {'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50'}


def read_records(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read the records of plans.

    Raises:
        InputError: a file is missing or is not a record.
    """
    records = []
    for path in paths:
        record = read_json(path)
        if not isinstance(record, dict) or not {'plan', 'dry_run', 'machine', 'parts'} <= set(record):
            raise InputError(f'{path}: not a record of tools/gpu_plan.sh; give check.json or train.json of its folder')
        records.append(record)
    return records


def report(records: Sequence[Mapping[str, Any]]) -> str:
    """Describe the machine and the parts that ran, with a table per part that has results, in Markdown."""
    text = []
    for record in records:
        # Describe the machine and list the parts.
        text.append(f'**{record["plan"]}**: {_machine(record)}')
        rows = [
            [name, row['status'], f'{row.get("seconds", 0):.0f}', f'{row["limit"]:.0f}', row.get('error', '')]
            for name, row in record['parts'].items()
        ]
        text.append(table(['part', 'status', 'seconds', 'limit', 'note'], rows))
        # Add the results of each part.
        for name, row in record['parts'].items():
            if row.get('result'):
                text.append(f'{name[0].upper()}{name[1:]}:')
                text += _tables(row['result'])
    return '\n\n'.join(text)


def _machine(record: Mapping[str, Any]) -> str:
    found = record['machine']
    names = ['cuda', 'driver', 'torch', 'triton', 'transformers', 'python']
    parts = [found.get('gpu') or found.get('processor', '')]
    parts += [f'{name} {found[name]}' for name in names if found.get(name)]
    parts += [found.get('date', '')[:10]]
    dry = ' A dry run at tiny sizes on a CPU: the numbers are meaningless.' if record['dry_run'] else ''
    return f'{", ".join(filter(None, parts))}.{dry}'


def _tables(result: Mapping[str, Any]) -> list[str]:
    """Tables of the result of a tool, which is recognised by its keys."""
    if 'checks' in result:
        return [_checks(result)]
    if 'curve' in result:
        return _training(result)
    if 'not_measured' in result:
        return _operator(result)
    return [_models(result)]


def _checks(result: Mapping[str, Any]) -> str:
    checks = result['checks']
    failed = [row for row in checks if not row['ok']]
    text = f'{len(checks) - len(failed)} of {len(checks)} checks passed, {result["planned"]} were planned.'
    lines = [f'- {row["check"]}: {row["largest"]}, limit {row["limit"]}. {row["error"]}' for row in failed]
    return '\n'.join([text, *([''] if lines else []), *(line.replace('\n', ' ') for line in lines)])


def _operator(result: Mapping[str, Any]) -> list[str]:
    # Make a row per measurement, or with the error of a failed one.
    rows = []
    for row in result['rows']:
        head = [row['workload'], row['dtype'], str(row['batch']), row['kind'], row['arm']]
        if 'error' in row:
            rows.append([*head, row['error'], '', ''])
            continue
        relative = '' if row['relative'] is None else f'{row["relative"]:.3f}'
        peak = f'{row["peak_mib"]:.0f}' if 'peak_mib' in row else ''
        rows.append([*head, f'{row["milliseconds"]:.3f}', relative, peak])
    # Add the table, and the implementations that were not measured.
    text = [table(['workload', 'dtype', 'batch', 'pass', 'implementation', 'ms', 'relative', 'peak MiB'], rows)]
    if result['not_measured']:
        reasons = '; '.join(f'{name} ({reason})' for name, reason in result['not_measured'].items())
        text.append(f'Not measured: {reasons}.')
    return text


def _models(result: Mapping[str, Any]) -> str:
    rows = []
    for row in result['rows']:
        head = [row['title'], row['precision'], 'compiled' if row['compiled'] else 'eager', str(result['batch'])]
        # A model that could not be measured has an error instead of times.
        if 'error' in row:
            rows.append([*head, row['error'], '', ''])
            continue
        times = row['milliseconds']
        peak = '' if row.get('peak_mib') is None else f'{row["peak_mib"]:.0f}'
        median = f'{times["median"]:.1f} ({times["low"]:.1f} to {times["high"]:.1f})'
        rows.append([*head, median, f'{row["relative"]:.3f}', peak])
    size = ' x '.join(map(str, result['size']))
    return table([f'model, {size}', 'precision', 'mode', 'batch', 'ms per image', 'relative', 'peak MiB'], rows)


def _training(result: Mapping[str, Any]) -> list[str]:
    # Summarise the log of the training.
    curve, last = result['curve'], result['curve'][-1]
    memory = f', {last["memory"]} MiB of GPU memory' if last.get('memory') else ''
    seconds = sorted(line['time'] for line in curve)[len(curve) // 2]
    text = [
        f'{last["iter"]} iterations, {seconds:.3f} s each (median of the log); loss {curve[0]["loss"]:.2f} at '
        f'iteration {curve[0]["iter"]}, {last["loss"]:.2f} at {last["iter"]}{memory}.'
    ]
    # Tabulate the metrics of the validations.
    rows = []
    for line in result['validations']:
        found = {key.split('/')[-1]: value for key, value in line.items()}
        rows.append([str(line.get('step', '')), *(f'{found[key]:.3f}' if key in found else '' for key in _METRICS)])
    return text + ([table(['after epoch', *_METRICS.values()], rows)] if rows else [])
