"""ImageCache: equal pixels, no stale pixels, one builder at a time, and rejected settings."""

import copy
import json
import logging
import os
import pickle
import threading
import time

import cv2
import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from dinor1.datasets import CocoPromptDataset, ImageCache
from dinor1.datasets.resized_image import two_step_pipeline
from dinor1.utils.errors import InputError

SIZES = [(40, 60), (60, 40), (33, 47)]
LOAD_BOXES = dict(type='LoadAnnotations', with_bbox=True)


def write_image(path, height: int, width: int, seed: int) -> None:
    small = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


@pytest.fixture
def paths(tmp_path) -> list[str]:
    made = []
    for i, size in enumerate(SIZES):
        write_image(tmp_path / f'{i}.jpg', *size, seed=i)
        made.append(str(tmp_path / f'{i}.jpg'))
    return made


class Loader:
    """Loads images at full size, and counts its calls."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def size(self, path: str) -> tuple[int, int]:
        return cv2.imread(path).shape[:2]

    def __call__(self, path: str) -> tuple[np.ndarray, tuple[int, int]]:
        self.loaded.append(path)
        image = cv2.imread(path)
        return image, image.shape[:2]


def build(folder, paths, settings='', **options) -> tuple[ImageCache, Loader]:
    cache, loader = ImageCache(folder, **options), Loader()
    cache.build(paths, settings, loader.size, loader)
    return cache, loader


# Returned pixels


def test_cache_returns_pixels_of_every_image(tmp_path, paths):
    cache, loader = build(tmp_path / 'cache', [*paths, paths[0]])
    assert sorted(loader.loaded) == sorted(paths)
    for path, size in zip(paths, SIZES, strict=True):
        pixels, full = cache.get(path)
        assert (pixels == cv2.imread(path)).all()
        assert full == size
    assert cache.get(str(tmp_path / 'other.jpg')) is None


def test_cache_returns_writable_copies(tmp_path, paths):
    cache, _ = build(tmp_path / 'cache', paths)
    cache.get(paths[0])[0][:] = 0
    assert (cache.get(paths[0])[0] == cv2.imread(paths[0])).all()


def test_cache_of_no_images_is_empty(tmp_path):
    cache, _ = build(tmp_path / 'cache', [])
    assert cache.get('a.jpg') is None


def test_pickled_cache_has_no_pixels(tmp_path, paths):
    cache, _ = build(tmp_path / 'cache', paths)
    cache.get(paths[0])
    assert len(pickle.dumps(cache)) < 40 * 60 * 3
    for other in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert (other.get(paths[0])[0] == cv2.imread(paths[0])).all()


# Building


def test_cache_is_built_once(tmp_path, paths):
    build(tmp_path / 'cache', paths)
    again, loader = build(tmp_path / 'cache', reversed(paths))
    assert loader.loaded == []
    assert (again.get(paths[2])[0] == cv2.imread(paths[2])).all()
    assert len(list((tmp_path / 'cache').glob('*.bin'))) == 1


def test_cache_file_depends_on_settings_and_images(tmp_path, paths):
    files = {build(tmp_path / 'cache', *arguments)[0].file for arguments in [(paths,), (paths, 'half'), (paths[:2],)]}
    assert len(files) == 3


@pytest.mark.parametrize('lost', ['.bin', '.json', 'cut'])
def test_incomplete_cache_is_rebuilt(tmp_path, paths, lost):
    file = build(tmp_path / 'cache', paths)[0].file
    if lost == 'cut':
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.with_suffix(lost).unlink()
    cache, loader = build(tmp_path / 'cache', paths)
    assert len(loader.loaded) == 3
    assert (cache.get(paths[1])[0] == cv2.imread(paths[1])).all()


def test_failed_build_leaves_no_usable_cache(tmp_path, paths):
    def fail(path):
        if path == paths[1]:
            raise InputError(f'{path}: not an image')
        return Loader()(path)

    with pytest.raises(InputError, match='not an image'):
        ImageCache(tmp_path / 'cache').build(paths, '', Loader().size, fail)
    assert [path.name for path in (tmp_path / 'cache').iterdir()] == ['.lock']
    assert len(build(tmp_path / 'cache', paths)[1].loaded) == 3


def test_second_builder_waits_for_the_first(tmp_path, paths):
    """Threads lock a file separately, as processes do."""
    pytest.importorskip('fcntl')
    # Record how many builders load images at the same time.
    active, most, loaded = [], [], []

    def slow(path):
        active.append(path)
        most.append(len(active))
        time.sleep(0.02)
        active.remove(path)
        loaded.append(path)
        return Loader()(path)

    # Build with four threads: one of them loads every image once.
    caches = [ImageCache(tmp_path / 'cache') for _ in range(4)]
    threads = [threading.Thread(target=cache.build, args=(paths, '', Loader().size, slow)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert sorted(loaded) == sorted(paths)
    assert all((cache.get(paths[0])[0] == cv2.imread(paths[0])).all() for cache in caches)


# Stale images


def test_changed_image_is_not_in_cache(tmp_path, paths):
    cache, _ = build(tmp_path / 'cache', paths)
    write_image(paths[0], 40, 60, seed=99)
    assert cache.get(paths[0]) is None
    assert cache.get(paths[1]) is not None
    again, loader = build(tmp_path / 'cache', paths)
    assert len(loader.loaded) == 3
    assert (again.get(paths[0])[0] == cv2.imread(paths[0])).all()


def test_changed_image_of_equal_size_and_time_is_not_in_cache(tmp_path, paths):
    stat = os.stat(paths[0])
    cache, _ = build(tmp_path / 'cache', paths)
    content = bytearray((tmp_path / '0.jpg').read_bytes())
    content[-20] ^= 1
    (tmp_path / '0.jpg').write_bytes(content)
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert os.stat(paths[0]).st_mtime_ns == stat.st_mtime_ns
    assert cache.get(paths[0]) is None


def test_deleted_image_is_not_in_cache(tmp_path, paths):
    cache, _ = build(tmp_path / 'cache', paths)
    os.unlink(paths[0])
    assert cache.get(paths[0]) is None


# Rejected settings, and log lines


def test_cache_above_max_gib_is_rejected_before_building(tmp_path, paths):
    with pytest.raises(InputError) as error:
        build(tmp_path / 'cache', paths, max_gib=1e-5)
    text = str(error.value)
    assert '3 images take 1.77e-05 GiB, max_gib is 1e-05; raise it, or leave out the cache' in text
    assert '\n' not in text
    assert not (tmp_path / 'cache').exists()


def test_cache_larger_than_free_disk_is_rejected(tmp_path, paths):
    """The size function announces more pixels than any disk has."""
    with pytest.raises(InputError, match=r'GiB, .* GiB are free; choose another folder') as error:
        ImageCache(tmp_path / 'cache', max_gib=1e15).build(paths, '', lambda path: (10**9, 10**9), Loader())
    assert '\n' not in str(error.value)
    assert not list((tmp_path / 'cache').glob('images_*'))


@pytest.mark.parametrize('max_gib', [0, -1, float('nan')])
def test_max_gib_must_be_positive(tmp_path, max_gib):
    with pytest.raises(InputError, match='max_gib must be positive'):
        ImageCache(tmp_path, max_gib=max_gib)


def test_missing_image_error_names_the_file(tmp_path, paths):
    with pytest.raises(InputError, match=r'lost\.jpg: missing; restore the file'):
        build(tmp_path / 'cache', [*paths, str(tmp_path / 'lost.jpg')])


def test_get_before_build_is_an_error(tmp_path):
    with pytest.raises(InputError, match='image cache: has not been built; use CocoPromptDataset'):
        ImageCache(tmp_path).get('a.jpg')


def test_cache_size_is_logged_before_building(tmp_path, paths, caplog):
    logger = MMLogger.get_instance('test_image_cache', logger_name='test_image_cache')
    logger.addHandler(caplog.handler)
    messages = []

    def load(path):
        messages.append([record.getMessage() for record in caplog.records])
        return Loader()(path)

    with caplog.at_level(logging.INFO, logger=logger.name):
        ImageCache(tmp_path / 'cache').build(paths, '', Loader().size, load)
    assert messages[0][0].startswith('Image cache: 3 images take 1.77e-05 GiB; one process writes ')


# In a data set


def coco(root, transform: dict, **options) -> CocoPromptDataset:
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=w, height=h) for i, (h, w) in enumerate(SIZES)],
        categories=[dict(id=1, name='cat')],
        annotations=[dict(id=i, image_id=i, category_id=1, bbox=[4, 5, 20, 10], area=200, iscrowd=0) for i in range(3)],
    )
    (root / 'instances.json').write_text(json.dumps(content))
    two = [transform] if transform['type'] == 'LoadResizedImage' else two_step_pipeline(transform)
    pipeline = [*two[:-1], LOAD_BOXES, two[-1], dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    options = dict(pipeline=pipeline) | options
    return CocoPromptDataset(data_root=str(root), ann_file='instances.json', data_prefix=dict(img=''), **options)


def samples(dataset) -> list[tuple]:
    made = []
    for sample in dataset:
        data = sample['data_samples']
        made.append((sample['inputs'], data.gt_instances.bboxes.tensor, data.gt_instances.labels, data.metainfo))
    return made


def assert_same(found, expected) -> None:
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        assert all(a.equal(b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one[3] == other[3]


@pytest.mark.parametrize('scale', [None, (20, 30)])
def test_cached_samples_equal_uncached_ones(tmp_path, paths, scale):
    options = dict(scale=scale, keep_ratio=True, reduce=False)
    expected = samples(coco(tmp_path, dict(options, type='plain')))
    for _ in range(2):
        cached = coco(tmp_path, dict(options, type='LoadResizedImage', cache=dict(folder=tmp_path / 'cache')))
        assert_same(samples(cached), expected)
    assert len(list((tmp_path / 'cache').glob('*.bin'))) == 1


def test_cached_reduced_images_equal_loaded_ones(tmp_path, paths):
    options = dict(type='LoadResizedImage', scale=(20, 30), keep_ratio=True)
    expected = samples(coco(tmp_path, options))
    cached = coco(tmp_path, dict(options, cache=dict(folder=tmp_path / 'cache')))
    assert_same(samples(cached), expected)
    # After an image has changed, the others still come from the cache.
    write_image(paths[1], *SIZES[1], seed=50)
    found, changed = samples(cached), samples(coco(tmp_path, options))
    assert_same(found, changed)
    assert not found[1][0].equal(expected[1][0])


def test_workers_map_the_cache_file_of_the_main_process(tmp_path, paths):
    options = dict(type='LoadResizedImage', scale=(20, 20), cache=dict(folder=tmp_path / 'cache'))
    dataset = coco(tmp_path, options)
    expected = [sample['inputs'] for sample in dataset]
    found = [batch['inputs'][0] for batch in DataLoader(dataset, num_workers=2, collate_fn=pseudo_collate)]
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_cache_in_random_resize_is_rejected(tmp_path, paths):
    transform = dict(
        type='RandomChoiceResize',
        resize_type='LoadResizedImage',
        scales=[(20, 20)],
        cache=dict(folder=tmp_path / 'cache'),
    )
    dataset = coco(tmp_path, dict(type='plain', scale=(20, 20)), pipeline=[LOAD_BOXES, transform])
    with pytest.raises(InputError, match='has not been built'):
        dataset[0]


def test_build_fails_on_unreadable_image(tmp_path, paths):
    (tmp_path / '1.jpg').write_bytes(b'no image')
    options = dict(type='LoadResizedImage', scale=(20, 20), cache=dict(folder=tmp_path / 'cache'))
    with pytest.raises(InputError, match=r'1\.jpg: not an image that can be read; restore the file'):
        coco(tmp_path, options)
