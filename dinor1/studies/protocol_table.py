"""Make the tables of the baselines of the prompt protocols from a file of results."""

from collections.abc import Mapping, Sequence
from typing import Any

from dinor1.utils.markdown import table

Row = Mapping[str, Any]


def protocol_table(rows: Sequence[Row]) -> str:
    """Two tables with a row per set: AP50 under ``VisualInteractive``, and the other metrics of the baselines.

    Args:
        rows: Results of :mod:`dinor1.studies.protocol_baselines`, with ``set``, ``baseline`` and ``metrics``.
    """
    # Sort the results by set and baseline.
    sets = dict.fromkeys(row['set'] for row in rows)
    by_set = {name: {row['baseline']: row['metrics'] for row in rows if row['set'] == name} for name in sets}
    # Make a row of each table per set.
    average, others = [], []
    for name, found in by_set.items():
        echo, free = found.get('echo', {}), found.get('training-free', {})
        neighbour = found.get('nearest-neighbour', {})
        average.append(
            [
                name,
                f'{echo.get("images", 0):.0f}, {echo.get("without_exemplar_images", 0):.0f}',
                f'{echo.get("plain_classes", 0):.0f}, {echo.get("without_exemplar_classes", 0):.0f}',
                with_interval(echo, 'plain_AP50'),
                with_interval(free, 'plain_AP50'),
                with_interval(echo, 'without_exemplar_AP50'),
                with_interval(free, 'without_exemplar_AP50'),
                with_interval(free, 'without_exemplar_AP'),
            ]
        )
        others.append(
            [
                name,
                with_interval(free, 'without_exemplar_F1'),
                with_interval(free, 'absence_AUROC'),
                with_interval(free, 'absence_false_positives_per_image', 2),
                with_interval(free, 'absence_F1'),
                with_interval(neighbour, 'accuracy'),
            ]
        )
    # Put the tables together.
    heads = [
        'set',
        'images',
        'classes',
        'plain AP50: echo',
        'training-free',
        'without exemplar AP50: echo',
        'training-free',
        'AP',
    ]
    more = ['set', 'F1 without exemplar', 'absence AUROC', 'false positives per image', 'absence F1', 'neighbour']
    return f'{table(heads, average)}\n\n{table(more, others)}'


def with_interval(metrics: Mapping[str, float], key: str, digits: int = 3) -> str:
    """Format as ``0.123 [0.100, 0.150]``, as ``0.123`` without an interval, or as ``-`` if nothing is evaluated."""
    value = metrics.get(key)
    if value is None or value < 0:
        return '-'
    ends = [metrics.get(f'{key}_{end}') for end in ('low', 'high')]
    text = f'{value:.{digits}f}'
    return text if None in ends else f'{text} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]'
