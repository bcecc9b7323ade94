"""Weights of additional losses from the ratio of gradients at the decoder's outputs.

A weight that suits one loss, data set or model does not suit another. Here a loss gets a share s of the gradient of the
detection losses: lambda = s |g_detection| / |g_loss|, measured once and then kept, so that the objective does not
change during the rest of the training.
"""

import copy
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from dinor1.registry import HOOKS
from dinor1.utils.distributed import unwrapped
from dinor1.utils.errors import InputError

from .loss_gradients import sum_of_losses, unchanged_detector

_KEY = 'loss_balance'
_DETECTION = r'(d\d+\.)?loss_(cls|bbox|iou)'


@HOOKS.register_module()
class LossBalanceHook(Hook):
    """Sets ``loss_weight`` of losses of the head from their gradients, and keeps it.

    After ``warmup`` iterations, each of the next ``num_batches`` batches also runs through the model for a measurement,
    with the same random numbers; buffers and random state are restored. A measurement compares two gradients with
    respect to the decoder's outputs for the selected queries: that of the detection losses of all decoder layers, and
    that of the loss with weight 1. The weight of the loss is its share times the median of the ratios of their norms. A
    batch in which one of the norms is 0, for example without objects, does not count. Until the weight is known, it is
    0. A measurement costs about as much as an iteration.

    The hook saves weights and measurements with every checkpoint, and a resumed training continues with them.

    Args:
        shares: Name of a loss of the head, such as ``loss_ranking`` -> its share s > 0 of the gradient.
        warmup: Number of iterations before the first measurement, >= 0.
        num_batches: Number of measurements, >= 1.

    Attributes:
        ratios: Name of a loss -> measured ratios.
        weights: Name of a loss -> its weight; empty until all ratios are measured.

    Raises:
        InputError: a setting is out of range.
    """

    priority = 'LOW'

    def __init__(self, shares: Mapping[str, float], warmup: int = 0, num_batches: int = 50) -> None:
        if not shares or not all(0 < share < math.inf for share in shares.values()):
            raise InputError(f'LossBalanceHook: shares must name losses with shares greater than 0, got {dict(shares)}')
        if warmup < 0 or num_batches < 1:
            raise InputError(
                f'LossBalanceHook: expected warmup >= 0 and num_batches >= 1, got {warmup} and {num_batches}'
            )
        self.shares, self.warmup, self.num_batches = dict(shares), warmup, num_batches
        self.ratios: dict[str, list[float]] = {name: [] for name in shares}
        self.weights: dict[str, float] = {}
        self._measured = 0

    def before_train(self, runner: Runner) -> None:
        """Check that the head has the losses, and set their weights to 0, or to those of a resumed training.

        Raises:
            InputError: a loss is missing, or the model is sharded.
        """
        if isinstance(runner.model, FullyShardedDataParallel):
            raise InputError(
                'LossBalanceHook: a sharded model has no gradient of a single loss; give loss_weight instead'
            )
        head = getattr(unwrapped(runner.model), 'bbox_head', None)
        for name in self.shares:
            if not hasattr(getattr(head, name, None), 'loss_weight'):
                raise InputError(
                    f'LossBalanceHook: model.bbox_head has no {name} with a weight; set model.bbox_head.{name}, or '
                    'remove it from shares'
                )
            getattr(head, name).loss_weight = self.weights.get(name, 0.0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Measure a batch, and set the weights after the last measurement."""
        if self.weights or runner.iter < self.warmup:
            return
        # Measure the ratios of the batch.
        model = unwrapped(runner.model)
        with runner.optim_wrapper.optim_context(runner.model):
            measured = gradient_ratios(model, data_batch, list(self.shares))
        for name, ratio in measured.items():
            if ratio is not None:
                self.ratios[name].append(ratio)
        self._measured += 1
        if self._measured < self.num_batches:
            return
        # Set the weights.
        for name, share in self.shares.items():
            if not self.ratios[name]:
                raise InputError(
                    f'LossBalanceHook: {name} had no gradient in {self.num_batches} batches, so that its weight is '
                    'unknown; increase num_batches, or check the loss'
                )
            self.weights[name] = share * statistics.median(self.ratios[name])
            getattr(model.bbox_head, name).loss_weight = self.weights[name]
            runner.logger.info(f'LossBalanceHook: {name} has weight {self.weights[name]:.4g} from here on')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add weights and measurements to the checkpoint."""
        checkpoint[_KEY] = copy.deepcopy(dict(ratios=self.ratios, weights=self.weights, measured=self._measured))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Continue with weights and measurements of the checkpoint, if the training is resumed from it."""
        state = checkpoint.get(_KEY) if runner._resume else None
        if state is None or set(state['ratios']) != set(self.shares):
            return
        self.ratios, self.weights, self._measured = state['ratios'], state['weights'], state['measured']


def gradient_ratios(model: Any, data_batch: dict, names: Sequence[str]) -> dict[str, float | None]:
    """Ratio of the gradient norms of the detection losses and of other losses, with respect to the decoder's outputs.

    The model does not change. In distributed training the squared norms are summed over the processes.

    Args:
        model: A :class:`dinor1.models.DINOR1` or ``DINOGRQO``, in training mode.
        data_batch: Batch of the data loader; not modified.
        names: Names of losses of the head that have a ``loss_weight``; their ratios are those of weight 1.

    Returns:
        Name -> ratio; None if one of the norms is 0.
    """
    modules = [getattr(model.bbox_head, name) for name in names]
    weights = [module.loss_weight for module in modules]
    with unchanged_detector(model), torch.random.fork_rng(), torch.enable_grad():
        try:
            # Compute the losses with weight 1.
            for module in modules:
                module.loss_weight = 1.0
            data = model.data_preprocessor(copy.deepcopy(data_batch), True)
            losses, output = model.loss_and_output(data['inputs'], data['data_samples'])
        finally:
            for module, weight in zip(modules, weights, strict=True):
                module.loss_weight = weight
        # Differentiate them with respect to the decoder's outputs.
        states = [output.hidden_states]
        if getattr(output, 'branch_states', None) is not None:
            states.append(output.branch_states)
        num_dn = output.denoising.num_queries
        detection = _squared_norm(sum_of_losses(losses, _DETECTION), states, num_dn)
        ratios: dict[str, float | None] = {}
        for name in names:
            own = _squared_norm(sum_of_losses(losses, rf'(d\d+\.)?{name}'), states, num_dn)
            both = torch.stack([detection, own])
            all_reduce(both)
            first, second = both.tolist()
            ratios[name] = math.sqrt(first / second) if first > 0 and second > 0 else None
    return ratios


def _squared_norm(loss: Tensor | None, states: Sequence[Tensor], num_dn: int) -> Tensor:
    """Squared norm of the gradient of a loss with respect to states, without the denoising queries.

    Args:
        loss: Scalar; None: the norm is 0.
        states: Outputs (L, bs, num_dn + Q, C) of the decoder.
        num_dn: Number of denoising queries.
    """
    zero = states[0].new_zeros((), dtype=torch.float64)
    if loss is None or not loss.requires_grad:
        return zero
    gradients = torch.autograd.grad(loss, states, retain_graph=True, allow_unused=True)
    return sum((g[:, :, num_dn:].double().square().sum() for g in gradients if g is not None), zero)
