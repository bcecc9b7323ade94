"""SourceBatchSampler: every image once, batches of one source if possible, equal over ranks and after a resume."""

import random
from collections import Counter

import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader

from dinor1.datasets import SourceBatchSampler
from dinor1.registry import DATA_SAMPLERS
from dinor1.utils.errors import InputError

SIZES = dict(kitchen=9, shelf=14, bench=3, road=1)  # 27 images


class Images:
    """A data set with images of several sources in mixed order."""

    def __init__(self, sizes=None):
        self.sources = [source for source, size in (sizes or SIZES).items() for _ in range(size)]
        random.Random(0).shuffle(self.sources)

    def __len__(self):
        return len(self.sources)

    def __getitem__(self, idx):
        return idx

    def get_data_info(self, idx):
        return dict(source=self.sources[idx], exhaustive_labels=[] if self.sources[idx] == 'incomplete' else [1])


class Concatenated:
    """Concatenated data sets, as in MMEngine, whose images have no source."""

    def __init__(self, *lengths):
        self.datasets = [range(length) for length in lengths]
        for i, one in enumerate(self.datasets):
            self.datasets[i] = Images(dict.fromkeys([None], len(one)))

    def __len__(self):
        return sum(map(len, self.datasets))


def build(rank=0, world_size=1, epoch=0, seed=5, shuffle=True, dataset=None, **options) -> SourceBatchSampler:
    """Build the sampler as MMEngine's Runner does."""
    sampler = DefaultSampler(dataset or Images(), shuffle=shuffle, seed=seed)
    sampler.rank, sampler.world_size, sampler.epoch = rank, world_size, epoch
    cfg = dict(type='SourceBatchSampler', **options)
    return DATA_SAMPLERS.build(cfg, default_args=dict(sampler=sampler, batch_size=4))


@pytest.mark.parametrize('shuffle', [False, True])
def test_epoch_has_every_image_once(shuffle):
    batches = list(build(shuffle=shuffle))
    assert sorted(index for batch in batches for index in batch) == list(range(27))
    assert len(batches) == len(build()) == 7
    assert sorted(map(len, batches)) == [3, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize('epoch', range(5))
def test_batches_have_one_source_except_remainders(epoch):
    images = Images().sources
    counts = [Counter(images[index] for index in batch) for batch in build(epoch=epoch)]
    pure = Counter(next(iter(count)) for count in counts if len(count) == 1 and count.total() == 4)
    assert pure == dict(kitchen=2, shelf=3)
    # One image of kitchen, two of shelf, and all of bench and road remain: batches mix as few sources as possible.
    mixed = [count for count in counts if len(count) > 1]
    assert sum(mixed, Counter()) == dict(kitchen=1, shelf=2, bench=3, road=1)
    assert len(mixed) == 2


def test_images_without_negatives_are_spread_over_batches():
    """27 images can be negatives and 13 cannot: each batch has 27 * 4 // 40 = 2 of the former."""
    images = Images(SIZES | dict(incomplete=13))
    batches = list(build(dataset=images))
    assert sorted(index for batch in batches for index in batch) == list(range(40))
    assert max(map(len, batches)) <= 4
    incomplete = [sum(images.sources[index] == 'incomplete' for index in batch) for batch in batches]
    assert set(incomplete) == {0, 1}
    negatives = [{images.sources[index] for index in batch} - {'incomplete'} for batch in batches]
    assert all(negatives)
    assert sum(len(sources) > 1 for sources in negatives) <= 1


def test_excess_images_without_negatives_form_batches():
    batches = list(build(dataset=Images(dict(kitchen=1, incomplete=12))))
    assert sorted(map(len, batches)) == [1, 4, 4, 4]
    assert sorted(index for batch in batches for index in batch) == list(range(13))
    alone = list(build(dataset=Images(dict(incomplete=6))))
    assert sorted(map(len, alone)) == [2, 4]


def test_order_depends_on_seed_and_epoch_only():
    assert list(build()) == list(build())
    others = [list(build(seed=6)), list(build(epoch=1))]
    assert all(list(build()) != other for other in others)
    assert all(len(other) == 7 for other in others)
    # The remaining images differ between epochs.
    assert {tuple(sorted(batch)) for batch in build()} != {tuple(sorted(batch)) for batch in others[1]}


@pytest.mark.parametrize('world_size', [2, 3, 5])
def test_batches_are_distributed_over_ranks(world_size):
    whole = list(build())
    ranks = [list(build(rank=rank, world_size=world_size)) for rank in range(world_size)]
    length = -(-7 // world_size)
    assert [len(own) for own in ranks] == [length] * world_size == [len(build(0, world_size))] * world_size
    # Batches are distributed to the ranks alternately; the first batches pad the last round.
    dealt = [ranks[i % world_size][i // world_size] for i in range(length * world_size)]
    assert dealt == (whole * world_size)[: length * world_size]


@pytest.mark.parametrize('num_workers', [0, 2])
def test_interrupted_epoch_is_resumed(num_workers):
    batches = build(epoch=1)
    loader = DataLoader(
        Images(),
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=list,
    )
    batches.skip_batches(3)
    assert len(loader) == 7
    whole = list(build(epoch=1))
    assert list(loader) == whole[3:]
    assert list(loader) == whole
    batches.sampler.set_epoch(2)
    assert list(loader) == list(build(epoch=2))


def test_concatenated_data_sets_are_different_sources():
    batches = list(build(dataset=Concatenated(8, 5)))
    parts = [{index < 8 for index in batch} for batch in batches]
    assert sorted(map(len, batches)) == [1, 4, 4, 4]
    assert all(len(part) == 1 for part in parts)


def test_other_sampler_type_is_rejected():
    with pytest.raises(InputError, match='needs a DefaultSampler, got InfiniteSampler'):
        SourceBatchSampler(InfiniteSampler(Images(), seed=0), 4)
