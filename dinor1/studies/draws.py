"""Measurements of random draws, of which a file of results may have some already."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dinor1.evaluation.odinw.runs import environment
from dinor1.studies.results import add_rows, read_rows


def measure_missing_draws(
    out: str | Path,
    runs: Iterable[tuple[str, int, int]],
    measure: Callable[[str, int, int], dict[str, Any]],
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure the draws that a file of results lacks, and add a row for each as soon as it is measured.

    Args:
        out: File of results, see :mod:`dinor1.studies.results`; it may be missing.
        runs: Folder of a set, number of images, and seed of each draw.
        measure: Function of these that returns ``metrics`` and other entries of the row.
        progress: Called with a line after each draw.
    """
    done = {(row['arm'], row['seed']) for row in read_rows(out)} if Path(out).is_file() else set()
    for root, num_images, seed in runs:
        name = Path(root).name
        arm = f'{name}/{num_images}'
        if (arm, seed) in done:
            continue
        row = measure(root, num_images, seed)
        add_rows(out, [row | dict(arm=arm, seed=seed, set=name, environment=environment())])
        progress(f'{arm}, draw {seed}: {row["metrics"]}')
