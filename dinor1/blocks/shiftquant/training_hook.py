"""Hook of integer training: noise of every iteration, statistics of gradients, count of integer products."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from dinor1.ops import register_flops
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError

from .convert import set_enabled
from .gradient_stats import GradientStats
from .layers import IntegerLayer
from .macs import MacMeter
from .noise import noise_sources
from .report import QuantReport

# Room for the quantizations of one iteration in a noise source's position.
_DRAWS_PER_ITERATION = 2**20


class IntegerTrainingHook(Hook):
    """Per-iteration work of :class:`~dinor1.blocks.shiftquant.converter.IntegerTraining`, which makes this hook.

    The noise of an iteration depends only on (seed, layer, rank, iteration), so that a resumed run repeats it on every
    process. The scalar ``integer_macs`` is the integer share of the multiply-accumulates of the first forward pass.

    Args:
        report: Report of the conversion; the hook adds the multiply-accumulates.
        start_iter: Iterations in floating point before quantization begins.
        stats_interval: Iterations between two measurements of the quantized gradients, logged as ``grad_zeros`` (share
            of codes that are zero) and ``grad_group_K`` (share of channels in group K; group 0 has the largest
            gradients). 0: no measurements.

    Raises:
        InputError: an argument is negative.
    """

    priority = 'VERY_HIGH'

    def __init__(self, report: QuantReport, start_iter: int = 0, stats_interval: int = 0) -> None:
        check_intervals(start_iter, stats_interval)
        self.report, self.start_iter, self.stats_interval = report, start_iter, stats_interval
        self._handles: list[Any] = []

    def before_run(self, runner: Runner) -> None:
        """Log the report of the conversion."""
        runner.logger.info(f'Integer training: {self.report}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the noise of the iteration, and switch measurements on or off."""
        # Switch integer training on when it begins.
        model = unwrapped(runner.model)
        set_enabled(model, runner.iter >= self.start_iter)
        # The noise depends on the iteration alone, so that a resumed run has the same.
        for source in noise_sources(model).values():
            source.position = runner.iter * _DRAWS_PER_ITERATION
        # Measure gradients at intervals.
        watched = self.stats_interval > 0 and self.every_n_train_iters(runner, self.stats_interval)
        for layer in _integer_layers(model):
            layer.stats = GradientStats() if watched else None
        self._measure_first_forward(runner, 'train')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log the measurements of the iteration."""
        self._drop_handles()
        # Collect the measurements of all layers.
        stats = [layer.stats for layer in _integer_layers(unwrapped(runner.model)) if layer.stats is not None]
        shares = [s.group_shares() for s in stats if s.group_shares()]
        # Log the mean share of zeros and of each group.
        if shares:
            zeros = sum(s.zero_share() for s in stats) / len(stats)
            runner.message_hub.update_scalar('train/grad_zeros', zeros)
            for k, share in enumerate(zip(*shares, strict=True)):
                runner.message_hub.update_scalar(f'train/grad_group_{k}', sum(share) / len(share))

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Count the operations of the first forward pass."""
        self._measure_first_forward(runner, 'test')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Stop counting."""
        self._drop_handles()

    def _measure_first_forward(self, runner: Runner, phase: str) -> None:
        report, model = self.report, unwrapped(runner.model)
        if report.macs is not None or runner.iter < self.start_iter and phase == 'train':
            return
        register_flops()
        meter = MacMeter(model)

        # Functions, not methods: copies of the model must not copy the runner.
        def begin(_: nn.Module, args: tuple) -> None:
            if report.macs is None:
                meter.start()

        def end(_: nn.Module, args: tuple, output: Any) -> None:
            if report.macs is None:
                report.macs = meter.stop()
                runner.logger.info(f'Integer training: {report.summary()}')
                runner.message_hub.update_scalar(f'{phase}/integer_macs', report.macs.share)

        self._handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]

    def _drop_handles(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def check_intervals(start_iter: int, stats_interval: int) -> None:
    """Check numbers of iterations.

    Raises:
        InputError: a number is negative.
    """
    if start_iter < 0 or stats_interval < 0:
        raise InputError(
            f'IntegerTraining: start_iter and stats_interval must not be negative, got {start_iter} and '
            f'{stats_interval}'
        )


def _integer_layers(model: nn.Module) -> list[IntegerLayer]:
    return [module for module in model.modules() if isinstance(module, IntegerLayer)]
