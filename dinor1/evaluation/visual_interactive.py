"""Visual-interactive prompts: one ground-truth box per class of the test image itself.

The protocol of T-Rex2 (arXiv 2403.14610). It is easier than visual-generic, because the prompts come from the test
image and classes that are absent from it are never offered. The two protocols must not be averaged.
"""

import zlib

import numpy as np
from mmengine.dataset import BaseDataset

from .seeds import non_negative
from .visual_generic import Exemplar, candidates_of


def draw_interactive(dataset: BaseDataset, seed: int = 0) -> dict[int, list[Exemplar]]:
    """Draw one instance of every class that an image shows.

    The draw depends on the annotations of the image and ``seed`` only. Crowd and ignored boxes are never drawn.

    Args:
        dataset: The evaluated data set, in MMDetection's format.
        seed: Any integer.

    Returns:
        Image id -> exemplars in the order of their labels; an empty list for an image without instances.
    """
    drawn = {}
    for index in range(len(dataset)):
        # Collect the instances of each class, and choose one of each.
        info = dataset.get_data_info(index)
        candidates: dict[int, list[Exemplar]] = {}
        for exemplar in candidates_of(info, index):
            candidates.setdefault(exemplar.label, []).append(exemplar)
        drawn[info['img_id']] = [_choose(candidates[label], dataset, seed) for label in sorted(candidates)]
    return drawn


def _choose(exemplars: list[Exemplar], dataset: BaseDataset, seed: int) -> Exemplar:
    exemplars.sort(key=lambda e: e.bbox)
    name = dataset.metainfo['classes'][exemplars[0].label]
    image = zlib.crc32(str(exemplars[0].img_id).encode())
    generator = np.random.default_rng([non_negative(seed), zlib.crc32(name.encode()), image])
    return exemplars[generator.integers(len(exemplars))]
