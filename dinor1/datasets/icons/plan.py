"""Choose the concepts of each image before the images are drawn."""

from collections.abc import Iterator, Sequence

import numpy as np

from dinor1.datasets.icons.scenes import MAX_OBJECTS
from dinor1.datasets.icons.splits import SPLITS

MIN_OBJECTS = 3
# Weights of the numbers of objects: most images have few.
_SKEW = 1.7
# Instances of a concept in one image.
_REPEATS = (1, 1, 2, 3)
# The concept of rank r, from 0, occurs in training images in proportion to (r + RANK_OFFSET) ** -EXPONENT.
RANK_OFFSET = 10
EXPONENT = 0.8
# LVIS defines rare, common and frequent categories by their number of training images. These limits are for 4,000
# training images, and are scaled for other numbers.
RARE_BELOW, FREQUENT_FROM, REFERENCE_IMAGES = 10, 40, 4000


def generator(seed: int, split: str, *index: int) -> np.random.Generator:
    """Random generator of one image; without ``index``, that of the plan of the split."""
    key = (SPLITS.index(split), *index)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def plan_split(seed: int, split: str, size: int, concepts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the concepts of the objects of each image.

    The plan of an image does not depend on the number of images. In training, frequencies follow a power law. In all
    other splits every concept occurs equally often, up to a few instances.

    Args:
        seed: Seed of the world.
        split: One of ``SPLITS``.
        size: Number of images.
        concepts: Concepts that the split annotates, in training from the most to the least frequent one.
    """
    rng = generator(seed, split)
    groups = _by_frequency(rng, concepts) if split == 'train' else _equally(rng, concepts)
    for _ in range(size):
        # Draw the number of objects; small numbers are more frequent.
        count = MIN_OBJECTS + int((MAX_OBJECTS - MIN_OBJECTS + 1) * rng.random() ** _SKEW)
        names: list[str] = []
        # Fill the image with groups of one concept.
        while len(names) < count:
            concept, repeats = next(groups)
            names += [concept] * repeats
        yield names[:MAX_OBJECTS]


def frequency(num_images: int, size: int) -> str:
    """LVIS's letter for a category that is in ``num_images`` of ``size`` training images: ``r``, ``c`` or ``f``."""
    per_reference = num_images * REFERENCE_IMAGES / size
    return 'r' if per_reference < RARE_BELOW else 'c' if per_reference < FREQUENT_FROM else 'f'


def _by_frequency(rng: np.random.Generator, concepts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield an infinite series of concepts with numbers of instances, by the power law."""
    weights = (np.arange(len(concepts)) + RANK_OFFSET) ** -EXPONENT
    limits = np.cumsum(weights) / weights.sum()
    while True:
        rank = min(int(np.searchsorted(limits, rng.random(), side='right')), len(concepts) - 1)
        yield concepts[rank], _REPEATS[rng.integers(len(_REPEATS))]


def _equally(rng: np.random.Generator, concepts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield an infinite series of concepts with numbers of instances, from shuffled lists of all concepts."""
    while True:
        # In four lists, every concept has each number of repetitions once.
        shift = rng.integers(len(_REPEATS), size=len(concepts))
        for turn in range(len(_REPEATS)):
            for i in rng.permutation(len(concepts)):
                yield concepts[i], _REPEATS[(turn + shift[i]) % len(_REPEATS)]
