#!/usr/bin/env python
"""Compare GRQO with supervised fine-tuning: run the grid of configs/studies/grqo.py, and write the page of results.

Finished runs are kept: start the same command again after an interruption.

Examples:
    python tools/analysis_tools/grqo_study.py
    python tools/analysis_tools/grqo_study.py --only SFT GRQO --seeds 0 1 2 --jobs 2
    python tools/analysis_tools/grqo_study.py --verify --only SFT --seeds 0
    python tools/analysis_tools/grqo_study.py --report
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SFT, GRQO = 'SFT', 'GRQO'
AP = {
    'base/generic16/AP': 'base AP',
    'base/generic16/AP50': 'base AP50',
    'novel/generic16/AP': 'novel AP',
    'novel/generic16/AP50': 'novel AP50',
}
PROTOCOLS = {'generic1': 'N = 1', 'generic4': 'N = 4', 'generic16': 'N = 16', 'interactive': 'interactive'}
PROMPTS = {
    'base/intra': 'intra, base',
    'base/inter_proto': 'inter, base',
    'novel/intra': 'intra, novel',
    'novel/inter_proto': 'inter, novel',
    'base/objectness_entropy': 'entropy, base',
    'novel/objectness_entropy': 'entropy, novel',
    'novel/absent_class_share': 'absent class, novel',
}
QUERIES = {
    'base/distinct_queries': 'matched over the layers',
    'base/ever_responding': 'responding in any layer',
    'base/responding_last': 'responding, last layer',
    'base/covering_last': 'covering, last layer',
    'base/spread_last': 'spread, last layer',
}
TERMS = ('class', 'box', 'encoder', 'denoising', 'alignment', 'advantage', 'kl')
COSTS = {
    'train_minutes': 'minutes of training',
    'cpu_minutes': 'CPU minutes',
    'seconds_per_iteration': 'seconds per iteration',
    'memory_mib': 'peak memory, MiB',
}
NOTHING = 'Not run yet.'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--study', default='configs/studies/grqo.py', help='study file (default: %(default)s)')
    parser.add_argument('--results', default='results', help='folder of the table STUDY.jsonl (default: results)')
    parser.add_argument('--work-dir', default='work_dirs/studies', help='folder for logs and checkpoints')
    parser.add_argument('--only', nargs='+', metavar='ARM', help='run these arms only, and those that they start from')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N', help='run these seeds only')
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel runs (default: 1)')
    parser.add_argument('--list', action='store_true', help='list finished and missing runs, and run nothing')
    parser.add_argument(
        '--verify', action='store_true', help='run again, into another table: the report compares the two tables'
    )
    parser.add_argument('--report', action='store_true', help='run nothing; write tables and figures to the page')
    parser.add_argument('--page', default='docs/research/grqo.md', help='page of the report (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from dinor1.studies.results import read_rows, row_key
    from dinor1.studies.run import run_all, select
    from dinor1.studies.study import load_study
    from dinor1.utils.errors import InputError

    # Read the study and select its runs.
    study = load_study(args.study)
    results, work_dir = Path(args.results) / f'{study.path.stem}.jsonl', Path(args.work_dir) / study.path.stem
    if args.verify:
        if not args.only or not args.seeds:
            raise InputError('--verify: give the runs to repeat by --only and --seeds')
        results, work_dir = _beside(results, 'verify'), work_dir / 'verify'
    runs = select(study, args.only, args.seeds)
    # Report, list or run them.
    if args.report:
        report(study, results, Path(args.page))
    elif args.list:
        finished = {row_key(row) for row in read_rows(results)} if results.is_file() else set()
        for run in runs:
            print(f'{"done   " if run.key in finished else "missing"} {run.name}')
    else:
        run_all(study, runs, results, work_dir, args.jobs, lambda line: print(line, flush=True))
        print(f'Results: {results}   The page: {Path(__file__).name} --report')


def _beside(results: Path, name: str) -> Path:
    """Path of the table of repeated runs, such as ``grqo_verify.jsonl`` beside ``grqo.jsonl``."""
    return results.with_stem(f'{results.stem}_{name}')


def report(study, results: Path, page: Path) -> None:
    """Write every generated part of the page, and its figures to the folder ``images``."""
    from dinor1.studies.study import check_marks, insert, read_runs

    # Separate the arms on generated images and on photographs.
    records = read_runs(study, results)
    shapes = {
        arm: _with_minutes(own) for arm, own in records.items() if ', bccd' not in arm and ', aquarium' not in arm
    }
    real = {arm: _with_minutes(own) for arm, own in records.items() if arm not in shapes}
    # List the parts of the page.
    images = page.parent / 'images'
    parts = {
        'state': lambda: state(study, records),
        'accuracy': lambda: accuracy(shapes),
        'differences': lambda: with_figure(differences(shapes), draw_differences(shapes, images), page),
        'null': lambda: null(shapes),
        'protocols': lambda: protocols(shapes),
        'prompts': lambda: versus(shapes, PROMPTS),
        'queries': lambda: with_figure(versus(shapes, QUERIES), draw_query_figure(shapes, images), page),
        'gradients': lambda: with_figure(gradients(shapes), draw_gradients(shapes, images), page),
        'training': lambda: with_figure(
            '' if any(shapes.values()) else NOTHING, draw_training(shapes, study.curves, images), page
        ),
        'real': lambda: real_data(real),
        'costs': lambda: costs(shapes | real),
        'verify': lambda: verification(records, read_runs(study, _beside(results, 'verify'))),
        'rounding': lambda: rounding(records, read_runs(study, _beside(results, 'rounding'))),
    }
    # Check the page before figures are drawn, and write the parts.
    check_marks(page, [f'grqo-{name}' for name in parts])
    for name, text in {name: make() for name, make in parts.items()}.items():
        insert(page, f'grqo-{name}', text)
    print(f'{sum(map(len, records.values()))} of {len(study.runs)} runs: {page}')


def state(study, records) -> str:
    """Number of finished runs per arm, and the machines of the runs."""
    from dinor1.utils.markdown import table

    # Count the planned and the finished runs.
    planned = {arm: [run.seed for run in study.runs if run.arm == arm] for arm in records}
    rows = [[arm, str(len(planned[arm])), str(len(own))] for arm, own in records.items()]
    done = sum(map(len, records.values()))
    # Name the machines.
    machines = sorted({_machine(record) for own in records.values() for record in own})
    lines = [f'{done} of {len(study.runs)} runs are finished.', table(['arm', 'seeds planned', 'finished'], rows)]
    return '\n\n'.join(lines + [f'Made on: {machine}.' for machine in machines])


def _machine(record: dict[str, Any]) -> str:
    environment = record['environment']
    return (
        f'{environment.get("processor", environment["machine"])}, {environment["device"]}, torch {environment["torch"]}'
    )


def accuracy(records) -> str:
    """Table of the AP of every arm."""
    from dinor1.studies.report import means

    return means(records, AP) if any(records.values()) else NOTHING


def differences(records) -> str:
    """Tables of the differences of every arm to SFT and to default GRQO."""
    from dinor1.studies.report import paired

    tables = [paired(_comparable(records, base), base, AP) for base in (SFT, GRQO) if _comparable(records, base)]
    return '\n\n'.join(tables) or NOTHING


def null(records) -> str:
    """Difference between two arms whose gradients differ only by rounding: the size of random differences."""
    from dinor1.studies.report import paired

    pair = {arm: records.get(arm, []) for arm in ('KL alone', 'without mute')}
    return paired(pair, 'KL alone', AP) if all(pair.values()) else NOTHING


def _comparable(records, baseline: str) -> dict[str, Any]:
    """Records of the baseline and of the arms that share a seed with it; empty if there is no such arm."""
    seeds = {record['seed'] for record in records.get(baseline, [])}
    arms = {arm: own for arm, own in records.items() if seeds & {record['seed'] for record in own}}
    return arms if len(arms) > 1 else {}


def draw_differences(records, images: Path) -> Path | None:
    """Draw the differences to SFT with their intervals; None without results."""
    from dinor1.studies import report as study_report
    from dinor1.visualization import draw_intervals

    metrics = {name: head for name, head in AP.items() if name.endswith('/AP')}
    arms = _comparable(records, SFT)
    if not arms:
        return None
    found = study_report.differences(arms, SFT, metrics)
    panels = {f'{metrics[m]}, less SFT': {a: (d.mean, d.half_width) for a, d in found[m].items()} for m in metrics}
    path = images / 'grqo_differences.png'
    draw_intervals(panels, path)
    return path


def protocols(records) -> str:
    """Table of SFT and GRQO under every protocol."""
    from dinor1.studies.paired import paired_difference
    from dinor1.studies.report import by_seed, interval, mean_with_interval
    from dinor1.utils.markdown import table

    ours, theirs = records.get(GRQO, []), records.get(SFT, [])
    if not ours and not theirs:
        return NOTHING
    rows = []
    for name in ('base', 'novel'):
        for kind, head in PROTOCOLS.items():
            # Compare the arms, and compute the deviation over prompt seeds.
            metric = f'{name}/{kind}/AP'
            difference = paired_difference(by_seed(ours, metric), by_seed(theirs, metric))
            spread = (
                statistics.fmean(by_seed(theirs, f'{metric}_std').values()) if by_seed(theirs, metric) else math.nan
            )
            means = [mean_with_interval(own, metric) for own in (theirs, ours)]
            rows.append([f'{name}, {head}', *means, interval(difference), f'{spread:.4f}'])
    return table(['AP', SFT, GRQO, 'GRQO less SFT', 'deviation over prompt seeds (SFT)'], rows)


def versus(records, metrics: dict[str, str]) -> str:
    """Tables of the means of all arms, and of their differences to SFT."""
    from dinor1.studies.report import means, paired

    if not any(records.values()):
        return NOTHING
    tables = [means(records, metrics)]
    if arms := _comparable(records, SFT):
        tables.append(paired(arms, SFT, metrics))
    return '\n\n'.join(tables)


def draw_query_figure(records, images: Path) -> Path | None:
    """Draw the queries of SFT and GRQO, combined over the seeds; None without results."""
    from dinor1.visualization import draw_queries

    arms = {}
    for arm in (SFT, GRQO):
        found = [record['measures']['queries']['base'] for record in records.get(arm, []) if 'measures' in record]
        if found:
            arms[arm] = _sum_queries(found)
    if not arms:
        return None
    path = images / 'grqo_queries.png'
    draw_queries(arms, path)
    return path


def _sum_queries(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine the statistics of several seeds: add counts, and average means."""

    def average(key: str) -> list[float]:
        return [statistics.fmean(layer) for layer in zip(*(record[key] for record in found), strict=True)]

    places = [
        [sum(counts) for counts in zip(*layers, strict=True)]
        for layers in zip(*(record['matched_places'] for record in found), strict=True)
    ]
    objects = sum(record['objects'] for record in found)
    return dict(objects=objects, matched_places=places, covering=average('covering'), responding=average('responding'))


def gradients(records) -> str:
    """Tables of the gradients of all terms, rewards and advantages, averaged over the last third of training."""
    from dinor1.utils.markdown import table

    # Make the tables of norms, cosines and numbers of queries.
    tables = []
    for key, title, digits in (
        ('norm', 'Norm of the gradient', 3),
        ('cosine', 'Cosine to the gradient of the detection losses', 2),
        ('queries', 'Queries that it reaches', 1),
    ):
        rows = []
        for arm, own in records.items():
            measured = [point for record in own for point in _last_third(record.get('gradients', []))]
            if measured:
                rows.append([arm, *(_mean_of(measured, key, term, digits) for term in TERMS)])
        if rows:
            tables.append(f'{title}:\n\n{table(["arm", *TERMS], rows)}')
    # Make the table of rewards and advantages.
    rows = []
    for arm, own in records.items():
        figures = [point['figures'] for record in own for point in _last_third(record.get('gradients', []))]
        if figures:
            names = ('grqo_reward_std', 'grqo_advantage_matched', 'grqo_advantage_unmatched', 'grqo_advantage_kept')
            rows.append([arm, *(f'{statistics.fmean(f[name] for f in figures):.3f}' for name in names)])
    if rows:
        heads = ['arm', 'deviation of rewards', 'advantage, matched', 'unmatched', 'kept']
        tables.append(f'Rewards and advantages:\n\n{table(heads, rows)}')
    return '\n\n'.join(tables) or NOTHING


def _last_third(points: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    return [p for p in points if p['iter'] >= 2 / 3 * points[-1]['iter']]


def _mean_of(points: Sequence[dict[str, Any]], key: str, term: str, digits: int) -> str:
    values = [point[key][term] for point in points if term in point[key]]
    if not values:
        return '-'
    mean = statistics.fmean(values)
    # Write small numbers with an exponent, so that they do not appear as 0.000.
    return f'{mean:.{digits}f}' if mean == 0 or abs(mean) >= 10**-digits else f'{mean:.1e}'


def draw_gradients(records, images: Path) -> Path | None:
    """Draw the gradient norms of the main arms during training, averaged over seeds; None without results."""
    from dinor1.visualization import draw_curves

    panels, log = {}, []
    for arm in (SFT, GRQO, 'alpha 1', 'policy', 'prompt groups'):
        # Average the norms of each term over the seeds.
        lines = {}
        for term in TERMS:
            points: dict[int, list[float]] = {}
            for record in records.get(arm, []):
                for point in record.get('gradients', []):
                    if term in point['norm']:
                        points.setdefault(point['iter'], []).append(point['norm'][term])
            if points:
                x = sorted(points)
                lines[term] = (x, [statistics.fmean(points[i]) for i in x])
        # Add a panel for the arm.
        if lines:
            panels[f'{arm}: norm of the gradient'] = lines
            log.append(f'{arm}: norm of the gradient')
    if not panels:
        return None
    path = images / 'grqo_gradients.png'
    draw_curves(panels, path, log=log)
    return path


def draw_training(records, curves: Sequence[str], images: Path) -> Path | None:
    """Draw the scalars ``curves`` of the training log, averaged over seeds: a panel per scalar, a line per arm."""
    from dinor1.visualization import draw_curves

    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for arm, own in records.items():
        for name in curves:
            # Average over the seeds.
            points: dict[int, list[float]] = {}
            for record in own:
                for i, value in record.get('curves', {}).get(name, []):
                    points.setdefault(i, []).append(value)
            if points:
                x = sorted(points)
                panels.setdefault(name, {})[arm] = (x, [statistics.fmean(points[i]) for i in x])
    if not panels:
        return None
    path = images / 'grqo_training.png'
    draw_curves(panels, path, log=['grqo_kl'])
    return path


def real_data(records) -> str:
    """Tables of both arms on photographs."""
    from dinor1.studies.report import means, paired

    metrics = {f'test/{kind}/{ap}': f'{head}, {ap}' for kind, head in PROTOCOLS.items() for ap in ('AP', 'AP50')}
    if not any(records.values()):
        return NOTHING
    tables = [means(records, metrics)]
    # Compare the arms on each data set.
    for data in dict.fromkeys(arm.split(', ')[1] for arm in records):
        arms = _comparable({arm: own for arm, own in records.items() if arm.endswith(data)}, f'{SFT}, {data}')
        if arms:
            tables.append(paired(arms, f'{SFT}, {data}', metrics))
    return '\n\n'.join(tables)


def _with_minutes(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        record | dict(train_minutes=record['train_seconds'] / 60, cpu_minutes=record['cpu_seconds'] / 60)
        for record in own
    ]


def costs(records) -> str:
    """Table of time and memory of every arm."""
    from dinor1.studies.report import means

    return means(records, COSTS, digits=2) if any(records.values()) else NOTHING


def verification(records, repeated) -> str:
    """Table of the largest difference of any metric in repeated runs."""
    from dinor1.utils.markdown import table

    rows = []
    for arm, own in repeated.items():
        for second in own:
            # Find the first run, and compare.
            first = next((record for record in records[arm] if record['seed'] == second['seed']), None)
            if first is None:
                continue
            numbers = [k for k in first['metrics'] if k in second['metrics'] and isinstance(first['metrics'][k], float)]
            largest = max(abs(first['metrics'][k] - second['metrics'][k]) for k in numbers)
            same = 'yes' if first['environment'] == second['environment'] else 'no'
            rows.append([f'{arm}, seed {second["seed"]}', str(len(numbers)), f'{largest:.2g}', same])
    heads = ['run', 'numbers', 'largest difference', 'same machine type and versions']
    return table(heads, rows) if rows else NOTHING


def rounding(records, others) -> str:
    """Table of differences in AP between runs that differ only by rounding."""
    from dinor1.utils.markdown import table

    rows = []
    for arm, own in records.items():
        for first in own:
            second = next((record for record in others.get(arm, []) if record['seed'] == first['seed']), None)
            if second is not None:
                changes = [f'{second["metrics"][k] - first["metrics"][k]:+.4f}' for k in AP]
                rows.append([f'{arm}, seed {first["seed"]}', *changes])
    return table(['run, less its twin', *AP.values()], rows) if rows else NOTHING


def with_figure(text: str, path: Path | None, page: Path) -> str:
    """Append the figure, if there is one, to a table."""
    return text if path is None else f'{text}\n\n![{path.stem}]({path.relative_to(page.parent)})'.strip()


if __name__ == '__main__':
    from dinor1.cli.exit_status import run_command

    run_command(main)
