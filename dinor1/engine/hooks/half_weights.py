"""Write the weights in half precision to one file while a training runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dinor1.registry import HOOKS
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path


@HOOKS.register_module()
class HalfWeightsHook(Hook):
    """Keeps a small file with the latest weights, for a machine that may be lost before the training ends.

    The file is replaced every ``seconds`` and at the end of the training. It loads like any checkpoint, but no training
    can be resumed from it, because it has no optimizer state.

    Args:
        path: File to write, ``.pth``.
        seconds: Time between two writes, in seconds, > 0.

    Raises:
        InputError: ``seconds`` is not positive.
    """

    priority = 'VERY_LOW'

    def __init__(self, path: str, seconds: float = 60.0) -> None:
        if seconds <= 0:
            raise InputError(f'HalfWeightsHook.seconds must be positive, got {seconds}')
        self.path = Path(path)
        self.seconds = seconds
        self._due = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._due = time.monotonic() + self.seconds

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Write the weights if they are due."""
        if time.monotonic() >= self._due:
            self._write(runner, runner.iter + 1)
            self._due = time.monotonic() + self.seconds

    def after_train(self, runner: Runner) -> None:
        """Write the final weights."""
        self._write(runner, runner.iter)

    def _write(self, runner: Runner, iteration: int) -> None:
        if not is_main_process():
            return
        weights = half_precision(unwrapped(runner.model).state_dict())
        with atomic_path(self.path) as temporary:
            torch.save(dict(state_dict=weights, meta=dict(epoch=runner.epoch, iter=iteration)), temporary)


def half_precision(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy weights to the CPU in float16; integers, and tensors with values too large for float16, keep their type."""
    made = {}
    for name, value in state_dict.items():
        value = value.detach().cpu()
        half = value.half() if value.is_floating_point() else value
        made[name] = half if half.isfinite().all() or not value.isfinite().all() else value
    return made
