"""Integer training of any model, as a hook on the standard Runner."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn.bricks import wrappers
from mmengine.hooks import Hook
from mmengine.model import MMFullyShardedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from dinor1.blocks.shiftquant import (
    GradientStats,
    IntegerLayer,
    MacMeter,
    QuantReport,
    noise_sources,
    quantize_model,
    set_enabled,
)
from dinor1.ops import register_flops
from dinor1.registry import HOOKS
from dinor1.utils.errors import InputError

# MMCV's wrappers add the treatment of empty tensors for old versions of torch, and nothing else.
_ALIASES = (wrappers.Linear, wrappers.Conv2d)
# Room for the quantizations of one iteration in a noise source's position.
_DRAWS_PER_ITERATION = 2**20


@HOOKS.register_module()
class IntegerTrainingHook(Hook):
    """Trains and tests the model on integer grids (:mod:`dinor1.blocks.shiftquant`); a config says so in one line::

        quantization = dict(bits=(4, 4, 4), skip=['backbone.conv1', 're:.*head.*'])

    Before a run, and before weights are loaded, layers are replaced by integer layers that have the same Parameter
    objects: the optimizer and a DDP wrapper, which exist already, stay valid. Checkpoints have the names of the
    floating-point model, except for L1 batch norms.

    The noise of an iteration depends on (seed, layer, rank, iteration) alone, so that a resumed run repeats it on every
    process. The scalar ``integer_macs`` of training is the integer share of the first forward pass's
    multiply-accumulates.

    Args:
        bits, skip, groups, backend, norm, **options: See :func:`dinor1.blocks.shiftquant.quantize_model`.
        start_iter: Iterations in floating point before quantization begins.
        seed: Of the noise; None: the run's seed.
        stats_interval: Iterations between two measurements of the quantized gradients, logged as ``grad_zeros``, the
            share of codes that are zero, and ``grad_group_K``, the share of channels in group K, 0 being that of the
            largest gradients. 0: none.

    Raises:
        InputError: a setting out of range; in a run, a model without a layer to replace, or one under FSDP.
    """

    priority = 'VERY_HIGH'
    replaces_layers = True  # see convert_now

    def __init__(
        self,
        bits: Sequence[int] = (4, 4, 4),
        skip: Sequence[str] | None = None,
        groups: int | str | None = None,
        backend: str = 'sim',
        norm: str | None = None,
        start_iter: int = 0,
        seed: int | None = None,
        stats_interval: int = 0,
        **options: Any,
    ) -> None:
        if start_iter < 0 or stats_interval < 0:
            raise InputError(
                f'IntegerTrainingHook: start_iter and stats_interval must not be negative, got {start_iter} and '
                f'{stats_interval}'
            )
        self.settings = dict(bits=tuple(bits), skip=skip, groups=groups, backend=backend, norm=norm, **options)
        self.start_iter, self.seed, self.stats_interval = start_iter, seed, stats_interval
        self.report: QuantReport | None = None
        self._handles: list[Any] = []

    def convert(self, model: nn.Module, seed: int = 0) -> QuantReport:
        """Replace the layers of ``model``, unless this hook has done so already; ``seed`` is the run's.

        Raises:
            InputError: there is nothing to replace.
        """
        if self.report is None or not noise_sources(model):
            seed = seed if self.seed is None else self.seed
            self.report = quantize_model(model, seed=seed, aliases=_ALIASES, **self.settings)
            if not self.report.names('replaced'):
                raise InputError(
                    f'IntegerTrainingHook: no layer of {type(model).__name__} was replaced; check skip. '
                    f'{self.report}'.replace('\n', '; ')
                )
        return self.report

    def before_run(self, runner: Runner) -> None:
        """Replace layers and log which."""
        if isinstance(runner.model, MMFullyShardedDataParallel):
            raise InputError('IntegerTrainingHook: FSDP holds on to the layers themselves; use DDP')
        known = self.report
        before = {id(parameter) for parameter in runner.model.parameters()}
        report = self.convert(_unwrap(runner.model), runner.seed or 0)
        if {id(parameter) for parameter in runner.model.parameters()} != before:
            raise RuntimeError('IntegerTrainingHook: a replaced layer has another Parameter than the optimizer')
        if report is not known:
            runner.logger.info(f'Integer training: {report}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the noise, and what is watched in this iteration."""
        model = _unwrap(runner.model)
        set_enabled(model, runner.iter >= self.start_iter)
        for source in noise_sources(model).values():
            source.position = runner.iter * _DRAWS_PER_ITERATION
        watched = self.stats_interval > 0 and self.every_n_train_iters(runner, self.stats_interval)
        for layer in _integer_layers(model):
            layer.stats = GradientStats() if watched else None
        self._measure_first_forward(runner, 'train')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log what was watched."""
        self._drop_handles()
        model = _unwrap(runner.model)
        stats = [layer.stats for layer in _integer_layers(model) if layer.stats is not None]
        shares = [s.group_shares() for s in stats if s.group_shares()]
        if shares:
            zeros = sum(s.zero_share() for s in stats) / len(stats)
            runner.message_hub.update_scalar('train/grad_zeros', zeros)
            for k, share in enumerate(zip(*shares, strict=True)):
                runner.message_hub.update_scalar(f'train/grad_group_{k}', sum(share) / len(share))

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Count the first forward pass."""
        self._measure_first_forward(runner, 'test')

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence | None = None
    ) -> None:
        """Stop counting."""
        self._drop_handles()

    def _measure_first_forward(self, runner: Runner, phase: str) -> None:
        report, model = self.report, _unwrap(runner.model)
        if report.macs is not None or runner.iter < self.start_iter and phase == 'train':
            return
        register_flops()
        meter = MacMeter(model)

        # Functions, not methods: whoever copies the model meanwhile must not copy the runner with it.
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


def convert_now(runner: Runner) -> None:
    """Let the hooks of ``runner`` that replace layers do so already, before a checkpoint is compared."""
    for hook in runner.hooks:
        if getattr(hook, 'replaces_layers', False):
            hook.before_run(runner)


def _integer_layers(model: nn.Module) -> list[IntegerLayer]:
    return [module for module in model.modules() if isinstance(module, IntegerLayer)]


def _unwrap(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
