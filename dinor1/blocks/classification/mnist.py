"""MNIST from its IDX files, unchanged or under random affine maps (as in affNIST).

Y. LeCun, C. Cortes, C. Burges, *The MNIST database of handwritten digits*, 1998.
"""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError

from .affine import AffineRange, affine_images

_FILES = {'train': 'train', 'test': 't10k'}


@DATASETS.register_module()
class MNIST(Dataset):
    """Digits in memory; ``dict(inputs=(1, side, side) uint8, labels=int)`` per sample.

    Use ``collate_fn=dict(type='default_collate')``: all images have the same size.

    Args:
        data_root: Folder with the four IDX files, gzip-compressed or not.
        split: ``train`` (60,000 digits) or ``test`` (10,000).
        num_samples: Size of a random subset, fixed by ``subset_seed``. Default: all.
        subset_seed: Seed of the subset.
        side: Pad the 28 x 28 digits with zeros to this side; affNIST has 40.
        affine: Ranges of :class:`AffineRange`, for instance ``dict()`` for affNIST's. Each digit gets its own map.
        redraw: Draw new maps in every epoch (augmentation) instead of once (a fixed test set).
        seed: Seed of the maps.

    Raises:
        InputError: a file is missing or damaged, or ``num_samples`` is larger than the split.
    """

    CLASSES = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        num_samples: int | None = None,
        subset_seed: int = 0,
        side: int = 28,
        affine: dict | None = None,
        redraw: bool = False,
        seed: int = 0,
    ) -> None:
        if split not in _FILES:
            raise InputError(f'MNIST: split must be train or test, got {split!r}')
        if side < 28:
            raise InputError(f'MNIST: side must be at least 28, got {side}')
        self.metainfo = dict(classes=self.CLASSES)
        self.seed = seed
        # Read images and labels.
        self.ann_file = str(Path(data_root) / f'{_FILES[split]}-labels-idx1-ubyte')
        images = read_idx(Path(data_root) / f'{_FILES[split]}-images-idx3-ubyte')
        labels = read_idx(Path(self.ann_file))
        if len(images) != len(labels):
            raise InputError(f'{data_root}: {len(images)} images but {len(labels)} labels; download MNIST again')
        # Choose a subset.
        if num_samples is not None:
            if not 0 < num_samples <= len(images):
                raise InputError(f'MNIST: num_samples must be from 1 to {len(images)}, got {num_samples}')
            chosen = np.random.default_rng(subset_seed).permutation(len(images))[:num_samples]
            images, labels = images[chosen], labels[chosen]
        # Pad to the frame, and draw the maps of the first epoch.
        self.labels = labels.tolist()
        before = (side - 28) // 2
        margin = (before, side - 28 - before)
        self._originals = F.pad(torch.from_numpy(images)[:, None], margin * 2)
        self._affine = None if affine is None else AffineRange(**affine)
        self._redraw = redraw
        self.images: Tensor = self._originals
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the maps of an epoch, for all digits together; persistent workers of a loader would not see them."""
        if self._affine is not None and (self._redraw or epoch == 0):
            self.images = affine_images(self._originals, self._affine, seed=self.seed * 100_003 + epoch)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict[str, Tensor | int]:
        return dict(inputs=self.images[idx], labels=self.labels[idx])


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, ``path`` itself or ``path.gz``.

    Raises:
        InputError: neither file exists, or the content contradicts the header.
    """
    packed = path.with_name(f'{path.name}.gz')
    if not path.is_file() and not packed.is_file():
        raise InputError(f'{path}[.gz]: no such file; see data/README.md for where MNIST goes')
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
        zeros, kind, dims = struct.unpack('>HBB', content[:4])
        shape = struct.unpack(f'>{dims}I', content[4 : 4 + 4 * dims])
        if zeros or kind != 8:
            raise ValueError('not an IDX file of bytes')
        # Copy, because torch expects writable memory.
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape).copy()
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise InputError(f'{path}: damaged ({error}); download it again') from error
