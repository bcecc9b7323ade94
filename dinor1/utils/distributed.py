"""Models and their wrappers for distributed training."""

import contextlib
from typing import Any

from mmengine.dist import broadcast
from mmengine.model import is_model_wrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel


def unwrapped(model: nn.Module) -> Any:
    """The model inside a DDP or FSDP wrapper; a model without a wrapper is returned as it is."""
    return model.module if is_model_wrapper(model) else model


def whole_parameters(model: nn.Module, write: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which an FSDP model has its whole parameters; other models do not change.

    All processes must enter the context.

    Args:
        model: The model, with its wrapper.
        write: Whether changes are written back to the shards.
    """
    if isinstance(model, FullyShardedDataParallel):
        return FullyShardedDataParallel.summon_full_params(model, writeback=write)
    return contextlib.nullcontext()


def broadcast_buffers(model: nn.Module) -> None:
    """Copy buffers, such as the statistics of batch norm, from the first process to all; all must call this."""
    for buffer in model.buffers():
        broadcast(buffer)
