"""Save a checkpoint when SIGTERM or Ctrl-C ends a run."""

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from dinor1.registry import HOOKS
from dinor1.utils.io import atomic_path

# A second SIGTERM within this time comes from the launcher, after the first SIGTERM from the scheduler.
_DUPLICATE_SECONDS = 5


@HOOKS.register_module()
class GracefulStopHook(Hook):
    """On SIGTERM or SIGINT, finish the iteration, save ``iter_N.pth`` and exit; ``--resume`` continues from there.

    With gradient accumulation the hook waits for the next optimizer step, because checkpoints do not contain gradients.
    A second signal ends the process immediately, except a SIGTERM within five seconds, because launchers send one in
    addition to that of the scheduler. In a distributed run all ranks stop at the same iteration, even if only one
    received the signal, and none exits before the checkpoint is written, because a launcher ends all processes as soon
    as one has exited.

    torchrun and a terminal send signals to whole process groups. The workers of the data loaders leave the group,
    because the iteration would fail without them; they still end with their parent process.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._signal: int | None = None
        self._since = 0.0  # time of the first signal, in seconds
        self._awaited = 0  # iterations since the first signal
        self._previous: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers, and keep signals from the workers of the data loaders."""
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loader = loop.dataloader
                loader.worker_init_fn = functools.partial(_init_worker, loader.worker_init_fn)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: Any) -> None:
        if self._signal is None:
            self._signal, self._since = number, time.monotonic()
        elif number == signal.SIGINT or time.monotonic() - self._since > _DUPLICATE_SECONDS:
            self._give_back()
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save a checkpoint and exit if any rank received a signal."""
        # Exchange the signal between the ranks.
        number = self._signal or 0
        if runner.distributed:
            flag = torch.tensor(number, device=next(runner.model.parameters()).device)
            all_reduce(flag, 'max')
            number = int(flag)
        if not number:
            return
        # Wait for the next optimizer step.
        self._awaited += 1
        if not has_stepped(runner, self._awaited):
            return
        # Save a checkpoint. The parameter schedulers have already stepped: their hook runs before this one.
        filename = f'iter_{runner.iter + 1}.pth'
        runner.save_checkpoint(runner.work_dir, filename=filename, by_epoch=False)
        if is_main_process():
            with atomic_path(Path(runner.work_dir) / 'last_checkpoint') as temporary:
                temporary.write_text(str(Path(runner.work_dir) / filename))
        # Exit when all ranks are here.
        barrier()
        runner.logger.warning(
            f'Stopped by {signal.Signals(number).name} after iteration {runner.iter + 1}; the checkpoint is '
            f'{runner.work_dir}/{filename}. Run the same command with --resume to continue.'
        )
        self._give_back()
        sys.exit(128 + number)

    def after_train(self, runner: Runner) -> None:
        """Restore the previous signal handlers."""
        self._give_back()


def _init_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """Initialise a worker of a data loader in its own process group."""
    os.setpgrp()
    if init is not None:
        init(worker_id)


def has_stepped(runner: Runner, awaited: int) -> bool:
    """Whether no accumulated gradients are left after the current iteration.

    Several optimizers may never step in the same iteration. Then the function also returns True once the hook has
    waited for as many iterations (``awaited``) as the largest number of accumulation steps.
    """
    wrapper = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    if all(w.should_update() for w in wrappers):
        return True
    return awaited >= max(w._accumulative_counts for w in wrappers)
