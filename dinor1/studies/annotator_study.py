"""Measure the simulated annotator of :mod:`dinor1.studies.annotator`, and make its tables."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dinor1.inference import DINOR1Inferencer
from dinor1.studies.annotated_images import AnnotatedImages
from dinor1.studies.annotator import MIN_SCORE, WAYS, Costs, Work, counts, label_quality, simulate
from dinor1.utils.markdown import table

# Costs of the table: the default costs, then extreme values of the costs of drawing, clicks and checks.
RANGE = (
    Costs(),
    Costs(draw=34.5),
    Costs(click=1.0),
    Costs(click=3.0),
    Costs(check=3.0),
    Costs(check=15.0),
)


def measure_annotator(
    root: str | Path,
    inferencer: DINOR1Inferencer,
    num_drawn: int,
    seed: int,
    splits: Sequence[str] = ('train',),
    count: int | None = None,
) -> dict[str, Any]:
    """Simulate one annotator on one set.

    Args:
        root: Folder with ``images`` and ``annotations/SPLIT.json``.
        inferencer: The detector.
        num_drawn: Number of images annotated by hand first.
        seed: Seed of the draw of these images.
        splits: Splits to label.
        count: Maximum number of images, evenly spaced.

    Returns:
        ``metrics`` (AP50 and AP of the labels of each way), ``work``, ``thresholds``, ``images`` and ``boxes``.

    Raises:
        InputError: annotations are missing or broken.
    """
    images = AnnotatedImages.read(root, splits, count)

    # Simulate the annotator; boxes that were drawn by hand prompt the detector.
    def detect(by_hand: Sequence[int], others: Sequence[int]) -> list:
        images.set_prompts(inferencer, by_hand)
        return images.detect(inferencer, others, MIN_SCORE)

    result = simulate(images.objects, images.names, detect, num_drawn, seed)
    # Evaluate the labels of each way to annotate.
    metrics = {}
    for way in WAYS:
        quality = label_quality(result.labels[way], images.content, images.image_ids, images.category_ids)
        metrics |= {f'{way}_{key}': value for key, value in quality.items()}
    return dict(
        metrics=metrics,
        work=counts(result.work),
        thresholds=result.thresholds,
        images=len(images.paths),
        boxes=sum(len(objects.boxes) for objects in images.objects),
    )


def annotator_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two tables: hours and AP50 of each way at the default costs, and hours saved by ``correct`` for other costs.

    Args:
        rows: Rows of :func:`measure_annotator` with ``set``, ``num_drawn`` and ``seed``; draws are averaged.
    """
    # Group the draws.
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row['set'], row['num_drawn']].append(row)
    first, second = [], []
    for (name, num_drawn), own in sorted(groups.items()):
        # Hours and quality at the default costs.
        reference = _hours(own, 'draw all', Costs())
        cells = [name, own[0]['images'], own[0]['boxes'], num_drawn, len(own), f'{reference:.2f}']
        for way in WAYS:
            quality = statistics.mean(row['metrics'][f'{way}_AP50'] for row in own)
            cells += [f'{_hours(own, way, Costs()):.2f}', f'{quality:.3f}']
        first.append(cells)
        # Hours that are saved with each of the costs.
        saved = []
        for costs in RANGE:
            reference = _hours(own, 'draw all', costs)
            hours = reference - _hours(own, 'correct', costs)
            saved.append(f'{hours:+.2f} ({100 * hours / reference:+.0f} %)')
        second.append([name, num_drawn, *saved])
    # Write the tables.
    heads = ['set', 'images', 'boxes', 'by hand', 'draws', 'draw all, h']
    heads += [head for way in WAYS for head in (f'{way}, h', 'AP50')]
    ranges = ['set', 'by hand', 'default costs', 'drawing 34.5 s', 'click 1 s', 'click 3 s', 'check 3 s', 'check 15 s']
    return f'{table(heads, first)}\n\n{table(ranges, second)}'


def _hours(rows: Sequence[Mapping[str, Any]], way: str, costs: Costs) -> float:
    """Mean time of a way over the draws, in hours."""
    return statistics.mean(Work(**row['work'][way]).hours(costs) for row in rows)
