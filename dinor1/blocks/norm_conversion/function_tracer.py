"""Traces values through functions; :mod:`.tracing` adds the rules for modules.

Functions that move entries, or average over positions, need no rules: they are applied to the shadow. Any other
function that is not a sum is recorded as a use of the sources of its arguments, and its result is not traced.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .dataflow import MODEL_INPUT, Source, Trace, Use, Value, channel_labels, tensors_in

_JOINS = frozenset(['cat', 'concat', 'concatenate', 'stack'])
# These do not move entries, so that they need not be applied to the shadow.
_CASTS = frozenset(
    [
        'to',
        'type',
        'type_as',
        'double',
        'float',
        'half',
        'bfloat16',
        'cpu',
        'cuda',
        'detach',
        'data',
        'contiguous',
        'clone',
    ]
)
_PADS = frozenset(['pad', 'constant_pad_nd'])
# Averages have weights with sum 1: they change neither constants nor the shadow, unless zeros were padded.
_AVERAGES = frozenset(
    [
        'mean',
        'adaptive_avg_pool1d',
        'adaptive_avg_pool2d',
        'adaptive_avg_pool3d',
        'avg_pool1d',
        'avg_pool2d',
        'avg_pool3d',
        'interpolate',
    ]
)
_MOVES = (
    _JOINS
    | _CASTS
    | _PADS
    | _AVERAGES
    | frozenset(
        [
            '__getitem__',
            '__iter__',
            'broadcast_to',
            'chunk',
            'expand',
            'expand_as',
            'flatten',
            'flip',
            'im2col',
            'index_select',
            'mH',
            'mT',
            'movedim',
            'moveaxis',
            'narrow',
            'permute',
            'repeat',
            'repeat_interleave',
            'reshape',
            'reshape_as',
            'roll',
            'select',
            'slice',
            'split',
            'split_with_sizes',
            'squeeze',
            'swapaxes',
            'swapdims',
            't',
            'T',
            'tensor_split',
            'tile',
            'transpose',
            'unbind',
            'unflatten',
            'unfold',
            'unsqueeze',
            'view',
            'view_as',
        ]
    )
)
_SUMS = frozenset(['add', '__add__', '__radd__', '__iadd__', 'add_', 'sub', '__sub__', '__isub__', 'sub_', 'subtract'])
_FACTORS = frozenset(
    [
        'mul',
        '__mul__',
        '__rmul__',
        'multiply',
        'div',
        '__truediv__',
        'divide',
        'true_divide',
        'neg',
        '__neg__',
        'negative',
    ]
)
# Attributes of a tensor that do not depend on its entries.
_METADATA = frozenset(
    [
        'shape',
        'size',
        'dim',
        'ndim',
        'ndimension',
        'dtype',
        'device',
        'layout',
        'numel',
        'nelement',
        'stride',
        'storage_offset',
        'is_contiguous',
        'is_cuda',
        'is_cpu',
        'is_meta',
        'is_mps',
        'is_xpu',
        'is_sparse',
        'is_nested',
        'is_quantized',
        'is_mkldnn',
        'is_floating_point',
        'is_complex',
        'is_leaf',
        'requires_grad',
        'grad',
        'grad_fn',
        'element_size',
        'itemsize',
        'nbytes',
        'data_ptr',
        'untyped_storage',
        'get_device',
        'names',
        '__len__',
        '__hash__',
        'type',
        '_version',
        '_base',
        'is_inference',
        'retains_grad',
        'output_nr',
        '__repr__',
        'is_same_size',
    ]
)


@dataclass(frozen=True)
class _Operation:
    """One call of a function: arguments, tensors, tensors with known values, and output."""

    name: str
    func: Callable
    args: tuple
    kwargs: dict
    given: list[Tensor]
    known: list[tuple[Tensor, Value]]
    output: Any

    @property
    def in_place(self) -> bool:
        """Whether the call changes its first argument or ``out``."""
        if 'out' in self.kwargs or self.name == '__setitem__':
            return True
        if self.name.startswith('__'):
            return self.name in ('__iadd__', '__isub__', '__imul__', '__itruediv__', '__iand__', '__ior__', '__ipow__')
        return self.name.endswith('_')

    @property
    def scaled(self) -> bool:
        return any(value.scaled for _, value in self.known)

    @property
    def padded(self) -> bool:
        return self.name in _PADS or any(value.padded for _, value in self.known)


class FunctionTracer(TorchFunctionMode):
    """Records the effect of functions on the values of ``model`` while it is the active mode.

    A subclass maintains :attr:`running`, the stack of running modules, and increments :attr:`leaf_depth` inside of
    modules that have their own rule: functions inside of these are not traced.
    """

    def __init__(self, model: nn.Module, result: Trace) -> None:
        super().__init__()
        self.model, self.result = model, result
        # Include buffers: fixed position encodings are added to streams like parameters.
        buffers = [(name, b) for name, b in model.named_buffers() if b.is_floating_point()]
        self.parameter_names = {id(p): name for name, p in [*buffers, *model.named_parameters()]}
        # Hold the tensors, so that no new tensor can get the id of a deleted one.
        self.values: dict[int, tuple[Tensor, Value]] = {}
        self.inputs: set[int] = set()  # ids of the tensors that the model is called with
        self.running: list[tuple[str, Value | None, int]] = []
        self.leaf_depth = 0
        self.recorded = 0

    def get(self, tensor: Any) -> Value | None:
        """Value of ``tensor``, if known; a parameter of the model becomes a source at its first use."""
        if not isinstance(tensor, Tensor):
            return None
        # The value of a traced tensor is known.
        if id(tensor) in self.values:
            return self.values[id(tensor)][1]
        # Start to trace a parameter.
        name = self.parameter_names.get(id(tensor))
        if name is None or tensor.dim() == 0:
            return None
        source = self.source('parameter', name, tensor.shape[-1])
        self.put(tensor, Value(frozenset([source]), fresh_shadow(tensor, -1)))
        return self.values[id(tensor)][1]

    def put(self, tensor: Tensor, value: Value) -> None:
        """Store ``value`` with a shadow in the memory layout of ``tensor``, so that view() works on both or neither."""
        shadow, strides = value.shadow, tensor.stride()
        if shadow.stride() != strides and all(s or n < 2 for s, n in zip(strides, tensor.shape, strict=True)):
            shadow = torch.empty_strided(tensor.shape, strides, dtype=shadow.dtype).copy_(shadow)
            value = dataclasses.replace(value, shadow=shadow)
        self.values[id(tensor)] = (tensor, value)

    def source(self, kind: str, name: str, width: int, inner: Source | None = None) -> Source:
        """Get or create the source of this kind and name."""
        return self.result.sources.setdefault((kind, name), Source(kind, name, width, inner=inner))

    def unknown(self, *tensors: Tensor) -> Source:
        """Source of tensors of unknown origin in the running module, or of inputs of the model."""
        if tensors and all(id(tensor) in self.inputs for tensor in tensors):
            return self.source('other', MODEL_INPUT, 0)
        return self.source('other', f'a tensor of unknown origin (in {self.where()})', 0)

    def use(self, value: Value, kind: str, what: str, padded: bool = False, **details: Any) -> None:
        """Record a use of every source of ``value``."""
        self.recorded += 1
        for source in value.sources:
            use = Use(kind, what, alone=value.alone is source, padded=padded or value.padded, **details)
            if use not in source.uses:
                source.uses.append(use)

    def where(self) -> str:
        """Name of the innermost running module."""
        return (self.running[-1][0] if self.running else '') or type(self.model).__name__

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.leaf_depth:
            return func(*args, **kwargs)
        name = _function_name(func)
        given = list(tensors_in((args, kwargs)))
        # Look up values before the call, since an in-place function returns its argument.
        known = [(tensor, value) for tensor in given if (value := self.get(tensor)) is not None]
        output = func(*args, **kwargs)
        if name == '__iter__':
            output = list(output)
        if known and (name not in _METADATA or any(True for _ in tensors_in(output))):
            self._interpret(_Operation(name, func, args, kwargs, given, known, output))
        return iter(output) if name == '__iter__' else output

    def _interpret(self, op: _Operation) -> None:
        # In-place functions: trace sums, and mark everything that shares the memory as unknown.
        if op.in_place:
            is_sum = op.name in _SUMS and self._sum(op)
            if not is_sum:
                self._end(op)
            self._forget_aliases(op.kwargs.get('out', op.args[0] if op.args else None), itself=not is_sum)
            return
        first = op.known[0]
        if len(op.known) == 1 and op.output is first[0]:
            return  # unchanged: contiguous() of a contiguous tensor, or dropout in evaluation
        # Other functions: apply the first rule that fits, or stop tracing.
        if op.name in _SUMS and self._sum(op):
            return
        if op.name in _FACTORS and self._factor(op):
            return
        if op.name in _MOVES and self._move(op):
            return
        if op.name == 'dropout' and len(op.known) == 1 and torch.equal(op.output, first[0]):
            self.put(op.output, first[1])
            return
        self._end(op)

    def _end(self, op: _Operation) -> None:
        for _, value in op.known:
            self.use(value, 'other', f'{op.name} in {self.where()}')

    def _sum(self, op: _Operation) -> bool:
        # Find the operands of unknown origin.
        operands = [*op.args[:2], *([op.kwargs['other']] if 'other' in op.kwargs else [])]
        plain_number = any(not isinstance(operand, Tensor) and operand != 0 for operand in operands)
        others = [tensor for tensor in op.given if all(tensor is not known for known, _ in op.known)]
        unknown = {self.unknown(*others)} if others or plain_number else set()
        if any(value.shadow.dim() > op.output.dim() for _, value in op.known):
            return False
        # Combine the shadows.
        shadows = [value.shadow.broadcast_to(op.output.shape) for _, value in op.known]
        shadow = shadows[0].clone()
        for other in shadows[1:]:
            # A zero takes the label of the other operand; two different labels at one index are not a channel.
            clash = (shadow != other) & (shadow != 0) & (other != 0)
            shadow = torch.where(shadow == 0, other, shadow).masked_fill(clash, -1)
        self.put(op.output, Value(self._joined(op, unknown), shadow, op.scaled, op.padded))
        return True

    def _joined(self, op: _Operation, unknown: set[Source]) -> frozenset[Source]:
        """Collect the sources of all operands, and record the sum as a use of each."""
        sources = frozenset().union(unknown, *(value.sources for _, value in op.known))
        if len(op.known) > 1 or len(sources) > 1:
            for _, value in op.known:
                self.use(value, 'sum', f'a sum in {self.where()}')
        return sources

    def _factor(self, op: _Operation) -> bool:
        """Trace a factor that is equal for all channels of a position: the result is a scaled sum of the sources."""
        # Only one of the factors may be traced.
        tensor, value = op.known[0]
        if len(op.known) > 1 or value.shadow.dim() > op.output.dim():
            return False
        # The product has the sources of the traced factor.
        value = dataclasses.replace(value, shadow=value.shadow.broadcast_to(op.output.shape), scaled=True)
        # The other factor must be the same for all channels.
        axis = value.channel_axis()
        for other in op.given:
            if other is not tensor and (axis is None or (other.dim() >= -axis and other.shape[axis] != 1)):
                return False
        self.put(op.output, value)
        return True

    def _move(self, op: _Operation) -> bool:
        outputs = list(tensors_in(op.output))
        if not all(out.is_floating_point() for out in outputs):
            return False
        # Find the arguments that are moved.
        unknown: set[Source] = set()
        known = op.known
        if op.name not in _JOINS:
            # Other arguments only give a shape or dtype, as in x.type_as(y).
            known = [(tensor, value) for tensor, value in known if op.args and tensor is op.args[0]]
            if not known:
                return True
            op = dataclasses.replace(op, known=known)
        # Apply the function to the shadows; concatenated unknown tensors get zeros.
        shadows = {id(tensor): value.shadow for tensor, value in known}
        if op.name in _JOINS:
            for tensor in op.given:
                if id(tensor) not in shadows:
                    shadows[id(tensor)] = torch.zeros(tensor.shape, dtype=torch.float64)
                    unknown = {self.unknown()}
        if op.name in _CASTS:
            moved = [known[0][1].shadow]
        else:
            result = op.func(*_substitute(op.args, shadows), **_substitute(op.kwargs, shadows))
            moved = list(tensors_in(list(result) if op.name == '__iter__' else result))
        # Store the values of the outputs.
        sources = self._joined(op, unknown) if op.name in _JOINS else known[0][1].sources
        for out, shadow in zip(outputs, moved, strict=True):
            if shadow.shape != out.shape:
                return False
            self.put(out, Value(sources, shadow, op.scaled, op.padded))
        return True

    def _forget_aliases(self, changed: Tensor, itself: bool) -> None:
        """Mark every tensor that shares memory with ``changed`` as unknown."""
        storage = changed.untyped_storage().data_ptr()
        for key, (tensor, value) in list(self.values.items()):
            if (itself or tensor is not changed) and tensor.untyped_storage().data_ptr() == storage:
                self.use(value, 'other', f'a change in place in {self.where()}')
                self.values[key] = (tensor, Value(frozenset([self.unknown()]), value.shadow))


def fresh_shadow(tensor: Tensor, axis: int) -> Tensor:
    """Shadow of a tensor with channels along ``axis``, counted from the end."""
    return channel_labels(tensor, axis).expand(tensor.shape).clone()


def _substitute(obj: Any, shadows: dict[int, Tensor]) -> Any:
    """Replace every tensor in ``obj`` by its shadow, if it has one."""
    if isinstance(obj, Tensor):
        return shadows.get(id(obj), obj)
    if isinstance(obj, (list, tuple)) and not isinstance(obj, torch.Size):
        return type(obj)(_substitute(item, shadows) for item in obj)
    if isinstance(obj, dict):
        return {key: _substitute(value, shadows) for key, value in obj.items()}
    return obj


def _function_name(func: Callable) -> str:
    name = getattr(func, '__name__', str(func))
    if name in ('__get__', '__set__'):
        return getattr(func.__self__, '__name__', name)
    return name
