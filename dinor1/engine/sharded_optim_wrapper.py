"""The optimizer of a model that FSDP has sharded."""

from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, is_main_process
from mmengine.optim import OptimWrapper
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType

from dinor1.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class ShardedOptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper for parameters of which every process has a shard.

    Gradients are clipped by their norm over the whole model. Checkpoints hold the state of the whole optimizer, in the
    format of a model without FSDP.

    Args:
        *args: As for MMEngine's OptimWrapper.
        **kwargs: As for MMEngine's OptimWrapper.

    Attributes:
        model: The sharded model, which the runner sets.
    """

    model: FullyShardedDataParallel
    base_param_settings: dict[str, Any] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole: dict[str, Any] = {}

    def step(self, **kwargs: Any) -> None:
        """Average the gradients of scalars over the processes, because FSDP does not shard them; then step."""
        for group in self.optimizer.param_groups:
            for parameter in group['params']:
                if parameter.dim() == 0 and parameter.grad is not None:
                    all_reduce(parameter.grad, 'mean')
        super().step(**kwargs)

    def _clip_grad(self) -> None:
        if self.clip_func is not torch.nn.utils.clip_grad_norm_:
            super()._clip_grad()  # clipping by value needs no norm over the whole model
            return
        norm = self.model.clip_grad_norm_(**self.clip_grad_kwargs)
        self.message_hub.update_scalar(f'train/{self.grad_name}', float(norm))

    def gather_state(self) -> None:
        """Gather the state of the whole optimizer for :meth:`state_dict`; all processes must call it."""
        # Do not offload on a CPU: torch 2.14 reuses a buffer without a copy, and all statistics would equal the last.
        options = StateDictOptions(full_state_dict=True, cpu_offload=get_device() != 'cpu')
        named: Any = get_optimizer_state_dict(self.model, self.optimizer, options=options)
        if is_main_process():
            self._whole = FullyShardedDataParallel.rekey_optim_state_dict(
                named, OptimStateKeyType.PARAM_ID, self.model, optim=self.optimizer
            )

    def state_dict(self) -> dict[str, Any]:
        """The state that :meth:`gather_state` has gathered, on the first process."""
        return {**super().state_dict(), **self._whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this process's shard of the state of the whole optimizer; all processes must call it."""
        # Shard the state by parameter names.
        own = {key: state_dict[key] for key in ('state', 'param_groups')}
        named: Any = FullyShardedDataParallel.rekey_optim_state_dict(
            own, OptimStateKeyType.PARAM_NAME, self.model, optim=self.optimizer
        )
        set_optimizer_state_dict(self.model, self.optimizer, named, options=StateDictOptions(full_state_dict=True))
        if self.base_param_settings is not None:
            self.base_param_settings = state_dict['base_param_settings']
