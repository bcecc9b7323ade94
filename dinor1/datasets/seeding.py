"""Random augmentation that depends on the sample and the epoch, and on nothing else."""

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
    """Seed ``random`` and ``numpy.random`` from the three numbers; put their states back on exit.

    Without the restore, a run without worker processes would have the generators of the training process
    itself rewound at every sample.
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
    """Tell a data set the epoch, and those within it: of ``ConcatDataset``, ``RepeatDataset`` and other wrappers."""
    if hasattr(dataset, 'set_epoch'):
        dataset.set_epoch(epoch)
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for one in inner:
        if one is not None:
            set_epoch(one, epoch)


def set_seed(cfg: dict[str, Any], seed: int) -> None:
    """Write a seed into the config of a data set, or of those within it, where the class takes one."""
    inner = cfg.get('datasets') or ([cfg['dataset']] if 'dataset' in cfg else [])
    for one in inner:
        set_seed(one, seed)
    kind = cfg['type'] if isinstance(cfg['type'], type) else DATASETS.get(cfg['type'])
    if not inner and kind and 'seed' in arguments(kind):
        cfg['seed'] = seed


class SeededPipelineMixin:
    """Mixin for MMEngine data sets: sample ``idx`` of epoch ``e`` is always augmented in the same way.

    The order in which samples are read, the number of worker processes and an interruption in the middle of
    an epoch then leave no trace in the data. Put it in front of the data set class::

        class MyDataset(SeededPipelineMixin, BaseDetDataset): ...

    Transforms must draw from ``random`` or ``numpy.random``, as those of MMCV and MMDetection do; PyTorch's
    generator is left alone. The training loop calls :func:`set_epoch`. Under ``RepeatDataset`` and
    ``ClassBalancedDataset`` the copies of a sample within one epoch come out equal.

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
        """Choose the epoch (from 0) whose augmentations are drawn next, in all worker processes at once."""
        self._epoch.fill_(epoch)

    def __getitem__(self, idx: int) -> Any:
        if self.test_mode or self.seed is None:
            return super().__getitem__(idx)
        with _seeded(self.seed, self.epoch, idx % len(self)):
            return super().__getitem__(idx)
