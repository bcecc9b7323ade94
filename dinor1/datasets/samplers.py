"""Batch sampler that can start in the middle of an epoch."""

import itertools
from collections.abc import Iterator

from mmdet.datasets import AspectRatioBatchSampler
from torch.utils.data import BatchSampler, Sampler

from dinor1.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """Batches of indices, of which the first ``n`` can be left out once, without reading any image.

    A run that was interrupted after ``n`` iterations of an epoch sets the sampler's epoch, calls
    ``skip_batches(n)`` and meets exactly the batches that it has not seen yet. The length stays that of the
    whole epoch.

    Args:
        sampler: Source of indices; the same order for the same epoch, as MMEngine's ``DefaultSampler``.
        batch_size: Images per batch.
        drop_last: Leave out a last batch that is not full.
        group_by_aspect_ratio: Keep upright and lying images in separate batches, which saves padding.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        group_by_aspect_ratio: bool = False,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.group_by_aspect_ratio = group_by_aspect_ratio
        self._num_skipped = 0

    def skip_batches(self, n: int) -> None:
        """Let the next iteration, and only that one, begin after its first ``n`` batches."""
        if n < 0:
            raise ValueError(f'the number of batches to skip must not be negative, got {n}')
        self._num_skipped = n

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that the skip is used up when the first batch is asked for: DataLoader makes two
        # iterators when it starts persistent workers and throws the first one away.
        num_skipped, self._num_skipped = self._num_skipped, 0
        yield from itertools.islice(self.batches(), num_skipped, None)

    def batches(self) -> Iterator[list[int]]:
        """All batches of the epoch."""
        batch_sampler = AspectRatioBatchSampler if self.group_by_aspect_ratio else BatchSampler
        # Made anew for each epoch: AspectRatioBatchSampler carries the open groups of an abandoned epoch
        # over.
        return iter(batch_sampler(self.sampler, self.batch_size, self.drop_last))
