"""Run a model for a measurement and leave no trace: what its passes move besides gradients is put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back the state of ``model`` that forward and backward passes move, however the block ends.

    This covers buffers (statistics of norms) and what a module keeps in Python besides: counters of samplers, calls of
    norms, positions of noise, statistics of gradients. Such a module has two methods, ``host_state()``, which returns a
    snapshot, and ``set_host_state(state)``, which goes back to it. Weights and gradients are left to the caller, and so
    is torch's global random state.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    modules: list[Any] = list(model.modules())
    hosts: list[tuple[Any, Any]] = [(m, m.host_state()) for m in modules if hasattr(m, 'host_state')]
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        for module, state in hosts:
            module.set_host_state(state)
