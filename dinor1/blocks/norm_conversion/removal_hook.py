"""Hook that removes the LayerNorms of a model during training.

S. Heimersheim, arXiv 2409.13710; L. Baroni, G. Khara, J. Schaeffer, M. Subkhankulov and S. Heimersheim,
arXiv 2507.02559: during fine-tuning, one norm after another is switched from each token's own deviation to a constant.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from dinor1.blocks.normalization.fixed_std_norm import FixedStdLayerNorm
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError
from dinor1.utils.recomputation import is_recomputing

from .layernorm_stages import DEFAULT_ORDER, check_order, has_split_values, removal_stages, stage_of
from .remove_layernorm import swap_layernorm_for_fixed_std


class LayerNormRemovalHook(Hook):
    """Switches the LayerNorms of a model to constants, one every few optimizer steps; adds the auxiliary loss.

    Before the first iteration it replaces LayerNorms by :class:`~dinor1.blocks.normalization.FixedStdLayerNorm`, unless
    the model has these already. The state is in the buffers of the norms, which checkpoints contain, so that a resumed
    run continues its schedule. Fold the trained model with :func:`dinor1.blocks.norm_conversion.remove_layernorm`.

    The auxiliary loss makes the vectors of a text or image equally long, so that one constant fits all of them:
    ``aux_weight * mean over tokens of (sigma - target)^2``, with ``sigma = sqrt(var_c(x) + eps)`` at the input of the
    last norm and ``target`` the mean of ``sigma`` over all tokens but the first, without gradient. It appears in the
    log as ``loss_ln_std``.

    Args:
        order: Stages in the order of their removal. ``mlp``, ``attention``: norms before these; ``values``: attention
            norms as read by values (``attention`` then means queries and keys only); ``final``: all other norms;
            ``first``: the separate divisor of the first position, all norms together (needs ``per_position``).
        start: Optimizer step, from 0, before which the first norm of each stage is switched: one number per stage, or
            one for the first stage. In the latter case each other stage begins when the one before has ended, as in the
            papers, ``start + gap * number of norms``.
        gap: Optimizer steps from one norm to the next of a stage, for all stages or one number per stage.
        aux_weight: Weight of the auxiliary loss; 0 for none. The papers use 0.1, and 0.01 to 0.03 for large models.
        aux_norm: Name, within ``target``, of the norm whose input the auxiliary loss measures; None: the last one of
            stage ``final``.
        first_is_special: Whether the first token (start of text, class token) is excluded from ``target``.
        target: Name of the submodule to work on, such as ``backbone``; empty: the whole model.
        momentum: See :class:`~dinor1.blocks.normalization.FixedStdLayerNorm`.
        per_position: See :class:`~dinor1.blocks.normalization.FixedStdLayerNorm`.

    Raises:
        InputError: an argument is out of range; in a run, the model has no LayerNorm of the stages in ``order``, or an
            ``target`` or ``aux_norm`` is unknown.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        order: Sequence[str] = DEFAULT_ORDER,
        start: int | Sequence[int] = 20,
        gap: int | Sequence[int] = 2,
        aux_weight: float = 0.1,
        aux_norm: str | None = None,
        first_is_special: bool = True,
        target: str = '',
        momentum: float = 0.9,
        per_position: int | None = None,
    ) -> None:
        # Check the arguments.
        try:
            self.order = check_order(order)
        except ValueError as error:
            raise InputError(f'LayerNormRemovalHook: {error}') from None
        self.start = start if isinstance(start, int) else self._per_stage('start', start)
        self.gap = self._per_stage('gap', [gap] * len(self.order) if isinstance(gap, int) else gap)
        # A norm must measure at least one batch before it is switched.
        if min([self.start] if isinstance(self.start, int) else self.start) < 1 or min(self.gap) < 0 or aux_weight < 0:
            raise InputError(
                f'LayerNormRemovalHook: expected start >= 1, gap >= 0 and aux_weight >= 0, got start={start}, '
                f'gap={gap} and aux_weight={aux_weight}'
            )
        self.aux_weight, self.aux_norm, self.first_is_special = aux_weight, aux_norm, first_is_special
        self.target, self.momentum, self.per_position = target, momentum, per_position
        self.schedule: list[tuple[int, str, str]] = []
        self._pending: list[tuple[int, str, str]] = []
        self._sigmas: list[Tensor] = []
        self._handles: list[Any] = []

    def _per_stage(self, name: str, numbers: Sequence[int]) -> tuple[int, ...]:
        if len(numbers) != len(self.order):
            raise InputError(
                f'LayerNormRemovalHook: {name} needs one number per stage of {list(self.order)}, got {list(numbers)}'
            )
        return tuple(numbers)

    def prepare(self, model: nn.Module) -> None:
        """Swap the norms of ``model`` in place and make the schedule. A second call does nothing.

        Raises:
            InputError: there is no submodule ``target``, or no LayerNorm of the stages in ``order``.
        """
        if self.schedule:
            return
        # Swap the norms.
        module = self._part(model)
        if not any(isinstance(m, FixedStdLayerNorm) for m in module.modules()):
            swap_layernorm_for_fixed_std(
                module, self.order, momentum=self.momentum, per_position=self.per_position, inplace=True
            )
        # Schedule their switches.
        stages = removal_stages(module, self.order)
        if not any(stages.values()):
            raise InputError(
                f'LayerNormRemovalHook: no LayerNorm of {type(module).__name__} belongs to a stage of '
                f'{list(self.order)}; check order and target'
            )
        self.schedule = self.make_schedule(stages)

    def before_run(self, runner: Runner) -> None:
        """Swap, unless :class:`~.converter.LayerNormRemoval` has done it, and log the schedule."""
        model = unwrapped(runner.model)
        self.prepare(model)
        report = getattr(self._part(model), 'norm_report', None)
        if report is not None:
            runner.logger.info(str(report))
        runner.logger.info('LayerNorm removal: ' + ', '.join(f'{at}: {name} ({s})' for at, s, name in self.schedule))

    def make_schedule(self, stages: dict[str, list[str]]) -> list[tuple[int, str, str]]:
        """All switches as (optimizer step, stage, norm); those of stage ``first`` have the same step."""
        schedule = []
        begin = self.start if isinstance(self.start, int) else 0
        for i, (stage, names) in enumerate(stages.items()):
            # A stage begins at its given step, or when the previous stage ends.
            if not isinstance(self.start, int):
                begin = self.start[i]
            # Switch the norms of a stage one after the other, but those of the stage `first` together.
            together = stage == 'first'
            schedule += [(begin + (0 if together else k * self.gap[i]), stage, name) for k, name in enumerate(names)]
            begin += self.gap[i] * (1 if together else len(names))
        return sorted(schedule, key=lambda switch: switch[0])

    def before_train(self, runner: Runner) -> None:
        """Drop switches that the checkpoint already has, and hook the norm of the auxiliary loss."""
        module = self._part(unwrapped(runner.model))
        self._pending = [s for s in self.schedule if not _is_done(module.get_submodule(s[2]), s[1])]
        if self.aux_weight == 0:
            return
        # Find the norm of the auxiliary loss.
        names = [name for name, m in module.named_modules() if isinstance(m, FixedStdLayerNorm)]
        name = self.aux_norm or ([name for name in names if stage_of(name) == 'final'] or names)[-1]
        try:
            norm = module.get_submodule(name)
        except AttributeError:
            raise InputError(f'LayerNormRemovalHook: the model has no norm called {name!r}; check aux_norm') from None
        self._handles = [
            norm.register_forward_pre_hook(self._measure),
            unwrapped(runner.model).register_forward_hook(self._add_loss),
        ]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Switch the norms that are due."""
        step = runner.iter // getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        while self._pending and self._pending[0][0] <= step:
            _, stage, name = self._pending.pop(0)
            norm = self._part(unwrapped(runner.model)).get_submodule(name)
            # Average over processes, each of which has measured its share of the batch.
            all_reduce(norm.std, 'mean')
            if stage == 'first':
                norm.drop_first_position()
            else:
                split = has_split_values(norm)
                norm.fix(main=stage != 'values', values=stage == 'values' or not split)
            runner.logger.info(f'LayerNorm removal, step {step}: {name} ({stage}), S = {norm.std.flatten().tolist()}')

    def after_train(self, runner: Runner) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._sigmas = [], []

    def _measure(self, norm: FixedStdLayerNorm, args: tuple) -> None:
        if norm.training and not is_recomputing():
            x = args[0].float()
            self._sigmas.append((x.var(-1, correction=0) + norm.eps).sqrt())

    def _add_loss(self, model: nn.Module, args: tuple, output: Any) -> Any:
        """Add the auxiliary loss to a dict of losses; other outputs are returned unchanged."""
        sigmas, self._sigmas = self._sigmas, []
        if not sigmas or not isinstance(output, dict) or not model.training:
            return output
        losses = [self.std_loss(sigma) for sigma in sigmas]
        return {**output, 'loss_ln_std': self.aux_weight * torch.stack(losses).mean()}

    def std_loss(self, sigma: Tensor) -> Tensor:
        """Auxiliary loss, without its weight, of deviations ``sigma`` (..., tokens)."""
        others = sigma[..., 1:] if self.first_is_special and sigma.shape[-1] > 1 else sigma
        return (sigma - others.detach().mean()).square().mean()

    def _part(self, model: nn.Module) -> nn.Module:
        try:
            return model.get_submodule(self.target)
        except AttributeError:
            raise InputError(
                f'LayerNormRemovalHook: {type(model).__name__} has no submodule {self.target!r}; check target'
            ) from None


def _is_done(norm: FixedStdLayerNorm, stage: str) -> bool:
    if stage == 'first':
        return bool((norm.std == norm.std[-1]).all()) and bool(norm.std[-1] > 0)
    return bool(norm.v_is_fixed if stage == 'values' else norm.is_fixed)
