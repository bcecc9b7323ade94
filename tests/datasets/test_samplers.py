"""ResumableBatchSampler compared with the batch samplers of PyTorch and MMDetection."""

import pytest
from mmdet.datasets import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler, DataLoader

from dinor1.datasets import ResumableBatchSampler
from dinor1.registry import DATA_SAMPLERS


class Shapes:
    """23 images, not a multiple of the batch size; every third is in portrait format."""

    def __len__(self):
        return 23

    def __getitem__(self, idx):
        return idx

    def get_data_info(self, idx):
        return dict(width=10, height=20 if idx % 3 == 0 else 5)


def reference(epoch: int, grouped: bool, drop_last: bool) -> list[list[int]]:
    sampler = DefaultSampler(Shapes(), shuffle=True, seed=5)
    sampler.set_epoch(epoch)
    return list((AspectRatioBatchSampler if grouped else BatchSampler)(sampler, 4, drop_last))


def build(grouped: bool, drop_last: bool = False) -> ResumableBatchSampler:
    """Build the sampler as MMEngine's Runner does."""
    cfg = dict(type='ResumableBatchSampler', group_by_aspect_ratio=grouped, drop_last=drop_last)
    sampler = DefaultSampler(Shapes(), shuffle=True, seed=5)
    return DATA_SAMPLERS.build(cfg, default_args=dict(sampler=sampler, batch_size=4))


@pytest.mark.parametrize('grouped', [False, True])
@pytest.mark.parametrize('drop_last', [False, True])
def test_skip_batches_affects_one_epoch_only(grouped, drop_last):
    batches = build(grouped, drop_last)
    length = len(batches)
    assert length == len(reference(0, grouped, drop_last)) == (5 if drop_last else 6)
    assert list(batches) == reference(0, grouped, drop_last)
    for num_skipped in range(length + 1):
        batches.sampler.set_epoch(num_skipped)
        batches.skip_batches(num_skipped)
        assert len(batches) == length
        whole = reference(num_skipped, grouped, drop_last)
        assert list(batches) == whole[num_skipped:]
        assert list(batches) == whole


@pytest.mark.parametrize('grouped', [False, True])
def test_interrupted_epoch_does_not_affect_the_next(grouped):
    batches = build(grouped)
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)
    assert list(batches) == reference(0, grouped, False)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_skip_batches_works_in_a_data_loader(num_workers):
    batches = build(grouped=True)
    loader = DataLoader(
        Shapes(),
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=list,
    )
    batches.skip_batches(2)
    assert len(loader) == 6
    assert list(loader) == reference(0, True, False)[2:]
    batches.sampler.set_epoch(1)
    assert list(loader) == reference(1, True, False)


def test_skip_batches_rejects_negative_number():
    with pytest.raises(ValueError, match='must not be negative, got -1'):
        build(grouped=False).skip_batches(-1)
