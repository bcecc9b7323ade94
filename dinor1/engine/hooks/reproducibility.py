"""Training whose every iteration depends on (seed, rank, iteration) alone, so that a resumed run repeats it."""

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
    """Seeds the model's randomness per iteration and continues an epoch where a checkpoint left it.

    - Before each iteration torch's generators are seeded from (seed, rank, iteration): prompt draws, denoising noise
      and dropout do not depend on what ran before.
    - The data set, also one within a wrapper, learns the epoch, from which it seeds its augmentation per sample
      (:class:`dinor1.datasets.SeededPipelineMixin`). In a loop of iterations a pass over the data is an epoch.
    - After a resume inside an epoch, the batches already seen are skipped without reading them, if the loader uses
      :class:`dinor1.datasets.ResumableBatchSampler`. MMEngine alone would repeat the epoch from its start.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the data set the epoch; skip what was seen before a resume."""
        loader = runner.train_dataloader
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        set_epoch(loader.dataset, runner.epoch if by_epoch else runner.iter // len(loader))
        if by_epoch:
            seen = runner.iter - runner.epoch * len(loader)
            if seen > 0 and hasattr(loader.batch_sampler, 'skip_batches'):
                runner.logger.info(f'Continuing epoch {runner.epoch + 1} after batch {seen} of {len(loader)}')
                loader.batch_sampler.skip_batches(seen)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """In a loop of iterations, which knows no epochs: tell the data set that a pass over it has ended."""
        passes, rest = divmod(runner.iter + 1, len(runner.train_dataloader))
        if rest == 0 and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            set_epoch(runner.train_dataloader.dataset, passes)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed torch, on every device, for this iteration."""
        torch.manual_seed((runner.seed * 1_000_003 + get_rank() * 7_919 + runner.iter * 104_729) % _LARGE_PRIME)
