"""Batches of images of one source, for federated labels."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dataset import DefaultSampler

from dinor1.datasets.samplers import ResumableBatchSampler
from dinor1.registry import DATA_SAMPLERS
from dinor1.utils.errors import InputError


@DATA_SAMPLERS.register_module()
class SourceBatchSampler(ResumableBatchSampler):
    """Batches whose images come from one source, as far as possible.

    The prompts of a batch are drawn from its images, and an image is a negative only of classes that its own source
    annotates. In a batch of many sources, an image of a source that shows one category at a time would hardly ever meet
    a negative.

    In every epoch, each image is in exactly one batch. The images of a source are shuffled and cut into full batches;
    what remains of all sources, fewer images than ``batch_size`` of each, is cut into batches in the order of the
    sources, so that a mixed batch has few of them. Only the last of these may be smaller than ``batch_size``. All
    batches are shuffled and dealt out to the ranks; to give every rank the same number, some may occur twice, as with
    MMEngine's ``DefaultSampler``.

    The order depends on the sampler's seed and epoch only, and the number of batches on the data set only. An
    interrupted epoch is continued as with :class:`ResumableBatchSampler`.

    Args:
        sampler: A ``DefaultSampler``: its data set, seed, epoch, rank and whether it shuffles are used, not its order.
            Images tell their ``source``, as those of a federated :class:`~dinor1.datasets.CocoPromptDataset` do; those
            without one are of one source for each data set of a ``ConcatDataset``.
        batch_size: Images per batch.
        drop_last: Leave out a batch that is not full.

    Raises:
        InputError: the sampler is of another type.
    """

    def __init__(self, sampler: DefaultSampler, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(sampler, DefaultSampler):
            raise InputError(
                f'SourceBatchSampler: needs a DefaultSampler, got {type(sampler).__name__}; set '
                "train_dataloader.sampler.type='DefaultSampler'"
            )
        super().__init__(sampler, batch_size, drop_last)
        self.sources = _sources(sampler.dataset)

    def __len__(self) -> int:
        """Number of batches of one rank."""
        sizes = Counter(self.sources).values()
        full = sum(size // self.batch_size for size in sizes)
        rest, cut_off = divmod(sum(size % self.batch_size for size in sizes), self.batch_size)
        batches = full + rest + (cut_off > 0 and not self.drop_last)
        return math.ceil(batches / self.sampler.world_size)

    def batches(self) -> Iterator[list[int]]:
        """All batches of the epoch for this rank."""
        generator = torch.Generator().manual_seed(self.sampler.seed + self.sampler.epoch)

        def order(length: int) -> list[int]:
            return torch.randperm(length, generator=generator).tolist() if self.sampler.shuffle else list(range(length))

        # The images of each source, in random order.
        of_source: dict[Any, list[int]] = defaultdict(list)
        for index in order(len(self.sources)):
            of_source[self.sources[index]].append(index)
        # Full batches of each source, then what remains.
        batches, rest = [], []
        for source in dict.fromkeys(self.sources):
            own = of_source[source]
            full = len(own) // self.batch_size * self.batch_size
            batches += _cut(own[:full], self.batch_size)
            rest += own[full:]
        batches += _cut(rest, self.batch_size)
        if self.drop_last:
            batches = [batch for batch in batches if len(batch) == self.batch_size]
        # Deal them out.
        shuffled = [batches[i] for i in order(len(batches))]
        dealt = itertools.islice(itertools.cycle(shuffled), len(self) * self.sampler.world_size)
        return itertools.islice(dealt, self.sampler.rank, None, self.sampler.world_size)


def _cut(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _sources(dataset: Any, prefix: tuple[int, ...] = ()) -> list[tuple]:
    """Source of each image of a data set: that of its record, and the place of its data set in a ``ConcatDataset``."""
    if hasattr(dataset, 'datasets'):
        return [source for i, one in enumerate(dataset.datasets) for source in _sources(one, (*prefix, i))]
    return [(*prefix, dataset.get_data_info(i).get('source')) for i in range(len(dataset))]
