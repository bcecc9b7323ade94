"""Count the share of integer operations in a model's multiply-accumulates."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from .grid import FLOAT_BITS
from .layers import IntegerLayer
from .report import MacCount


class _Counter(TorchDispatchMode):
    """Counts the multiply-accumulates of every operator while active."""

    def __init__(self) -> None:
        # Import here because it loads Triton, which takes a second.
        from torch.utils import flop_counter

        super().__init__()
        self.macs = 0
        self._registry, self._attention = flop_counter.flop_registry, flop_counter.sdpa_flop_count

    def __torch_dispatch__(
        self, func: Any, types: tuple, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        # Add the operation; torch's registry counts two operations per multiply-accumulate.
        packet = func._overloadpacket
        if packet is torch.ops.aten.grid_sampler_2d:
            self.macs += 4 * out.numel()
        elif packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
            self.macs += self._attention(*(tensor.shape for tensor in args[:3])) // 2
        elif packet in self._registry:
            self.macs += self._registry[packet](*args, **kwargs, out_val=out) // 2
        return out


class MacMeter:
    """Counts the forward passes of a model between :meth:`start` and :meth:`stop`.

    Other models that the model calls, such as the reference model of GRQO, are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._counter: _Counter | None = None
        self._integer: dict[str, int] = {}
        self._products: dict[str, int] = {}
        # Multiply-accumulates inside integer layers, and inside modules of other models.
        self._inside, self._foreign = 0, 0
        # Count at the start of the current integer layer, and of the current call of another model.
        self._before, self._foreign_before = 0, 0
        self._foreign_depth = 0
        self._handles: list[Any] = []

    def start(self) -> None:
        """Start counting."""
        # Calls of modules that are not part of this model are counted separately.
        own = set(self._model.modules())

        def enter_foreign(module: nn.Module, args: tuple) -> None:
            if module not in own:
                if not self._foreign_depth:
                    self._foreign_before = self._counter.macs
                self._foreign_depth += 1

        def leave_foreign(module: nn.Module, args: tuple, output: Any) -> None:
            if module not in own:
                self._foreign_depth -= 1
                if not self._foreign_depth:
                    self._foreign += self._counter.macs - self._foreign_before

        # Hook calls of other models, and integer layers of this one.
        self._handles.append(register_module_forward_pre_hook(enter_foreign))
        self._handles.append(register_module_forward_hook(leave_foreign, always_call=True))
        for name, module in self._model.named_modules():
            if isinstance(module, IntegerLayer) and FLOAT_BITS not in module.recipe.bits[:2]:
                self._handles.append(module.register_forward_pre_hook(self._enter))
                self._handles.append(module.register_forward_hook(self._leave(name)))
        # Start the counter of all operations.
        self._counter = _Counter()
        self._counter.__enter__()

    def stop(self) -> MacCount:
        """Stop counting; returns the counts since the start."""
        self._counter.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        return MacCount(self._integer, self._counter.macs - self._inside - self._foreign, self._products)

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self._before = self._counter.macs

    def _leave(self, name: str) -> Callable:
        def leave(layer: IntegerLayer, args: tuple, output: Tensor) -> None:
            if not layer.enabled:
                return
            # The shapes of the layer replace what the counter saw inside it.
            self._inside += self._counter.macs - self._before
            macs = output.numel() * layer.weight[0].numel()
            self._integer[name] = self._integer.get(name, 0) + macs
            self._products[name] = layer.recipe.integer_products

        return leave


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def count_macs(model: nn.Module, *args: Any, **kwargs: Any) -> MacCount:
    """Count one forward pass ``model(*args, **kwargs)`` in evaluation mode, without gradients.

    Integer multiply-accumulates follow the layer's definition (each output number times the weights that contribute to
    it), regardless of the backend.
    """
    meter = MacMeter(model)
    with _evaluating(model):
        meter.start()
        try:
            model(*args, **kwargs)
        finally:
            count = meter.stop()
    return count
