"""Other images of the same source, for augmentations that combine several images."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmcv.transforms import Compose

# Keys with the labels that an image was annotated for, see dinor1.annotations.federated.LabelScope.
_SCOPE = ('annotated_labels', 'exhaustive_labels')
# Transforms that load the other images.
LOAD = (dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True))


class SameSource:
    """Draws images of one source; the data set passes it to its pipeline as ``results['same_source']``.

    A combined image is a negative only of classes for which all of its parts were annotated. Parts from different
    sources have no such class in common.

    Args:
        dataset: The data set; images without ``source`` belong to one source.
        source: Source of the image.
    """

    def __init__(self, dataset: Any, source: str | None) -> None:
        self.dataset, self.source = dataset, source

    def __deepcopy__(self, memo: dict) -> 'SameSource':
        # Transforms copy the results, and must not copy the data set with them.
        return self

    def draw(self, count: int) -> list[dict[str, Any]]:
        """Records of ``count`` images, drawn by ``random`` with replacement; the image itself may be drawn."""
        indices = self.dataset.indices_by_source[self.source]
        return [self.dataset.get_data_info(random.choice(indices)) for _ in range(count)]


def indices_by_source(dataset: Any) -> dict[str | None, list[int]]:
    """Indices of the images of each source of a data set."""
    indices = defaultdict(list)
    for index in range(len(dataset)):
        indices[dataset.get_data_info(index).get('source')].append(index)
    return dict(indices)


class ImageLoader:
    """Loads records of images for a transform.

    Args:
        transforms: Configs of transforms, or transforms.
    """

    def __init__(self, transforms: Sequence[Any] = LOAD) -> None:
        self._load = Compose(list(transforms))

    def __call__(self, results: dict[str, Any], count: int) -> list[dict[str, Any]]:
        """``count`` other images of the source of ``results``, with image and boxes."""
        return [self._load(info) for info in results['same_source'].draw(count)]


def restrict_scope(results: dict[str, Any], parts: Sequence[dict[str, Any]]) -> None:
    """Restrict the labels that ``results`` was annotated for to those that its ``parts`` were annotated for as well."""
    for key in _SCOPE:
        if key in results:
            results[key] = sorted(set(results[key]).intersection(*(part[key] for part in parts)))
