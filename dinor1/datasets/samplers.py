"""Batch sampler that can start in the middle of an epoch."""

import itertools
from collections.abc import Iterator

from mmdet.datasets import AspectRatioBatchSampler
from torch.utils.data import BatchSampler, Sampler

from dinor1.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """Batch sampler that can skip the first ``n`` batches of one epoch without reading any image.

    A run that was interrupted after ``n`` iterations of an epoch sets the sampler's epoch, calls
    ``skip_batches(n)`` and gets exactly the batches that it has not seen yet. The length stays that of the
    whole epoch.

    Args:
        sampler: Source of indices, in the same order for the same epoch, such as MMEngine's ``DefaultSampler``.
        batch_size: Images per batch.
        drop_last: Leave out the last batch if it is not full.
        group_by_aspect_ratio: Put portrait and landscape images into separate batches, which saves padding.
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

    @property
    def num_skipped(self) -> int:
        """Number of batches that the next iteration will skip."""
        return self._num_skipped

    def skip_batches(self, n: int) -> None:
        """Skip the first ``n`` batches of the next iteration, and only of that one."""
        if n < 0:
            raise ValueError(f'the number of batches to skip must not be negative, got {n}')
        self._num_skipped = n

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that only reading the first batch resets the skip: DataLoader makes two iterators when
        # it starts persistent workers, and discards the first one.
        num_skipped, self._num_skipped = self._num_skipped, 0
        yield from itertools.islice(self.batches(), num_skipped, None)

    def batches(self) -> Iterator[list[int]]:
        """All batches of the epoch."""
        batch_sampler = AspectRatioBatchSampler if self.group_by_aspect_ratio else BatchSampler
        # A new one for each epoch: AspectRatioBatchSampler keeps the incomplete batches of an interrupted epoch.
        return iter(batch_sampler(self.sampler, self.batch_size, self.drop_last))
