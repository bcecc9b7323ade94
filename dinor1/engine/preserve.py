"""Run a model for a measurement and leave no trace: what its passes move besides gradients is put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dinor1.blocks.shiftquant import IntegerLayer, load_noise_state, noise_state


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back the state of ``model`` that forward and backward passes move, however the block ends.

    That is buffers (statistics of norms), positions of the noise of integer layers, and what a module has besides in
    Python, by its ``host_state()`` and ``set_host_state(state)``: counters of samplers, calls of norms. Statistics of
    quantized gradients are not taken meanwhile. Weights and gradients are the caller's affair, and so is torch's own
    random state.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    noise = noise_state(model)
    modules = list(model.modules())
    hosts: list[tuple[Any, Any]] = [(m, m.host_state()) for m in modules if hasattr(m, 'host_state')]
    layers = [(layer, layer.stats) for layer in modules if isinstance(layer, IntegerLayer)]
    for layer, _ in layers:
        layer.stats = None
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        load_noise_state(model, noise)
        for module, state in hosts:
            module.set_host_state(state)
        for layer, stats in layers:
            layer.stats = stats
