"""Prompts tuned on a few annotated images, compared with the same boxes as exemplars without tuning."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinor1.inference import DINOR1Inferencer
from dinor1.inference.adaptation import MIN_CHECKED
from dinor1.studies.annotated_images import AnnotatedImages
from dinor1.studies.annotator import label_quality
from dinor1.utils.errors import InputError
from dinor1.utils.markdown import table


def measure_adaptation(
    root: str | Path,
    inferencer: DINOR1Inferencer,
    num_images: int,
    seed: int,
    max_test_images: int = 60,
    **options: Any,
) -> dict[str, Any]:
    """AP50 on test images before and after an adaptation to training images.

    Args:
        root: Folder with ``images`` and ``annotations/{train,test}.json``.
        inferencer: The detector.
        num_images: Number of annotated training images, at least 1; only images with objects are drawn.
        seed: Seed of the draw of these images.
        max_test_images: Maximum number of test images, evenly spaced.
        **options: Further arguments of :meth:`~dinor1.inference.DINOR1Inferencer.adapt`.

    Returns:
        A dict: ``metrics`` has AP50 and AP, with the boxes as ``exemplars`` and with the ``adapted`` prompts. They are
        means over the classes that the test images show, where a class without an exemplar counts as 0. Both are
        equal if the adaptation was rejected or not possible. ``adaptation`` is the result of the adaptation,
        ``cpu_seconds`` the processor time of all threads, ``test_images`` and ``boxes`` the numbers of these.

    Raises:
        InputError: annotations are missing or broken, or there are too few images.
    """
    # Draw the annotated images.
    train, test = AnnotatedImages.read(root, ['train']), AnnotatedImages.read(root, ['test'], max_test_images)
    order = np.random.default_rng(seed).permutation(len(train.paths))
    chosen = [int(i) for i in order if len(train.objects[i].boxes)][:num_images]
    if len(chosen) < num_images:
        raise InputError(f'{root}: only {len(chosen)} training images have objects; give at most this number')
    # Measure the boxes as exemplars, and then the tuned prompts.
    train.set_prompts(inferencer, chosen)
    metrics = {f'exemplars_{key}': value for key, value in _quality(test, inferencer).items()}
    inferencer.reset_prompts()
    begin = time.process_time()
    labels = [set(train.objects[i].labels.tolist()) for i in chosen]
    shown = [label for own in labels for label in own]
    # If no two of at least three images show the same class, no check and therefore no adaptation is possible.
    refused = num_images >= MIN_CHECKED and len(set(shown)) == len(shown)
    result = None if refused else inferencer.adapt(**train.labelled(chosen), **options)
    seconds = time.process_time() - begin
    if result is not None and result.kept:
        adapted = _quality(test, inferencer)
    else:
        adapted = {key: metrics[f'exemplars_{key}'] for key in ('AP50', 'AP')}
    verdict = dict(kept=False, refused=True) if result is None else result._asdict()
    return dict(
        metrics=metrics | {f'adapted_{key}': value for key, value in adapted.items()},
        adaptation=verdict | dict(cpu_seconds=round(seconds, 1)),
        test_images=len(test.paths),
        boxes=sum(len(train.objects[i].boxes) for i in chosen),
    )


def _quality(test: AnnotatedImages, inferencer: DINOR1Inferencer) -> dict[str, float]:
    found = test.detect(inferencer, range(len(test.paths)), 0.0, None)
    return label_quality(found, test.content, test.image_ids, test.category_ids)


def adaptation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Table of AP50 with and without adaptation: means over the draws per set and number of images, and over the sets.

    Args:
        rows: Rows of :func:`measure_adaptation` with ``set`` and ``num_images``.
    """
    # Group the draws.
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row['set'], row['num_images']].append(row)
    # Make a row per group.
    lines, means = [], defaultdict(list)
    for (name, count), own in sorted(groups.items()):
        plain = [row['metrics']['exemplars_AP50'] for row in own]
        adapted = [row['metrics']['adapted_AP50'] for row in own]
        differences = [b - a for a, b in zip(plain, adapted, strict=True)]
        spread = f' ± {statistics.stdev(differences):.3f}' if len(own) > 1 else ''
        kept = sum(row['adaptation']['kept'] for row in own)
        seconds = statistics.median(row['adaptation']['cpu_seconds'] for row in own)
        cells = [f'{statistics.mean(plain):.3f}', f'{statistics.mean(adapted):.3f}']
        cells += [f'{statistics.mean(differences):+.3f}{spread}', f'{kept} of {len(own)}', f'{seconds:.0f}']
        lines.append([name, own[0]['test_images'], count, *cells])
        means[count].append((statistics.mean(plain), statistics.mean(adapted)))
    # Make a row per number of images, with means over the sets.
    for count, values in sorted(means.items()):
        plain_mean, adapted_mean = (statistics.mean(column) for column in zip(*values, strict=True))
        cells = [f'{plain_mean:.3f}', f'{adapted_mean:.3f}', f'{adapted_mean - plain_mean:+.3f}', '', '']
        lines.append([f'**mean of {len(values)} sets**', '', count, *cells])
    heads = ['set', 'test images', 'annotated', 'exemplars AP50', 'adapted AP50', 'difference', 'kept', 'CPU seconds']
    return table(heads, lines)
