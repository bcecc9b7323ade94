"""ODinW results as Markdown: a table per protocol, because protocols must not be averaged with each other."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from dinor1.evaluation.odinw.summary import METRICS, Average, Row, Summary
from dinor1.utils.markdown import table

_T = TypeVar('_T', Row, Average)


def tables(summaries: Iterable[Summary]) -> str:
    """A heading and a table for every protocol, layout and split policy; a column per arm and metric.

    Args:
        summaries: From :func:`dinor1.evaluation.odinw.summary.summarize`; arms are columns in this order.
    """
    groups: dict[tuple, list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.title, summary.layout, summary.split_policy), []).append(summary)
    return '\n\n'.join(_table(group) for group in groups.values())


def _table(group: Sequence[Summary]) -> str:
    repeated = any(len(row.seeds) > 1 for summary in group for row in summary.rows)
    spread = ', mean ± standard deviation over draws of the prompts' if repeated else ''
    columns = [f'{summary.arm} {metric}' for summary in group for metric in METRICS]
    lines = []
    for name, rows in _by_name([summary.rows for summary in group]).items():
        row = next(row for row in rows if row is not None)
        label = name if row.member else f'{name} (not ODinW)'
        label += f' ({row.split})' if row.split != group[0].split_policy else ''
        lines.append([label, row.num_images, row.num_boxes, *_cells(rows)])
    # Averages over different sets have different names, and therefore separate lines.
    for name, averages in _by_name([summary.averages for summary in group]).items():
        lines.append([f'**{name}**', '', '', *_cells(averages)])
    heading = f'#### {group[0].title}: split {group[0].split_policy}{spread}'
    return f'{heading}\n\n{table(["set", "images", "boxes", *columns], lines)}'


def _by_name(arms: Sequence[Sequence[_T]]) -> dict[str, list[_T | None]]:
    """Name -> its entry in every arm; ``None`` where an arm has no such entry."""
    found: dict[str, list[_T | None]] = {}
    for i, entries in enumerate(arms):
        for entry in entries:
            found.setdefault(entry.name, [None] * len(arms))[i] = entry
    return found


def _cells(entries: Sequence[Row | Average | None]) -> list[str]:
    numbers = []
    for entry in entries:
        for metric in METRICS:
            if entry is None:
                numbers.append('')
            else:
                spread = entry.stds[metric]
                numbers.append(f'{entry.means[metric]:.3f}' + ('' if spread is None else f' ± {spread:.3f}'))
    return numbers
