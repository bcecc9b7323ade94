"""What methods without training reach on the icon world: the echo, and recognition of boxes by frozen features.

Frozen features classify ground-truth boxes. A detector also has to find the boxes, and scores less unless its features
are better.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.benchmarks.training_free.frozen_features import FrozenFeatures
from dinor1.benchmarks.training_free.nearest_neighbour import nearest_labels
from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import Exemplar, draw_exemplars, draw_interactive
from dinor1.evaluation.coco_metric import read_coco
from dinor1.evaluation.echo import echo_detections
from dinor1.evaluation.visual_interactive_metric import visual_interactive_scores
from dinor1.studies.icon_protocols import DRAWS, SUPPORT, read_split
from dinor1.utils.errors import InputError
from dinor1.utils.image_file import read_image
from dinor1.utils.markdown import table


def measure_floors(
    root: str | Path,
    split: str,
    features: FrozenFeatures,
    draws: Mapping[int, int] = DRAWS,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Score the echo and frozen features on one split of the icon world.

    Args:
        root: Folder of the icon world.
        split: A key of :data:`~dinor1.studies.icon_protocols.SUPPORT`.
        features: The frozen backbone.
        draws: Number of exemplars per class -> number of draws, of which results are means.
        progress: Called with a line after each support set.

    Returns:
        ``concepts``; ``boxes``; ``echo_AP50``, the plain AP50 under ``VisualInteractive`` of a detector that returns
        its prompts; and per support set and number of exemplars the accuracy of recognition, such as ``cross16``.

    Raises:
        InputError: the split is unknown, or its files are missing.
    """
    if split not in SUPPORT:
        raise InputError(f'{split}: no split of the icon world; give one of {", ".join(SUPPORT)}')
    # Score the echo.
    dataset = read_split(root, split, [])
    drawn = draw_interactive(dataset, 0)
    content = read_coco(str(Path(root) / f'annotations/{split}.json'))
    draw = (echo_detections(drawn), drawn)
    echo = visual_interactive_scores(content, [draw], np.array(dataset.cat_ids), min_images=1)
    # Embed the boxes to recognise.
    targets = embed_instances(dataset, features)
    names, queries = dataset.metainfo['classes'], torch.stack(list(targets.values()))
    truth = np.array([names[exemplar.label] for exemplar in targets])
    scores = dict(concepts=float(len(set(truth))), boxes=float(len(truth)), echo_AP50=echo['echo_AP50'])
    # Compare them with the mean of the exemplars of each concept.
    for kind, support_split in SUPPORT[split].items():
        support = read_split(root, support_split, [])
        gallery = embed_instances(support, features)
        for count, num_draws in sorted(draws.items()):
            values = []
            for seed in range(num_draws):
                prototypes, labels = class_means(gallery, draw_exemplars(support, count, seed))
                named = np.array([support.metainfo['classes'][label] for label in labels])
                # Only the concepts of the split are offered.
                offered = np.isin(named, names)
                found = nearest_labels(prototypes[offered], named[offered], queries)
                values.append(float(np.mean(found == truth)))
            scores[f'{kind}{count}'] = float(np.mean(values))
        progress(f'{split}: {kind}, {max(draws)} exemplars, accuracy {scores[f"{kind}{max(draws)}"]:.3f}')
    return scores


def embed_instances(dataset: CocoPromptDataset, features: FrozenFeatures) -> dict[Exemplar, Tensor]:
    """Unit vectors (C,) of the crops of all instances of a data set."""
    vectors: dict[Exemplar, Tensor] = {}
    instances = draw_exemplars(dataset, num_exemplars=10**9)
    for index, group in itertools.groupby(instances, key=lambda exemplar: exemplar.index):
        own = list(group)
        image = read_image(dataset.get_data_info(index)['img_path'])
        rows = features.crops(image, np.array([exemplar.bbox for exemplar in own]))
        vectors |= dict(zip(own, rows, strict=True))
    return vectors


def class_means(vectors: Mapping[Exemplar, Tensor], drawn: list[Exemplar]) -> tuple[Tensor, np.ndarray]:
    """Normalised mean (K, C) of the drawn exemplars of each class, and the labels (K,) of the classes."""
    labels = np.array([exemplar.label for exemplar in drawn])
    rows, kept = torch.stack([vectors[exemplar] for exemplar in drawn]), np.unique(labels)
    means = torch.stack([rows[torch.from_numpy(labels == label)].mean(0) for label in kept])
    return F.normalize(means, dim=-1), kept


def floor_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per split and support set.

    Args:
        rows: ``arm``, the split, and ``metrics``, the result of :func:`measure_floors`.
    """
    lines = []
    for row in rows:
        scores = row['metrics']
        for kind in SUPPORT[row['arm']]:
            accuracies = [f'{scores[f"{kind}{count}"]:.3f}' for count in sorted(DRAWS)]
            chance = f'{1 / scores["concepts"]:.3f}'
            counts = [f'{scores["concepts"]:.0f}', f'{scores["boxes"]:.0f}']
            lines.append([row['arm'], *counts, f'{scores["echo_AP50"]:.3f}', kind, *accuracies, chance])
    heads = [
        'split',
        'concepts',
        'boxes',
        'echo, plain AP50',
        'drawings',
        *(f'N = {n}' for n in sorted(DRAWS)),
        'chance',
    ]
    return table(heads, lines)
