"""MNIST from IDX files, and affine maps of images."""

import gzip
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from scipy.ndimage import affine_transform

from dinor1.blocks.classification.affine import AffineRange, affine_images, random_affine, random_shift, warp
from dinor1.blocks.classification.mnist import MNIST
from dinor1.utils.errors import InputError


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b''.join(n.to_bytes(4, 'big') for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()) if path.suffix == '.gz' else header + array.tobytes())


@pytest.fixture
def digits(tmp_path):
    """MNIST's files with 40 random images each; the test files are not compressed."""
    rng = np.random.default_rng(0)
    for name, suffix in (('train', '.gz'), ('t10k', '')):
        write_idx(tmp_path / f'{name}-images-idx3-ubyte{suffix}', rng.integers(0, 256, (40, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f'{name}-labels-idx1-ubyte{suffix}', (np.arange(40) % 10).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize('split', ['train', 'test'])
def test_mnist_images_and_labels_equal_files(digits, split):
    dataset = MNIST(str(digits), split)
    assert len(dataset) == 40
    assert dataset[13]['labels'] == 3
    assert dataset[13]['inputs'].shape == (1, 28, 28)
    assert dataset[13]['inputs'].dtype == torch.uint8


def test_mnist_padding_centres_digit(digits):
    plain, padded = MNIST(str(digits)), MNIST(str(digits), side=40)
    assert padded[0]['inputs'].shape == (1, 40, 40)
    assert torch.equal(padded[0]['inputs'][:, 6:34, 6:34], plain[0]['inputs'])
    assert padded.images.sum() == plain.images.sum()


def test_mnist_subset_depends_on_seed_only(digits):
    first, again, other = (
        MNIST(str(digits), num_samples=20, subset_seed=s, seed=t) for s, t in ((0, 0), (0, 1), (1, 0))
    )
    assert first.labels == again.labels != other.labels


def test_mnist_affine_test_set_is_fixed_and_augmentation_redrawn(digits):
    fixed, moving = MNIST(str(digits), affine={}), MNIST(str(digits), affine={}, redraw=True)
    before, start = fixed.images.clone(), moving.images.clone()
    fixed.set_epoch(1)
    moving.set_epoch(1)
    assert torch.equal(fixed.images, before)
    assert not torch.equal(moving.images, start)
    moving.set_epoch(0)
    assert torch.equal(moving.images, start)
    assert torch.equal(before, MNIST(str(digits), affine={}).images)


def test_warp_equals_scipy():
    """Bilinear warp about the centre equals scipy's for the same matrix; crop borders, whose conventions differ."""
    rng = np.random.default_rng(0)
    image = rng.random((1, 1, 24, 24))
    image[..., :6, :] = image[..., -6:, :] = image[..., :6] = image[..., -6:] = 0
    matrix, shift = np.array([[1.1, 0.2], [-0.1, 0.9]]), np.array([1.5, -0.75])
    ours = warp(torch.tensor(image), torch.tensor(matrix)[None], torch.tensor(shift)[None])[0, 0].numpy()
    # scipy maps output to input indices in (row, column) order.
    inverse = np.linalg.inv(matrix)[::-1, ::-1]
    centre = np.full(2, 11.5)
    offset = centre - inverse @ (centre + shift[::-1])
    theirs = affine_transform(image[0, 0], inverse, offset, order=1)
    # Both interpolate linearly in float64; the grid passes through [-1, 1] and back.
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_random_affine_stays_in_range():
    ranges = AffineRange(rotation=20, shear=0.2, scale=(0.8, 1.2))
    matrices = random_affine(2000, ranges, torch.Generator().manual_seed(0))
    # The determinant is the product of the two scales.
    det = torch.linalg.det(matrices)
    assert 0.64 <= det.min() < 0.68
    assert 1.38 < det.max() <= 1.44
    pure = random_affine(2000, AffineRange(20, 0.0, (1.0, 1.0)), torch.Generator().manual_seed(0))
    angle = torch.atan2(pure[:, 1, 0], pure[:, 0, 0]).rad2deg()
    assert angle.abs().max() <= 20.001
    assert angle.min() < -19
    assert angle.max() > 19


def test_random_shift_keeps_ink_in_frame():
    images = torch.zeros(300, 1, 40, 40)
    images[:, :, 14:26, 16:24] = 255
    matrices = random_affine(300, AffineRange(), torch.Generator().manual_seed(0))
    shift = random_shift(images, matrices, torch.Generator().manual_seed(1))
    area = warp(images, matrices).sum((1, 2, 3))
    moved = warp(images, matrices, shift)
    # No ink is lost at the border; resampling at another phase changes the sum of a small rectangle slightly.
    torch.testing.assert_close(moved.sum((1, 2, 3)), area, rtol=0.03, atol=0)
    assert shift.abs().amax(0).min() > 10


def test_random_shift_of_blank_or_too_large_image():
    images = torch.stack([torch.zeros(1, 40, 40), torch.full((1, 40, 40), 255.0)]).to(torch.uint8)
    warped = affine_images(images, AffineRange(scale=(1.2, 1.2)), seed=0)
    assert warped[0].sum() == 0
    assert warped[1].float().mean() > 200


def test_affine_images_without_shift_ignores_chunks():
    images = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8)
    ranges = AffineRange(shift=False)
    assert torch.equal(affine_images(images, ranges, 3, chunk=4), affine_images(images, ranges, 3))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(split='val'), "split must be train or test, got 'val'"),
        (dict(side=20), 'side must be at least 28'),
        (dict(num_samples=41), 'num_samples must be from 1 to 40, got 41'),
    ],
)
def test_mnist_bad_arguments_raise(digits, arguments, message):
    with pytest.raises(InputError, match=message):
        MNIST(str(digits), **arguments)


def test_mnist_missing_or_damaged_file_raises(digits):
    with pytest.raises(InputError, match='no such file; see data/README.md'):
        MNIST(str(digits / 'nowhere'))
    labels = digits / 't10k-labels-idx1-ubyte'
    labels.write_bytes(labels.read_bytes()[:20])
    with pytest.raises(InputError, match='damaged'):
        MNIST(str(digits), 'test')


@pytest.mark.parametrize('scale', [(0, 1), (1.2, 0.8), (1,)])
def test_affine_range_bad_scale_raises(scale):
    with pytest.raises(ValueError, match='two positive numbers in ascending order'):
        AffineRange(scale=scale)


def test_classifier_trains_and_resumes_with_runner(digits, tmp_path, repo, monkeypatch):
    """The code path of tools/train.py, on labels that depend on the brightness."""
    # Make digits whose brightness gives the label.
    levels = np.arange(40) % 10
    for name, suffix in (('train', '.gz'), ('t10k', '')):
        images = np.broadcast_to((levels * 25).astype(np.uint8)[:, None, None], (40, 28, 28))
        write_idx(digits / f'{name}-images-idx3-ubyte{suffix}', np.ascontiguousarray(images))
    monkeypatch.setenv('DINOR1_DATA', str(digits.parent))
    # Configure a small classifier on them.
    cfg = Config.fromfile(repo / 'configs/blocks/_base_/datasets/mnist.py')
    cfg.merge_from_dict(Config.fromfile(repo / 'configs/_base_/default_runtime.py').to_dict())
    cfg.merge_from_dict(
        {
            'model': dict(
                type='ImageClassifier',
                backbone=dict(type='SmallViT', norm_cfg=dict(type='LN'), embed_dims=32, num_layers=1, patch_size=14),
                embed_dims=32,
            ),
            'train_dataloader.batch_size': 20,
            'train_dataloader.dataset.num_samples': None,
            'train_dataloader.dataset.data_root': str(digits),
            'val_dataloader.dataset.data_root': str(digits),
            'test_dataloader.dataset.data_root': str(digits),
            'optim_wrapper': dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
            'train_cfg': dict(by_epoch=True, max_epochs=90, val_interval=90),
            'val_cfg': {},
            'test_cfg': {},
            'work_dir': str(tmp_path / 'work'),
            'log_level': 'ERROR',
            'default_hooks.checkpoint.interval': 90,
        }
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.test()['accuracy/top1'] > 90
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
