"""Reproducible training: random numbers depend only on (seed, rank, iteration), also after a resume."""

from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from dinor1.datasets.seeding import set_epoch
from dinor1.registry import HOOKS

_LARGE_PRIME = 2_147_483_629


@HOOKS.register_module()
class ReproducibilityHook(Hook):
    """Seeds the randomness of the model per iteration, and continues an interrupted epoch after a resume.

    - Before each iteration torch's generators are seeded from (seed, rank, iteration): prompt draws, denoising noise
      and dropout do not depend on earlier iterations.
    - The data set, also inside a wrapper, receives the epoch and seeds the augmentation of each sample from it
      (:class:`dinor1.datasets.SeededPipelineMixin`). In an iteration-based loop, a pass over the data is an epoch.
    - After a resume within an epoch, the batches already seen are skipped without being loaded, if the data loader uses
      :class:`dinor1.datasets.ResumableBatchSampler`. MMEngine alone would repeat the epoch from its start.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Pass the epoch to the data set, and skip the batches seen before a resume."""
        # Pass the epoch to the data set.
        loader = runner.train_dataloader
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        set_epoch(loader.dataset, runner.epoch if by_epoch else runner.iter // len(loader))
        # Skip the batches of the epoch that were seen before a resume.
        if by_epoch:
            seen = runner.iter - runner.epoch * len(loader)
            if seen > 0 and hasattr(loader.batch_sampler, 'skip_batches'):
                runner.logger.info(f'Continuing epoch {runner.epoch + 1} after batch {seen} of {len(loader)}')
                loader.batch_sampler.skip_batches(seen)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """In an iteration-based loop, pass the next epoch to the data set when a pass over it ends."""
        passes, rest = divmod(runner.iter + 1, len(runner.train_dataloader))
        if rest == 0 and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            set_epoch(runner.train_dataloader.dataset, passes)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch's generators on all devices for this iteration."""
        torch.manual_seed((runner.seed * 1_000_003 + get_rank() * 7_919 + runner.iter * 104_729) % _LARGE_PRIME)
