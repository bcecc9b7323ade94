"""SharedClassBatchSampler compared with an exhaustive search, and with PyTorch's batch sampler."""

import numpy as np
import pytest
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler

from dinor1.datasets import SharedClassBatchSampler
from dinor1.registry import DATA_SAMPLERS
from dinor1.utils.errors import InputError


class Images:
    """Images with the given classes; images of one class have two boxes of it."""

    def __init__(self, classes):
        self.classes = [set(labels) for labels in classes]

    def __len__(self):
        return len(self.classes)

    def get_data_info(self, idx):
        return dict(instances=[dict(bbox_label=label, ignore_flag=0) for label in self.classes[idx] for _ in range(2)])


def random_images(count=60, num_classes=25, seed=0):
    rng = np.random.default_rng(seed)
    return Images([rng.choice(num_classes, rng.integers(0, 5), replace=False).tolist() for _ in range(count)])


def build(images, batch_size, shuffle=True, **options):
    """Build the sampler as MMEngine's Runner does."""
    sampler = DefaultSampler(images, shuffle=shuffle, seed=5)
    cfg = dict(type='SharedClassBatchSampler', **options)
    return DATA_SAMPLERS.build(cfg, default_args=dict(sampler=sampler, batch_size=batch_size))


def searched_batches(images, order, batch_size, lookahead):
    """The batches by their definition: compare all images in sight."""
    left, batches = list(order), []
    while left:
        batch = []
        while left and len(batch) < batch_size:
            single = {c for i in batch for c in images.classes[i] if sum(c in images.classes[j] for j in batch) == 1}
            sight = left[:lookahead]
            best = max(sight, key=lambda i: (len(images.classes[i] & single), -sight.index(i)))
            batch.append(best)
            left.remove(best)
        batches.append(batch)
    return batches


@pytest.mark.parametrize('lookahead', [1, 7, 60, 1000])
@pytest.mark.parametrize('epoch', [0, 1])
def test_batches_equal_those_of_an_exhaustive_search(lookahead, epoch):
    images = random_images()
    batches = build(images, 8, lookahead=lookahead)
    batches.sampler.set_epoch(epoch)
    assert list(batches) == searched_batches(images, list(batches.sampler), 8, lookahead)


def test_image_with_a_shared_class_is_preferred():
    images = Images([{0}, {1}, {2}, {0, 3}, {1, 2}])
    assert list(build(images, 2, shuffle=False)) == [[0, 3], [1, 4], [2]]


def test_class_on_two_images_attracts_no_third_one():
    images = Images([{0}, {0}, {1}, {0}])
    assert list(build(images, 3, shuffle=False)) == [[0, 1, 2], [3]]


def test_lookahead_of_one_image_equals_batch_sampler():
    images = random_images()
    batches = build(images, 8, lookahead=1)
    assert list(batches) == list(BatchSampler(batches.sampler, 8, False))


@pytest.mark.parametrize('drop_last', [False, True])
def test_every_image_is_in_one_batch(drop_last):
    batches = build(random_images(61), 8, drop_last=drop_last)
    found = list(batches)
    assert len(found) == len(batches) == (7 if drop_last else 8)
    drawn = [index for batch in found for index in batch]
    assert len(set(drawn)) == len(drawn) == (56 if drop_last else 61)


def test_skip_batches_continues_an_epoch():
    batches = build(random_images(), 8)
    whole = list(batches)
    batches.skip_batches(3)
    assert list(batches) == whole[3:]
    assert list(batches) == whole


def test_ignored_boxes_share_no_class():
    class Crowds(Images):
        def get_data_info(self, idx):
            info = super().get_data_info(idx)
            info['instances'].append(dict(bbox_label=0, ignore_flag=1))
            return info if idx == 2 else super().get_data_info(idx)

    images = Crowds([{0}, {1}, {2}, {3}])
    assert list(build(images, 2, shuffle=False)) == [[0, 1], [2, 3]]


def test_batches_show_classes_on_several_images():
    # 400 images with 4 of 300 classes each: in random batches of 16, about a fifth of the classes are on two images.
    images = random_images(400, 300)

    def share(batches):
        shared = [
            sum(c in images.classes[j] for j in batch) > 1
            for batch in batches
            for i in batch
            for c in images.classes[i]
        ]
        return np.mean(shared)

    batches = build(images, 16)
    assert share(batches) > 3 * share(BatchSampler(batches.sampler, 16, False))


def test_lookahead_without_images_is_rejected():
    with pytest.raises(InputError, match='lookahead must be at least 1, got 0'):
        SharedClassBatchSampler(DefaultSampler(random_images()), 8, lookahead=0)
