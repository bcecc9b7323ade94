"""Results on ODinW: one file per run, and averages over the sets.

At least one published average does not match its rows. Here, an average belongs to one arm, one protocol and one split
policy. It is called ``ODinW-13`` or ``ODinW-35`` if all members were evaluated on their released files, and
``mean over 4 of 13`` otherwise.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.evaluation.odinw.benchmark import BENCHMARKS, members
from dinor1.evaluation.protocol_names import PROTOCOLS
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json, visible

METRICS = ('AP', 'AP50')

# Fields of a result file; ``member`` is null for a set that is not a member of ODinW, ``seed`` is null for text.
_FIELDS = [
    'arm',
    'seed',
    'config',
    'checkpoint',
    'command',
    'metrics',
    'environment',
    'set',
    'member',
    'layout',
    'deviation',
    'split',
    'split_policy',
    'num_images',
    'num_boxes',
    'protocol',
]
# Runs that differ in one of these belong to different tables.
_SHARED = ('arm', 'layout', 'split_policy', 'protocol')


class Row(NamedTuple):
    """Results on one set with one protocol.

    Attributes:
        name: The set's name in its layout.
        member: The set of ODinW that it represents, or ``None``.
        deviation: How its files differ from the released ones, or ``None``.
        split: The split that was evaluated.
        num_images: Number of images.
        num_boxes: Number of boxes.
        seeds: Seeds of the prompts, ascending; ``(None,)`` for text.
        values: Metric -> one value per seed, in [0, 1].
    """

    name: str
    member: str | None
    deviation: str | None
    split: str
    num_images: int
    num_boxes: int
    seeds: tuple[int | None, ...]
    values: dict[str, tuple[float, ...]]

    @property
    def means(self) -> dict[str, float]:
        """Metric -> mean over seeds."""
        return {metric: statistics.fmean(values) for metric, values in self.values.items()}

    @property
    def stds(self) -> dict[str, float | None]:
        """Metric -> sample standard deviation over seeds; ``None`` with one seed."""
        several = len(self.seeds) > 1
        return {metric: statistics.stdev(values) if several else None for metric, values in self.values.items()}


class Average(NamedTuple):
    """Mean over the sets of a benchmark.

    Attributes:
        benchmark: ``ODinW-13`` or ``ODinW-35``.
        name: The name of the benchmark if the average is complete, otherwise ``mean over 4 of 13``.
        sets: Members with results.
        missing: Members without results.
        means: Metric -> mean over sets of the mean over seeds.
        stds: Metric -> sample standard deviation over seeds of the mean over sets; ``None`` with one seed, or if
            the sets have different seeds.
    """

    benchmark: str
    name: str
    sets: tuple[str, ...]
    missing: tuple[str, ...]
    means: dict[str, float]
    stds: dict[str, float | None]


class Summary(NamedTuple):
    """All rows of an arm with one protocol, and their averages.

    Attributes:
        arm: Name of the arm, for example ``zero-shot``.
        layout: ``odinw`` or ``small``.
        split_policy: ``test`` or ``val``.
        protocol: Name and settings of the protocol, without the seed.
        rows: One row per set.
        averages: Averages of the benchmarks that have a member among the rows.
    """

    arm: str
    layout: str
    split_policy: str
    protocol: dict[str, Any]
    rows: tuple[Row, ...]
    averages: tuple[Average, ...]

    @property
    def title(self) -> str:
        """Title of the protocol in tables, such as ``Visual-G, N = 16``."""
        title = PROTOCOLS[self.protocol['protocol']].title
        if 'num_exemplars' in self.protocol:
            title += f', N = {self.protocol["num_exemplars"]}'
        return title + (', GLIP phrases' if self.protocol.get('captions') else '')


def read_result(path: str | Path) -> dict[str, Any]:
    """Read the result file of one run.

    Raises:
        InputError: the file is missing or broken, or has an invalid value.
    """
    # Check the fields.
    result = read_json(path)
    if not isinstance(result, dict):
        raise InputError(f'{path}: not a result of tools/test_odinw.py; run it again with --redo')
    absent = [field for field in _FIELDS if field not in result]
    if absent:
        raise InputError(f'{path}: not a result of tools/test_odinw.py, it has no {", ".join(absent)}; use --redo')
    # Check the values.
    protocol = result['protocol']
    if not isinstance(protocol, dict) or protocol.get('protocol') not in PROTOCOLS:
        raise InputError(f'{path}: unknown protocol {protocol!r}; expected {", ".join(PROTOCOLS)}')
    for name in METRICS:
        value = result['metrics'].get(name) if isinstance(result['metrics'], dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise InputError(f'{path}: {name} is {value!r}, not a number between 0 and 1; run it again with --redo')
    return result


def read_results(folder: str | Path) -> list[dict[str, Any]]:
    """Read all results that ``tools/test_odinw.py`` wrote to its ``--out-dir``.

    Raises:
        InputError: there is no result, or a result is broken.
    """
    paths = visible(folder, 'runs/*/*.json')
    if not paths:
        raise InputError(f'{folder}: no result in runs/; give the --out-dir of tools/test_odinw.py')
    return [read_result(path) for path in paths]


def summarize(results: Iterable[Mapping[str, Any]], order: Sequence[str] = ()) -> list[Summary]:
    """Summarise the results of each arm, layout, split policy and protocol.

    Args:
        results: From :func:`read_result`.
        order: Names of sets in the order of the rows; other sets come last, in alphabetical order.

    Raises:
        InputError: a run occurs twice.
    """
    # Collect the results that belong to one table, by set and seed.
    position = {name: i for i, name in enumerate(order)}
    groups: dict[tuple, dict[str, dict[int | None, Mapping[str, Any]]]] = {}
    for result in results:
        key = tuple(tuple(v.items()) if isinstance(v, dict) else v for v in (result[field] for field in _SHARED))
        runs = groups.setdefault(key, {}).setdefault(result['set'], {})
        if result['seed'] in runs:
            raise InputError(
                f'{result["set"]} occurs twice with arm {result["arm"]!r}, {result["protocol"]["protocol"]} and seed '
                f'{result["seed"]}; name the arms differently with --arm'
            )
        runs[result['seed']] = result
    # Sort and average them.
    kinds = list(PROTOCOLS)
    summaries = []
    for sets in groups.values():
        names = sorted(sets, key=lambda name: (position.get(name, len(position)), name))
        rows = tuple(_row(sets[name]) for name in names)
        first = next(iter(sets[names[0]].values()))
        averages = tuple(a for benchmark in BENCHMARKS if (a := average(benchmark, rows)) is not None)
        summaries.append(Summary(*(first[field] for field in _SHARED), rows, averages))
    return sorted(summaries, key=lambda s: kinds.index(s.protocol['protocol']))


def _row(runs: Mapping[int | None, Mapping[str, Any]]) -> Row:
    seeds = tuple(sorted(runs, key=lambda seed: -1 if seed is None else seed))
    values = {name: tuple(float(runs[seed]['metrics'][name]) for seed in seeds) for name in METRICS}
    first = runs[seeds[0]]
    fields = (first[field] for field in ('set', 'member', 'deviation', 'split', 'num_images', 'num_boxes'))
    return Row(*fields, seeds, values)


def average(benchmark: str, rows: Iterable[Row]) -> Average | None:
    """Average the rows of a benchmark's members with equal weights; ``None`` if there is no such row.

    Rows of other sets are left out. An average is complete if every member has a row with the released files.
    """
    # Find the rows of the members.
    total = members(benchmark)
    own = {row.member: row for row in rows if row.member in total}
    if not own:
        return None
    covered = tuple(name for name in total if name in own)
    # Name the average after the benchmark only if it is complete.
    official = all(row.deviation is None for row in own.values())
    if official and len(covered) == len(total):
        name = benchmark
    else:
        name = f'mean over {len(covered)} of {len(total)}' + ('' if official else ', own files')
    # Average over the sets.
    rows = [own[member] for member in covered]
    means = {metric: statistics.fmean(row.means[metric] for row in rows) for metric in METRICS}
    missing = tuple(member for member in total if member not in own)
    return Average(benchmark, name, covered, missing, means, {metric: _std(rows, metric) for metric in METRICS})


def _std(rows: Sequence[Row], metric: str) -> float | None:
    """Standard deviation over seeds of the mean over sets."""
    if len({row.seeds for row in rows}) > 1 or len(rows[0].seeds) < 2:
        return None
    per_seed = zip(*(row.values[metric] for row in rows), strict=True)
    return statistics.stdev(statistics.fmean(values) for values in per_seed)
