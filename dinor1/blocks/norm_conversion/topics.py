"""English text without a download: the reference texts that come with Python, as bytes."""

from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError


@DATASETS.register_module()
class PythonTopics(Dataset):
    """Blocks of bytes for a language model; ``dict(input_ids=(block_size,) int64)`` per sample.

    About 700 kB. The text differs slightly between versions of Python: compare results of one version only.

    Args:
        split: ``train``: blocks at random offsets in the first 90 %; ``test``: consecutive blocks of the rest.
        block_size: Bytes per sample, at least 2.
        num_samples: Samples per epoch of ``train``.
        seed: Seed of the offsets, which are redrawn in every epoch.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, split: str = 'train', block_size: int = 64, num_samples: int = 4096, seed: int = 0) -> None:
        # Check the arguments.
        if split not in ('train', 'test'):
            raise InputError(f'PythonTopics: split must be train or test, got {split!r}')
        if block_size < 2 or num_samples < 1:
            raise InputError(
                f'PythonTopics: expected block_size >= 2 and num_samples >= 1, got {block_size} and {num_samples}'
            )
        # Train on the first 90 % of the text, and test on the rest.
        text = '\n'.join(topics[name] for name in sorted(topics)).encode()
        cut = len(text) * 9 // 10
        self._bytes = np.frombuffer(text[:cut] if split == 'train' else text[cut:], np.uint8)
        self.metainfo = dict(vocabulary_size=256)
        self.split, self.block_size, self.num_samples, self.seed = split, block_size, num_samples, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the offsets of an epoch."""
        if self.split == 'test':
            self._offsets = np.arange(0, len(self._bytes) - self.block_size, self.block_size)
        else:
            generator = np.random.default_rng([self.seed, epoch])
            self._offsets = generator.integers(0, len(self._bytes) - self.block_size, self.num_samples)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, idx: int) -> dict[str, Tensor]:
        block = self._bytes[self._offsets[idx] : self._offsets[idx] + self.block_size]
        return dict(input_ids=torch.from_numpy(block.astype(np.int64)))
