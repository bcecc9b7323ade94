"""Base class of AdamP and SGDP: checks of settings, batches of tensors, counts of projections, checkpoints."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from dinor1.utils.precision import compute_dtype

from .projection import CHANNEL, LAYER, NONE, SKIPPED, Passed, has_rows, which_pass

# Small weights of one shape are stacked and treated as one tensor; larger ones gain nothing from the copy. The limit,
# in elements, keeps the copies in the cache of a core on CPU and bounds their memory elsewhere.
_STACK_LIMIT = {'cpu': 2**16}
_STACK_LIMIT_ELSEWHERE = 2**24
# Devices where reading a value does not wait: there, batches that do not pass the test skip the projection.
FREE_READS = ('cpu',)


class Batch(NamedTuple):
    """Tensors that are treated together: of one device, dtype and, if they have rows to project, one shape.

    Attributes:
        params: Weights.
        grads: Their gradients; already negated if the objective is maximised.
        states: Their entries in the optimizer's state.
        rows: Whether the tensors are tested and projected.
    """

    params: list[Parameter]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    rows: bool

    @property
    def shape(self) -> torch.Size:
        """Shape of every tensor; only for batches with ``rows``."""
        return self.params[0].shape

    def stacked(self, tensors: list[Tensor]) -> Tensor:
        """Stack tensors into (T, C, n), C the size of their first dimension; float32 at least. One is not copied."""
        dtype = compute_dtype(tensors[0])
        if len(tensors) == 1:
            return tensors[0].reshape(1, self.shape[0], -1).to(dtype)
        return torch.stack([tensor.reshape(self.shape[0], -1) for tensor in tensors]).to(dtype)

    def split(self, stacked: Tensor) -> list[Tensor]:
        """Undo :meth:`stacked`; returns views."""
        return list(stacked.view(-1, *self.shape).unbind())


class Scratch:
    """Memory that all batches of one step share.

    On CPU, allocating large tensors (page faults) takes longer than the arithmetic on them.
    """

    def __init__(self) -> None:
        self._flat: dict[Any, Tensor] = {}

    def empty(self, purpose: str, like: Tensor) -> Tensor:
        """Contiguous memory of the shape, dtype and device of ``like``; what it held for ``purpose`` is lost."""
        key, size = (purpose, like.dtype, like.device), like.numel()
        if key not in self._flat or self._flat[key].numel() < size:
            self._flat[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return self._flat[key][:size].view(like.shape)


class ProjectedOptimizer(Optimizer):
    """Base of the optimizers with projection. Subclasses define ``_init_state``, ``_step_one``, ``_step_batch``.

    ``foreach`` chooses how a group is stepped. True: in batches without host synchronisation. False: one tensor after
    another, in the arithmetic order of the authors' package. None (default): in batches if all tensors of the group are
    plain tensors; tensors of a subclass, such as FSDP's ``DTensor``, are stepped one by one.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._reset_counts()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its settings.

        Raises:
            ValueError: a hyper-parameter of the group is out of range.
        """
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        # FSDP1 flattens parameters to one dimension: there are no rows left to test.
        flat = [p for p in self.param_groups[-1]['params'] if getattr(p, '_fsdp_flattened', False)]
        if flat and all(p.dim() <= 1 for p in flat):
            warnings.warn(
                f'{type(self).__name__}: FSDP has flattened the parameters, whose rows are lost: nothing will be '
                'projected. Shard with torch.distributed.fsdp.fully_shard, which keeps shapes, or use DDP.',
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # State dicts of the authors' package lack the settings that only this package has.
        for group in self.param_groups:
            for name, value in self._additions().items():
                group.setdefault(name, value)
        self._reset_counts()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the weights; parameters without a gradient do not change.

        Args:
            closure: Evaluates the model again and returns the loss, with gradients enabled.

        Raises:
            ValueError: a gradient is sparse, or a weight complex; in this case no weight has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Check all gradients before any weight changes.
        groups = [(group, [p for p in group['params'] if p.grad is not None]) for group in self.param_groups]
        for _, params in groups:
            self._check_gradients(params)
        self._reset_counts()
        scratch = Scratch()
        # Step group by group, in batches or tensor by tensor.
        for group, params in groups:
            if isinstance(group['lr'], Tensor):
                group = dict(group, lr=float(group['lr']))
            for param in params:
                if len(self.state[param]) == 0:
                    self._init_state(self.state[param], param)
            # Batches need plain tensors; subclasses are updated tensor by tensor.
            foreach = group['foreach']
            if foreach is None:
                foreach = all(type(tensor) in (Tensor, Parameter) for p in params for tensor in (p, p.grad))
            if foreach:
                for batch in self._batches(group, params):
                    self._step_batch(group, batch, scratch)
            else:
                for param in params:
                    grad = -param.grad if group['maximize'] else param.grad
                    view = self._step_one(group, param, grad, self.state[param])
                    self._counts[view] += 1
        return loss

    def projection_stats(self) -> dict[str, int]:
        """Number of tensors that the last step projected, by view.

        Synchronises with the device. The counts are not in the state dict.

        Returns:
            ``channel`` and ``layer``: projected in that view. ``none``: tested, not projected. ``skipped``: not
            tested, because the tensor has no rows.
        """
        counts = dict(self._counts)
        # Add the decisions of the batches, whose tensors stay on the device until they are counted.
        for channel, layer in self._decisions:
            size = len(channel)
            channel, layer = int(channel.sum()), int(layer.sum())
            counts[CHANNEL] += channel
            counts[LAYER] += layer
            counts[NONE] += size - channel - layer
        return counts

    def _reset_counts(self) -> None:
        self._counts = {CHANNEL: 0, LAYER: 0, NONE: 0, SKIPPED: 0}
        self._decisions: list[tuple[Tensor, Tensor]] = []

    def _test(self, group: dict[str, Any], batch: Batch, weights: Tensor, scratch: Tensor) -> Passed | None:
        """Test a batch; None if the host knows that no tensor passed."""
        passed = which_pass(weights, batch.stacked(batch.grads), group['delta'], group['eps'], scratch)
        self._decisions.append((passed.channel, passed.layer))
        readable = weights.device.type in FREE_READS and not torch.compiler.is_compiling()
        return None if readable and not passed.any() else passed

    def _batches(self, group: dict[str, Any], params: list[Parameter]) -> Iterable[Batch]:
        """Split a parameter group into batches, the largest tensors first, so that scratch memory does not grow."""
        # Collect tensors that can be treated together.
        keyed = defaultdict(list)
        for param in params:
            # With delta = 0 no tensor can pass, so none is tested.
            rows = has_rows(param) and group['delta'] > 0
            self._counts[SKIPPED] += not has_rows(param)
            self._counts[NONE] += has_rows(param) and not rows
            key = (param.device, param.dtype, self._batch_key(param, self.state[param]), param.shape if rows else None)
            keyed[key].append(param)
        # Yield each collection in parts that respect the stacking limit.
        for key, members in sorted(keyed.items(), key=lambda item: -item[1][0].numel()):
            rows, size = key[-1] is not None, len(members)
            if rows:
                limit = _STACK_LIMIT.get(key[0].type, _STACK_LIMIT_ELSEWHERE)
                size = max(1, limit // members[0].numel())
            for start in range(0, len(members), size):
                part = members[start : start + size]
                grads = [p.grad for p in part]
                if group['maximize']:
                    grads = torch._foreach_neg(grads)
                yield Batch(part, grads, [self.state[p] for p in part], rows)

    def _check_gradients(self, params: list[Parameter]) -> None:
        for param in params:
            if param.grad.is_sparse:
                raise ValueError(
                    f'{type(self).__name__} does not support sparse gradients, got one for a parameter of shape '
                    f'{tuple(param.shape)}; build the embedding with sparse=False'
                )
            if param.is_complex():
                raise ValueError(
                    f'{type(self).__name__} does not support complex parameters, got one of shape '
                    f'{tuple(param.shape)}; optimise its real view (torch.view_as_real)'
                )

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for settings out of range; subclasses extend it."""
        name = type(self).__name__
        lr = group['lr']
        if not isinstance(lr, Real) and not (isinstance(lr, Tensor) and lr.numel() == 1 and not lr.is_complex()):
            raise ValueError(f'{name}: lr must be a number, or a tensor of one, got {lr!r}')
        for key in ('lr', 'eps', 'weight_decay', 'delta', 'wd_ratio'):
            if not group[key] >= 0:
                raise ValueError(f'{name}: {key} must be >= 0, got {group[key]}')

    @staticmethod
    def _additions() -> dict[str, Any]:
        """Group settings that the authors' package does not have, with their defaults."""
        return dict(foreach=None, maximize=False)

    def _batch_key(self, param: Parameter, state: dict[str, Any]) -> Any:
        """Key that must be equal within a batch, in addition to device, dtype and shape."""
        return None

    def _init_state(self, state: dict[str, Any], param: Parameter) -> None:
        raise NotImplementedError

    def _step_one(self, group: dict[str, Any], param: Parameter, grad: Tensor, state: dict[str, Any]) -> str:
        """Step one tensor; return the projected view, see :func:`~.projection.project_`."""
        raise NotImplementedError

    def _step_batch(self, group: dict[str, Any], batch: Batch, scratch: Scratch) -> None:
        """Step a batch, without waiting for the device."""
        raise NotImplementedError
