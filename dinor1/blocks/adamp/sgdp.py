"""SGDP: momentum SGD whose update has no part along scale-invariant weights (arXiv 2006.08217, Algorithm 1)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dinor1.utils.precision import compute_dtype

from .base import Batch, ProjectedOptimizer, Scratch
from .projection import CHANNEL, LAYER, project_, radial_coefficients


class SGDP(ProjectedOptimizer):
    """Momentum SGD with decoupled weight decay and the projection of :mod:`dinor1.blocks.adamp.projection`.

    For every weight w with gradient g::

        b = momentum b + (1 - dampening) g
        d = b                                 or, with nesterov, g + momentum b
        d = d - its part along w              if the weight passes the test
        w = w (1 - lr weight_decay r / (1 - momentum)) - lr d,   r = wd_ratio if it passed, else 1

    Three differences from ``torch.optim.SGD``: dampening acts on the first step too; weight decay does not enter the
    momentum; and it is divided by 1 - momentum, so that the same value decays ten times as fast at momentum 0.9.

    Without nesterov, d *is* the buffer b in the authors' package, so a projection also changes the stored momentum.
    The paper's algorithm does not change the momentum. ``project_buffer`` selects one of the two.

    State dicts are those of the authors' package ``adamp`` and load in both directions.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, a number or a tensor of one; must be given here or in every group.
        momentum: Decay rate of the buffer, in [0, 1).
        dampening: Share of the gradient that does not enter the buffer.
        weight_decay: Decoupled decay.
        nesterov: Look ahead by one step of the buffer.
        eps: Added to the weight's norm in the projection.
        delta: Threshold of the test, in units of a random cosine 1 / sqrt(n); 0 switches it off.
        wd_ratio: Factor of the weight decay where a weight is projected.
        foreach: True: batches of tensors without host synchronisation; False: tensor by tensor; None: chosen per group.
        maximize: Maximise the objective instead of minimising it.
        project_buffer: True: the projected direction replaces the buffer, as in the authors' package. False: the buffer
            is not projected, as in the paper. With nesterov the buffer is never projected.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float | None = None,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        project_buffer: bool = True,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            eps=eps,
            delta=delta,
            wd_ratio=wd_ratio,
            foreach=foreach,
            maximize=maximize,
            project_buffer=project_buffer,
        )
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not 0 <= group['momentum'] <= 1:
            raise ValueError(f'SGDP: momentum must be in [0, 1], got {group["momentum"]}')
        if group['momentum'] == 1 and group['weight_decay'] > 0:
            raise ValueError(
                'SGDP: weight decay is divided by 1 - momentum, here 0; set momentum < 1 or no weight_decay'
            )

    @staticmethod
    def _additions() -> dict[str, Any]:
        return dict(ProjectedOptimizer._additions(), project_buffer=True)

    def _init_state(self, state: dict[str, Any], param: Parameter) -> None:
        state['momentum'] = torch.zeros_like(param)

    def _step_one(self, group: dict[str, Any], param: Parameter, grad: Tensor, state: dict[str, Any]) -> str:
        buffer, momentum, dtype = state['momentum'], group['momentum'], compute_dtype(param)
        # Update the buffer and compute the direction of the step.
        buffer.mul_(momentum).add_(grad, alpha=1 - group['dampening'])
        update = grad + momentum * buffer.to(dtype) if group['nesterov'] else buffer.to(dtype, copy=True)
        # Remove the radial part; optionally keep the projected direction as momentum.
        view = project_(param, grad, update, group['delta'], group['eps'])
        if view in (CHANNEL, LAYER) and group['project_buffer'] and not group['nesterov']:
            buffer.copy_(update)
        # Decay the weight and step.
        if group['weight_decay'] > 0:
            ratio = group['wd_ratio'] if view in (CHANNEL, LAYER) else 1
            param.mul_(1 - group['lr'] * group['weight_decay'] * ratio / (1 - momentum))
        param.add_(update, alpha=-group['lr'])
        return view

    def _step_batch(self, group: dict[str, Any], batch: Batch, scratch: Scratch) -> None:
        params, grads, momentum = batch.params, batch.grads, group['momentum']
        # Update the buffers and compute the directions of the step.
        buffers = [state['momentum'] for state in batch.states]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - group['dampening'])
        updates = buffers
        if group['nesterov']:
            updates = torch._foreach_mul(buffers, momentum)
            torch._foreach_add_(updates, grads)
        decay = group['weight_decay'] / (1 - momentum) if group['weight_decay'] > 0 else 0.0
        # Test which tensors look scale-invariant; without any, take a plain step.
        passed = None
        if batch.rows:
            weights = batch.stacked(params)
            moves = scratch.empty('moves', weights)
            passed = self._test(group, batch, weights, moves)
        if passed is None:
            if decay > 0:
                torch._foreach_mul_(params, 1 - group['lr'] * decay)
            torch._foreach_add_(params, updates, alpha=-group['lr'])
            return

        # Project the directions, add the decay, and update the weights once.
        stacked = batch.stacked(updates)
        coefficients = radial_coefficients(passed, weights, stacked, group['eps'], moves)
        torch.addcmul(stacked, weights, coefficients, value=-1, out=moves)
        if group['project_buffer'] and not group['nesterov']:
            torch._foreach_copy_(buffers, batch.split(moves))
        if decay > 0:
            moves.addcmul_(weights, decay * passed.decay_ratio(group['wd_ratio']))
        torch._foreach_add_(params, batch.split(moves), alpha=-group['lr'])
