"""Hook that logs the norms of weights during training."""

import re
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from dinor1.registry import HOOKS
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError


@HOOKS.register_module()
class WeightNormHook(Hook):
    r"""Logs the mean L2 norm of groups of weights, as ``weight_norm/LABEL`` among the scalars of training.

    A scale-invariant weight turns less per step the larger its norm is: the effective learning rate is lr / norm^2
    (AdamP, arXiv 2006.08217). Norms are of whole tensors, measured on the device after the update; the means are copied
    to the host once per interval. Under FSDP they are norms of this process's shards.

    Args:
        patterns: Label -> regular expression, searched in the parameters' names (``dict(conv=r'conv\d\.weight$')``).
        interval: Iterations between two measurements. The log shows the latest; use a divisor of the logger's interval.

    Raises:
        InputError: there is no pattern, one is not a regular expression, or the interval is below 1.
    """

    def __init__(self, patterns: dict[str, str], interval: int = 50) -> None:
        # Check the arguments.
        if not patterns:
            raise InputError("WeightNormHook: no patterns; give at least one, e.g. patterns=dict(all='weight$')")
        if interval < 1:
            raise InputError(f'WeightNormHook: interval must be at least 1, got {interval}')
        self.interval = interval
        # Compile the patterns.
        self._patterns: dict[str, re.Pattern] = {}
        for label, pattern in patterns.items():
            try:
                self._patterns[label] = re.compile(pattern)
            except re.error as error:
                raise InputError(
                    f'WeightNormHook: pattern {pattern!r} of {label!r} is not a regular expression: {error}'
                ) from None
        self._weights: dict[str, list[Tensor]] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the weights that each pattern matches.

        Raises:
            InputError: a pattern matches no parameter.
        """
        parameters = dict(unwrapped(runner.model).named_parameters())
        for label, pattern in self._patterns.items():
            matching = [parameter for name, parameter in parameters.items() if pattern.search(name)]
            if not matching:
                raise InputError(
                    f'WeightNormHook: pattern {pattern.pattern!r} of {label!r} matches no parameter of the model; '
                    f'their names are like {list(parameters)[:3]}'
                )
            self._weights[label] = matching

    @torch.no_grad()
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log the mean norm of each group of weights, every ``interval`` iterations."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        means = torch.stack([torch.stack(torch._foreach_norm(w)).mean() for w in self._weights.values()])
        for label, mean in zip(self._weights, means.tolist(), strict=True):
            runner.message_hub.update_scalar(f'train/weight_norm/{label}', mean)
