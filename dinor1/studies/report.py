"""Tables of a study: means with intervals, and differences between arms paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dinor1.studies.paired import PairedDifference, mean_interval, paired_difference
from dinor1.utils.markdown import table

Records = Mapping[str, Sequence[Mapping[str, Any]]]


def by_seed(records: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """Value of a metric for each seed that has one.

    Args:
        records: Result files of one arm.
        metric: Key of ``metrics``, or of the record itself, such as ``seconds``.
    """
    found = {}
    for record in records:
        value = record.get('metrics', {}).get(metric, record.get(metric))
        if value is not None and math.isfinite(value):
            found[record['seed']] = value
    return found


def means(records: Records, metrics: Mapping[str, str], digits: int = 3) -> str:
    """Table with a row per arm: mean and sample standard deviation over its seeds.

    Args:
        records: Records of each arm; arms without records have no row.
        metrics: Name of a metric -> heading of its column.
        digits: Number of decimals.
    """
    rows = []
    for arm, own in records.items():
        if own:
            values = [list(by_seed(own, metric).values()) for metric in metrics]
            rows.append([arm, str(len(own)), *(_mean(value, digits) for value in values)])
    return table(['arm', 'seeds', *metrics.values()], rows)


def _mean(values: list[float], digits: int) -> str:
    if not values:
        return '-'
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.{digits}f}{spread}'


def differences(records: Records, baseline: str, metrics: Mapping[str, str]) -> dict[str, dict[str, PairedDifference]]:
    """Difference to a baseline for each metric and arm, over the seeds that both arms have.

    Args:
        records: Records of each arm.
        baseline: Name of the arm to compare with.
        metrics: Metrics to compare.
    """
    found: dict[str, dict[str, PairedDifference]] = {}
    for metric in metrics:
        theirs = by_seed(records.get(baseline, ()), metric)
        rows = {arm: paired_difference(by_seed(own, metric), theirs) for arm, own in records.items() if arm != baseline}
        found[metric] = {arm: row for arm, row in rows.items() if row is not None}
    return found


def paired(records: Records, baseline: str, metrics: Mapping[str, str], digits: int = 4) -> str:
    """Table with a row per arm: difference to ``baseline`` with its 95 % interval, bold if the interval excludes 0."""
    found = differences(records, baseline, metrics)
    rows = []
    for arm in dict.fromkeys(arm for per_arm in found.values() for arm in per_arm):
        cells = [interval(found[metric].get(arm), digits) for metric in metrics]
        seeds = max(found[metric][arm].n for metric in metrics if arm in found[metric])
        rows.append([arm, str(seeds), *cells])
    return table([f'arm, less {baseline}', 'seeds', *metrics.values()], rows)


def interval(difference: PairedDifference | None, digits: int = 4) -> str:
    """Format as ``+0.0123 [-0.0010, +0.0256]``, as ``+0.0123`` for a single seed, or as ``-`` without a difference."""
    if difference is None:
        return '-'
    if not math.isfinite(difference.half_width):
        return f'{difference.mean:+.{digits}f}'
    text = f'{difference.mean:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]'
    return f'**{text}**' if difference.excludes_zero else text


def mean_with_interval(records: Sequence[Mapping[str, Any]], metric: str, digits: int = 3) -> str:
    """Format mean and Student's interval as ``0.684 [0.671, 0.697]``; ``-`` without a value."""
    values = by_seed(records, metric)
    if not values:
        return '-'
    result = mean_interval(values)
    text = f'{result.mean:.{digits}f}'
    return text if result.n == 1 else f'{text} [{result.low:.{digits}f}, {result.high:.{digits}f}]'
