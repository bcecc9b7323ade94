"""Models and their wrappers for distributed training."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed.nn
from mmengine.dist import all_gather_object, broadcast, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
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


class RankGather(NamedTuple):
    """Functions by which a model uses values of all processes; all processes must call each function.

    Attributes:
        rank: Index of this process in the results.
        objects: One picklable object per process -> the list of all.
        rows: (n, C) of this process -> the rows of all processes, see :func:`gather_rows`.
    """

    rank: int
    objects: Callable[[Any], list[Any]]
    rows: Callable[[Tensor], Tensor]


def rank_gather() -> RankGather:
    """The exchange between the processes of the default group; a single process exchanges with itself."""
    return RankGather(get_rank(), all_gather_object, gather_rows)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of the ranks; all processes must call this.

    Gradients flow back to the process that a row comes from, summed over the processes.

    Args:
        rows: (n, C) of this process; n may differ between processes, and is at least 1 in one of them.

    Returns:
        (sum of n, C); ``rows`` itself if there is one process.
    """
    if get_world_size() == 1:
        return rows
    # Pad all to the same number of rows, which collectives require.
    counts = all_gather_object(len(rows))
    padding = rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])
    padded = torch.cat([rows, padding]).contiguous()
    # Gather, and drop the padding.
    parts = torch.distributed.nn.all_gather(padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
