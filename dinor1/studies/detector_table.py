"""Make the tables of trained detectors and their baselines under the prompt protocols."""

from collections.abc import Mapping, Sequence
from typing import Any

from dinor1.studies.protocol_table import with_interval
from dinor1.utils.markdown import table

Row = Mapping[str, Any]
MEAN = '**mean of the domains**'


def detector_tables(rows: Sequence[Row], detectors: Sequence[str], domains: Sequence[str]) -> str:
    """Two or three tables with a row per set.

    The first has AP50 under ``VisualInteractive`` without the exemplar, with a column per detector. The second has
    plain AP50, and that of the echo with the same draws. The third has the other protocols for the first detector, if
    it was measured with them.

    Args:
        rows: Results with ``set``, ``baseline`` (the name of the detector) and ``metrics``, of
            :mod:`dinor1.studies.protocol_detectors` and :mod:`dinor1.studies.protocol_baselines`.
        detectors: Names of the detectors, in the order of the columns; the first is the one that is reported.
        domains: Sets that no detector was trained on, which are averaged.
    """
    found = {(row['set'], row['baseline']): row['metrics'] for row in rows}
    sets = [name for name in dict.fromkeys([*domains, *(row['set'] for row in rows)]) if (name, detectors[0]) in found]
    main = detectors[0]

    # Every row has the echo of its draws.
    for name in sets:
        echo = {key: value for key, value in found[name, main].items() if key.startswith('echo_')}
        found[name, 'echo'] = {key.replace('echo_', 'plain_', 1): value for key, value in echo.items()}

    def metrics(name: str, detector: str) -> Mapping[str, float]:
        return found.get((name, detector), {})

    # Tables of AP50, with the mean over the domains in which all detectors are evaluated.
    parts = []
    for key, columns in (
        ('without_exemplar_AP50', list(detectors)),
        ('plain_AP50', ['echo', *detectors]),
    ):
        body = [
            [
                name,
                f'{metrics(name, main).get(key.replace("AP50", "images"), 0):.0f}',
                f'{metrics(name, main).get(key.replace("AP50", "classes"), 0):.0f}',
                *(with_interval(metrics(name, column), key) for column in columns),
            ]
            for name in sets
        ]
        compared = [n for n in domains if all(metrics(n, column).get(key, -1) >= 0 for column in columns)]
        if compared:
            means = [sum(metrics(n, column)[key] for n in compared) / len(compared) for column in columns]
            body.append([f'{MEAN} ({len(compared)})', '', '', *(f'**{mean:.3f}**' for mean in means)])
        parts.append(table(['set', 'images', 'classes', *columns], body))
    # Table of the other protocols.
    keys = {
        'AP50, 1 exemplar': 'visual_g_1_AP50',
        '4': 'visual_g_4_AP50',
        '16': 'visual_g_16_AP50',
        'absence AUROC': 'absence_AUROC',
        'false positives per image': 'absence_false_positives_per_image',
        'F1': 'absence_F1',
    }
    body = [[name, *(with_interval(metrics(name, main), key) for key in keys.values())] for name in sets]
    if any(cell != '-' for row in body for cell in row[1:]):
        parts.append(table(['set', *keys], body))
    return '\n\n'.join(parts)
