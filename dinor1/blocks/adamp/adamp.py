"""AdamP: Adam whose update has no part along scale-invariant weights (arXiv 2006.08217, Algorithm 2)."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dinor1.utils.precision import compute_dtype

from .base import Batch, ProjectedOptimizer, Scratch
from .projection import CHANNEL, LAYER, project_, radial_coefficients

# Devices where torch has a fused Adam kernel.
_FUSED_DEVICES = ('cpu', 'cuda')


class AdamP(ProjectedOptimizer):
    """Adam with decoupled weight decay and the projection of :mod:`dinor1.blocks.adamp.projection`.

    With bias corrections c1 = 1 - beta1^t and c2 = 1 - beta2^t, for every weight w with gradient g::

        m = beta1 m + (1 - beta1) g           v = beta2 v + (1 - beta2) g g
        u = m / (sqrt(v) / sqrt(c2) + eps)    or, with nesterov, (beta1 m + (1 - beta1) g) in place of m
        u = u - its part along w              if the weight passes the test
        w = w (1 - lr weight_decay r) - (lr / c1) u,   r = wd_ratio if it passed, else 1

    State dicts are those of the authors' package ``adamp`` and load in both directions. With ``delta=0`` nothing is
    projected, which is AdamW; use it for groups of weights that must not be tested, e.g. embeddings.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate; a tensor of one number is read in every step, as by the optimizers of torch.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the root of the second moment, and to the weight's norm in the projection.
        weight_decay: Decoupled decay.
        delta: Threshold of the test, in units of a random cosine 1 / sqrt(n); 0 switches it off.
        wd_ratio: Factor of the weight decay where a weight is projected.
        nesterov: Look ahead by one step of the first moment.
        foreach: True: batches of tensors without host synchronisation; False: tensor by tensor; None: chosen per group.
        maximize: Maximise the objective instead of minimising it.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            delta=delta,
            wd_ratio=wd_ratio,
            nesterov=nesterov,
            foreach=foreach,
            maximize=maximize,
        )
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # torch's optimizers keep the step in a tensor; a number on the host is read without synchronisation.
        for entry in self.state.values():
            if isinstance(entry.get('step'), Tensor):
                entry['step'] = int(entry['step'])

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        betas = group['betas']
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f'AdamP: betas must be two numbers in [0, 1), got {betas}')

    def _init_state(self, state: dict[str, Any], param: Parameter) -> None:
        state['step'] = 0
        state['exp_avg'] = torch.zeros_like(param)
        state['exp_avg_sq'] = torch.zeros_like(param)

    def _step_one(self, group: dict[str, Any], param: Parameter, grad: Tensor, state: dict[str, Any]) -> str:
        # Update the moments.
        state['step'] += 1
        beta1, beta2 = group['betas']
        correction1, correction2 = 1 - beta1 ** state['step'], 1 - beta2 ** state['step']
        first, second, dtype = state['exp_avg'], state['exp_avg_sq'], compute_dtype(param)
        first.mul_(beta1).add_(grad, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # Compute the direction of the step.
        denominator = (second.to(dtype).sqrt() / math.sqrt(correction2)).add_(group['eps'])
        if group['nesterov']:
            update = (beta1 * first.to(dtype) + (1 - beta1) * grad) / denominator
        else:
            update = first / denominator
        # Remove the radial part, decay the weight and step.
        view = project_(param, grad, update, group['delta'], group['eps'])
        if group['weight_decay'] > 0:
            ratio = group['wd_ratio'] if view in (CHANNEL, LAYER) else 1
            param.mul_(1 - group['lr'] * group['weight_decay'] * ratio)
        param.add_(update, alpha=-group['lr'] / correction1)
        return view

    def _batch_key(self, param: Parameter, state: dict[str, Any]) -> Any:
        # The fused kernel ignores strides, so only contiguous tensors may share a batch with it.
        tensors = (param, param.grad, state['exp_avg'], state['exp_avg_sq'])
        return all(tensor.is_contiguous() for tensor in tensors)

    def _step_batch(self, group: dict[str, Any], batch: Batch, scratch: Scratch) -> None:
        for state in batch.states:
            state['step'] += 1
        # Test which tensors look scale-invariant; without any, this is AdamW.
        passed, params = None, batch.params
        if batch.rows:
            weights = batch.stacked(params)
            products = scratch.empty('products', weights)
            passed = self._test(group, batch, weights, products)
        if passed is None:
            self._step_plain(group, batch)
            return

        if _can_fuse(group, batch) and weights.dtype == params[0].dtype:
            # The fused kernel adds the step to the weights that it is given: for zeros, the result is the step.
            moves = scratch.empty('moves', weights).zero_()
            _fused_adamw_(group, batch, batch.split(moves), 0.0)
        else:
            moves = batch.stacked(self._moves(group, batch))
        # Decay and projection are both multiples of the weights. Adding them to the step first takes one pass over
        # memory and rounds the weights once.
        scale = -radial_coefficients(passed, weights, moves, group['eps'], products)
        if group['weight_decay'] > 0:
            scale = scale - group['lr'] * group['weight_decay'] * passed.decay_ratio(group['wd_ratio'])
        moves.addcmul_(weights, scale)
        torch._foreach_add_(params, batch.split(moves))

    def _step_plain(self, group: dict[str, Any], batch: Batch) -> None:
        """Step without projection (AdamW)."""
        # Prefer torch's fused kernel.
        if _can_fuse(group, batch):
            _fused_adamw_(group, batch, batch.params, group['weight_decay'])
            return
        # Decay the weights independently of the gradient, and add the moves.
        moves = self._moves(group, batch)
        if group['weight_decay'] > 0:
            torch._foreach_mul_(batch.params, 1 - group['lr'] * group['weight_decay'])
        torch._foreach_add_(batch.params, moves)

    @staticmethod
    def _moves(group: dict[str, Any], batch: Batch) -> list[Tensor]:
        """Update the moments; return the step -(lr / c1) u of every tensor, float32 at least."""
        # Update both moments in place.
        beta1, beta2 = group['betas']
        first = [state['exp_avg'] for state in batch.states]
        second = [state['exp_avg_sq'] for state in batch.states]
        torch._foreach_lerp_(first, batch.grads, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, batch.grads, batch.grads, value=1 - beta2)
        dtype = compute_dtype(first[0])
        steps = [state['step'] for state in batch.states]
        # Fold -lr / c1 into the numerator, so that the quotient is the complete step.
        sizes = [-group['lr'] / (1 - beta1**step) for step in steps]
        # The denominator is sqrt(v / c2) + eps.
        denominator = torch._foreach_sqrt([tensor.to(dtype) for tensor in second])
        torch._foreach_mul_(denominator, [(1 - beta2**step) ** -0.5 for step in steps])
        torch._foreach_add_(denominator, group['eps'])
        # The numerator is the first moment, or the look-ahead of Nesterov's momentum.
        if group['nesterov']:
            moves = torch._foreach_mul([tensor.to(dtype) for tensor in first], beta1)
            torch._foreach_add_(moves, [grad.to(dtype) for grad in batch.grads], alpha=1 - beta1)
            torch._foreach_mul_(moves, sizes)
        else:
            moves = torch._foreach_mul([tensor.to(dtype) for tensor in first], sizes)
        torch._foreach_div_(moves, denominator)
        return moves


def _can_fuse(group: dict[str, Any], batch: Batch) -> bool:
    """Whether torch's fused kernel can step this batch. torch.compile cannot trace it and fuses the step itself."""
    if torch.compiler.is_compiling():
        return False
    state = batch.states[0]
    tensors = (batch.params[0], batch.grads[0], state['exp_avg'], state['exp_avg_sq'])
    one_dtype = all(tensor.dtype == tensors[0].dtype for tensor in tensors)
    contiguous = all(tensor.is_contiguous() for tensor in tensors)
    return not group['nesterov'] and one_dtype and contiguous and tensors[0].device.type in _FUSED_DEVICES


def _fused_adamw_(group: dict[str, Any], batch: Batch, weights: list[Tensor], weight_decay: float) -> None:
    """Torch's fused AdamW kernel on ``weights`` with the moments of ``batch``."""
    steps = [state['step'] for state in batch.states]
    # The kernel reads the step from a tensor: make one per distinct step.
    counters = {step: torch.full((), step, dtype=torch.float32, device=weights[0].device) for step in set(steps)}
    torch._fused_adamw_(
        weights,
        batch.grads,
        [state['exp_avg'] for state in batch.states],
        [state['exp_avg_sq'] for state in batch.states],
        [],
        [counters[step] for step in steps],
        lr=group['lr'],
        beta1=group['betas'][0],
        beta2=group['betas'][1],
        weight_decay=weight_decay,
        eps=group['eps'],
        amsgrad=False,
        maximize=False,
    )
