"""Random augmentation that depends on seed, epoch and sample only."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dinor1.registry import DATASETS
from dinor1.utils.component_check import arguments


@contextlib.contextmanager
def _seeded(seed: int, epoch: int, idx: int) -> Iterator[None]:
    """Seed ``random`` and ``numpy.random`` from the three numbers, and restore their states on exit.

    Without worker processes, these are the generators of the training process itself; if their states were not
    restored, every sample would reset them.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(f'{seed}/{epoch}/{idx}')
    np.random.seed((seed, epoch, idx))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def set_epoch(dataset: Any, epoch: int) -> None:
    """Set the epoch of a data set, and of the data sets within a wrapper such as ``ConcatDataset``."""
    if hasattr(dataset, 'set_epoch'):
        dataset.set_epoch(epoch)
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for one in inner:
        if one is not None:
            set_epoch(one, epoch)


def set_seed(cfg: dict[str, Any], seed: int) -> None:
    """Write a seed into the config of a data set, or of the data sets within a wrapper, where the class takes one."""
    inner = cfg.get('datasets') or ([cfg['dataset']] if 'dataset' in cfg else [])
    for one in inner:
        set_seed(one, seed)
    kind = cfg['type'] if isinstance(cfg['type'], type) else DATASETS.get(cfg['type'])
    if not inner and kind and 'seed' in arguments(kind):
        cfg['seed'] = seed


class SeededPipelineMixin:
    """Mixin for MMEngine data sets: sample ``idx`` of epoch ``e`` is always augmented in the same way.

    The data then do not depend on the order in which samples are read, on the number of worker processes, or on
    an interruption in the middle of an epoch. Put it before the data set class::

        class MyDataset(SeededPipelineMixin, BaseDetDataset): ...

    Transforms must draw from ``random`` or ``numpy.random``, as those of MMCV and MMDetection do; PyTorch's
    generator is not seeded. The training loop calls :func:`set_epoch`. Under ``RepeatDataset`` and
    ``ClassBalancedDataset``, the copies of a sample within one epoch are equal.

    Args:
        seed: Not negative; ``None`` leaves the random generators as they are. In test mode nothing is seeded.
    """

    def __init__(self, *args: Any, seed: int | None = 0, **kwargs: Any) -> None:
        self.seed = seed
        # Shared memory, because persistent workers keep the copy of the data set that they were started with.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        super().__init__(*args, **kwargs)

    @property
    def epoch(self) -> int:
        """The epoch whose augmentations are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose augmentations are drawn next, in all worker processes."""
        self._epoch.fill_(epoch)

    def __getitem__(self, idx: int) -> Any:
        if self.test_mode or self.seed is None:
            return super().__getitem__(idx)
        with _seeded(self.seed, self.epoch, idx % len(self)):
            return super().__getitem__(idx)
