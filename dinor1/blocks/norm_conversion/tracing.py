"""Record the dataflow around the norms of a model while it runs on examples; see :mod:`.dataflow`.

Linear maps, norms, embeddings and attention are recorded as whole modules, by hooks; inside of all other modules every
function is traced.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .dataflow import Trace, Value, tensors_in
from .function_tracer import FunctionTracer, fresh_shadow
from .linear_maps import LinearMap, linear_map


def trace(model: nn.Module, calls: Iterable[tuple[tuple, dict]], norms: tuple[type[nn.Module], ...]) -> Trace:
    """Run ``model`` on ``calls`` and record the dataflow.

    Args:
        model: Model in evaluation mode.
        calls: Positional and keyword arguments of each call. Branches of the model that no call takes stay unknown.
        norms: Classes that are traced as norms; the functions inside of all others are traced one by one.
    """
    result = Trace()
    for args, kwargs in calls:
        tracer = ModuleTracer(model, norms, result)
        tracer.inputs = {id(tensor) for tensor in tensors_in((args, kwargs))}
        with tracer.hooks(), torch.no_grad(), tracer:
            output = model(*args, **kwargs)
        tracer.finish(output)
    return result


class ModuleTracer(FunctionTracer):
    """Adds rules for the modules of ``model``; ``norms`` are the classes that are traced as norms."""

    def __init__(self, model: nn.Module, norms: tuple[type[nn.Module], ...], result: Trace) -> None:
        super().__init__(model, result)
        self.norms = norms

    def hooks(self) -> '_Hooks':
        """Context in which every module reports to this tracer."""
        return _Hooks(self)

    def enter(self, module: nn.Module, name: str, leaf: bool, args: tuple, kwargs: dict) -> None:
        """Record the start of ``module``; called before it runs."""
        first = next(tensors_in((args, kwargs)), None)
        if not self.leaf_depth:
            self.result.called.add(name)
            self.running.append((name, self.get(first), self.recorded))
        self.leaf_depth += leaf

    def leave(self, module: nn.Module, name: str, leaf: str | None, args: tuple, kwargs: dict, output: Any) -> None:
        """Record the output of ``module``; called after it ran."""
        self.leaf_depth -= leaf is not None
        if self.leaf_depth:
            return
        self.leaf_depth += 1  # functions in the rules below are not part of the model
        try:
            if leaf is not None:
                getattr(self, f'_{leaf}')(module, name, args, kwargs, output)
            self._note_branch(name, leaf, self.running[-1][1], output)
            # Record an unknown use if no function was traced: a custom autograd function reads its input unseen.
            _, value, recorded = self.running.pop()
            unseen = value is not None and not module._modules and leaf is None and recorded == self.recorded
            if unseen and not any(self.get(out) is not None for out in tensors_in(output)):
                self.use(value, 'other', f'{type(module).__name__} {name}')
        finally:
            self.leaf_depth -= 1

    def _note_branch(self, name: str, leaf: str | None, entered: Value | None, output: Any) -> None:
        if leaf not in (None, 'attention') or entered is None or not name:
            return
        left = self.get(next(tensors_in(output), None))
        if left is None or entered.alone is None or left.alone is None or left.channel_axis() != -1:
            return
        # A branch reads one norm, and one linear layer writes its output.
        if entered.alone.kind == 'norm' and left.alone.kind in ('linear', 'scaled'):
            self.result.branches[entered.alone.name, left.alone.name] = name

    def _norm(self, module: nn.Module, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
        # Record what the norm reads.
        tensor = next(tensors_in((args, kwargs)))
        value, width = self.get(tensor), _norm_width(module)
        if id(tensor) in self.inputs:
            self.result.fed.add(name)
        axis = _norm_axis(module, tensor)
        self.result.inputs.setdefault(name, []).append((None, value))
        if value is not None:
            intact = width is not None and value.channel_axis() == axis and tensor.shape[axis] == width
            what = f'{type(module).__name__} {name}' + ('' if intact else ' (over rearranged channels)')
            self.use(value, 'norm' if intact else 'other', what, name=name)
        # Make its output a source.
        if width is not None:
            source = self.source('norm', name, width)
            self.put(output, Value(frozenset([source]), fresh_shadow(output, axis)))

    def _linear(self, module: nn.Module, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
        tensor = next(tensors_in((args, kwargs)))
        target = linear_map(module)
        value = self.get(tensor)
        if not torch.allclose(_apply(target, tensor), output, rtol=1e-4, atol=1e-4):
            # A subclass or a hook computes something else.
            if value is not None:
                self.use(value, 'other', f'{type(module).__name__} {name}, which is not linear')
            return
        # Record what the map reads, and make its output a source.
        self._read(target, name, value)
        source = self.source('linear', name, output.shape[target.channel_axis])
        self.put(output, Value(frozenset([source]), fresh_shadow(output, target.channel_axis)))

    def _read(self, target: LinearMap, name: str, value: Value | None) -> None:
        self.result.inputs.setdefault(name, []).append((target.rows, value))
        if value is None:
            return
        what = f'{type(target.module).__name__} {name}'
        if value.channel_axis() == target.channel_axis:
            self.use(value, 'linear', what, target.pads_zeros, name=name, rows=target.rows)
        else:
            self.use(value, 'other', f'{what}, whose inputs are not the channels')

    def _attention(self, module: nn.MultiheadAttention, name: str, args: tuple, kwargs: dict, output: tuple) -> None:
        # Record what the input projection reads.
        given = dict(zip(('query', 'key', 'value'), args, strict=False), **kwargs)
        inputs = [given[key] for key in ('query', 'key', 'value')]
        width = module.embed_dim
        if inputs[0] is inputs[1] is inputs[2]:
            self._read(linear_map(module), name, self.get(inputs[0]))
        else:
            for i, tensor in enumerate(inputs):
                self._read(linear_map(module, slice(i * width, (i + 1) * width)), name, self.get(tensor))
        # Mark the output projection as called: attention uses it as a function, not as a module.
        self.result.called.add(f'{name}.out_proj')
        out_width = module.out_proj.out_features
        source = self.source('linear', f'{name}.out_proj', out_width)
        self.put(output[0], Value(frozenset([source]), fresh_shadow(output[0], -1)))

    def _embedding(self, module: nn.Embedding, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
        source = self.source('embedding', name, output.shape[-1])
        self.put(output, Value(frozenset([source]), fresh_shadow(output, -1)))

    def _scale(self, module: nn.Module, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
        """Trace a module with one vector of parameters: a LayerScale if it multiplies its input by it, else unknown."""
        # Find the input, and its parameters.
        tensor = next(tensors_in((args, kwargs)), None)
        value = self.get(tensor)
        if value is None:
            return
        factor = next(iter(module._parameters.values()))
        axis = value.channel_axis()
        # Test numerically whether the module multiplies its input by the vector.
        fits = axis is not None and tensor.shape[axis] == factor.numel() and output is not tensor
        if fits and torch.allclose(output, tensor * factor.reshape(-1, *[1] * (-1 - axis))):
            self.use(value, 'scale', f'{type(module).__name__} {name}', name=name)
            if value.alone is not None:
                source = self.source('scaled', name, factor.numel(), inner=value.alone)
                self.put(output, dataclasses.replace(value, sources=frozenset([source])))
        else:
            self.use(value, 'other', f'{type(module).__name__} {name}')

    def finish(self, output: Any) -> None:
        """Record the outputs of the model."""
        for tensor in tensors_in(output):
            value = self.get(tensor)
            if value is not None:
                self.use(value, 'output', "the model's output")


class _Hooks:
    """Adds hooks for a tracer to every module of its model, and removes them on exit."""

    def __init__(self, tracer: ModuleTracer) -> None:
        self.tracer = tracer
        self.handles: list = []

    def __enter__(self) -> None:
        for name, module in self.tracer.model.named_modules():
            leaf = _leaf_kind(module, self.tracer.norms)
            self.handles.append(module.register_forward_pre_hook(self._before(name, leaf), with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._after(name, leaf), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, name: str, leaf: str | None) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.tracer.enter(module, name, leaf is not None, args, kwargs)

        return hook

    def _after(self, name: str, leaf: str | None) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            self.tracer.leave(module, name, leaf, args, kwargs, output)

        return hook


def _leaf_kind(module: nn.Module, norms: tuple[type[nn.Module], ...]) -> str | None:
    """Rule of the tracer for ``module``; None: its functions are traced one by one."""
    # Recognise modules with a rule of their own.
    if isinstance(module, norms):
        return 'norm'
    if isinstance(module, nn.MultiheadAttention):
        return 'attention' if linear_map(module) is not None else None
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        return 'embedding'
    if linear_map(module) is not None:
        return 'linear'
    # A module with a single vector of parameters may be a LayerScale.
    own = [p for p in module._parameters.values() if p is not None]
    is_vector = len(own) == 1 and not module._modules and own[0].numel() == max(own[0].shape, default=0)
    return 'scale' if is_vector else None


def _norm_width(module: nn.Module) -> int | None:
    shape = getattr(module, 'normalized_shape', None)
    if shape is None:
        return module.num_features
    return shape[0] if len(shape) == 1 else None


def _norm_axis(module: nn.Module, tensor: Tensor) -> int:
    axis = getattr(module, 'channel_dim', -1)
    return axis if axis < 0 else axis - tensor.dim()


def _apply(target: LinearMap, x: Tensor) -> Tensor:
    """Apply the map alone, for comparison with the module's output."""
    module = target.module
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return module._conv_forward(x, module.weight, module.bias)
    weight = module.weight if target.out_axis == 0 else module.weight.t()
    return nn.functional.linear(x, weight, module.bias)
