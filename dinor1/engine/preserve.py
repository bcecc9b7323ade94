"""Restore the state of a model after a measurement, apart from its gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the state of ``model`` that forward and backward passes change, also after an exception.

    This covers buffers (statistics of norms) and state that a module keeps in Python: counters of samplers and norms,
    positions of noise, statistics of gradients. Such a module has two methods: ``host_state()`` returns a copy of this
    state, and ``set_host_state(state)`` restores it. Weights, gradients and torch's global random state are not
    covered.
    """
    # Remember the buffers, and the state that modules keep in Python.
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
