"""The optimizer of a model that FSDP has sharded."""

from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    OptimStateKeyType,
    StateDictType,
)

from dinor1.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class ShardedOptimWrapper(OptimWrapper):
    """MMEngine's OptimWrapper for parameters of which every process has a shard.

    The norm by which gradients are clipped is that of the whole model, and so is the state in checkpoints, which has the
    form of a model without FSDP.

    Args:
        *args: As for MMEngine's OptimWrapper.
        **kwargs: As for MMEngine's OptimWrapper.

    Attributes:
        model: The sharded model, which the runner sets.
    """

    model: FullyShardedDataParallel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole: dict[str, Any] = {}

    def _clip_grad(self) -> None:
        if self.clip_func is not torch.nn.utils.clip_grad_norm_:
            super()._clip_grad()  # clips every value by itself
            return
        norm = self.model.clip_grad_norm_(**self.clip_grad_kwargs)
        self.message_hub.update_scalar(f'train/{self.grad_name}', float(norm))

    def gather_state(self) -> None:
        """Gather the state of the whole optimizer for :meth:`state_dict`; all processes must call it."""
        with self._whole_state(rank0_only=True):
            whole = FullyShardedDataParallel.optim_state_dict(self.model, self.optimizer)
        if whole:  # the first process
            self._whole = FullyShardedDataParallel.rekey_optim_state_dict(
                whole, OptimStateKeyType.PARAM_ID, self.model, optim=self.optimizer
            )

    def state_dict(self) -> dict[str, Any]:
        """The state that :meth:`gather_state` has gathered, on the first process."""
        return {**super().state_dict(), **self._whole}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this process's share of a whole state; all processes must call it."""
        named = FullyShardedDataParallel.rekey_optim_state_dict(
            state_dict, OptimStateKeyType.PARAM_NAME, self.model, optim=self.optimizer
        )
        with self._whole_state(rank0_only=False):
            own = FullyShardedDataParallel.optim_state_dict_to_load(self.model, self.optimizer, named)
        settings = {key: value for key, value in state_dict.items() if key not in ('state', 'param_groups')}
        super().load_state_dict({**settings, **own})

    def _whole_state(self, rank0_only: bool) -> Any:
        return FullyShardedDataParallel.state_dict_type(
            self.model,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(offload_to_cpu=True, rank0_only=rank0_only),
            FullOptimStateDictConfig(offload_to_cpu=True, rank0_only=rank0_only),
        )
