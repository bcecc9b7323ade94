"""Batches of images of one source, for federated labels."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from mmengine.dataset import DefaultSampler

from dinor1.datasets.samplers import ResumableBatchSampler
from dinor1.registry import DATA_SAMPLERS
from dinor1.utils.errors import InputError


class ImageSource(NamedTuple):
    """Source of an image.

    Attributes:
        source: Identifies the data set within a ``ConcatDataset`` and the source within the file.
        has_negatives: Whether the image was annotated exhaustively for some class.
    """

    source: tuple
    has_negatives: bool


@DATA_SAMPLERS.register_module()
class SourceBatchSampler(ResumableBatchSampler):
    """Batches whose images come from one source, as far as possible.

    The prompts of a batch are drawn from its images, and an image is a negative only of classes that its own source
    annotates. If a source shows one category at a time, its images would hardly ever be negatives in a batch of many
    sources. Images without negatives, for which no class was annotated exhaustively, are spread evenly over all
    batches: a batch of only such images would have no negative, and training on it would only raise scores.

    In every epoch, each image is in exactly one batch. With a share s of images that can be negatives, the images of
    each source are shuffled and cut into parts of ``floor(s * batch_size)``. The remaining images are cut in the order
    of their sources, so that a part with several sources has few of them. Then the images without negatives are
    distributed over the parts. A batch therefore has at most ``batch_size`` images and may have a few less; with s = 1,
    all but one are full. Batches are shuffled and distributed over the ranks; to give every rank the same number, some
    may occur twice, as with MMEngine's ``DefaultSampler``.

    The order depends on the sampler's seed and epoch only, and the number of batches on the data set only. An
    interrupted epoch is continued as with :class:`ResumableBatchSampler`.

    Args:
        sampler: A ``DefaultSampler``; its data set, seed, epoch, rank and ``shuffle`` are used, not its order.
            Images have ``source`` and ``exhaustive_labels``, as in a federated
            :class:`~dinor1.datasets.CocoPromptDataset`; images without them are negatives of every class, and each data
            set of a ``ConcatDataset`` counts as one source.
        batch_size: Maximum number of images in a batch.

    Raises:
        InputError: the sampler is of another type.
    """

    def __init__(self, sampler: DefaultSampler, batch_size: int) -> None:
        if not isinstance(sampler, DefaultSampler):
            raise InputError(
                f'SourceBatchSampler: needs a DefaultSampler, got {type(sampler).__name__}; set '
                "train_dataloader.sampler.type='DefaultSampler'"
            )
        super().__init__(sampler, batch_size)
        self.images = _sources(sampler.dataset)
        self._num_batches = len(self._cut_all(range))

    def __len__(self) -> int:
        """Number of batches of one rank."""
        return math.ceil(self._num_batches / self.sampler.world_size)

    def batches(self) -> Iterator[list[int]]:
        """All batches of the epoch for this rank."""
        generator = torch.Generator().manual_seed(self.sampler.seed + self.sampler.epoch)

        def order(length: int) -> list[int]:
            return torch.randperm(length, generator=generator).tolist() if self.sampler.shuffle else list(range(length))

        # Cut and shuffle the batches of all ranks.
        batches = self._cut_all(order)
        shuffled = [batches[i] for i in order(len(batches))]
        # Distribute them over the ranks.
        dealt = itertools.islice(itertools.cycle(shuffled), len(self) * self.sampler.world_size)
        return itertools.islice(dealt, self.sampler.rank, None, self.sampler.world_size)

    def _cut_all(self, order: Callable[[int], Any]) -> list[list[int]]:
        """The batches of all ranks, of images in the order ``order(number of images)``."""
        # Separate the images of each source that can be negatives from the others.
        of_source: dict[tuple, list[int]] = {image.source: [] for image in self.images}
        others: list[int] = []
        for index in order(len(self.images)):
            source, has_negatives = self.images[index]
            (of_source[source] if has_negatives else others).append(index)
        # Cut the images of each source, then the remaining images of all sources.
        size = max(1, self.batch_size * (len(self.images) - len(others)) // max(1, len(self.images)))
        batches, rest = [], []
        for own in of_source.values():
            full = len(own) // size * size
            batches += _cut(own[:full], size)
            rest += own[full:]
        batches += _cut(rest, size)
        # Spread the other images over the batches; those that do not fit form batches of their own.
        places = len(batches) * (self.batch_size - size)
        for i, index in enumerate(others[:places]):
            batches[i % len(batches)].append(index)
        return batches + _cut(others[places:], self.batch_size)


def _cut(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _sources(dataset: Any, place: tuple[int, ...] = ()) -> list[ImageSource]:
    """Source of each image of a data set; ``place`` is the indices of a data set within nested ``ConcatDataset``."""
    if hasattr(dataset, 'datasets'):
        return [source for i, one in enumerate(dataset.datasets) for source in _sources(one, (*place, i))]
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    return [ImageSource((*place, info.get('source')), info.get('exhaustive_labels') != []) for info in infos]
