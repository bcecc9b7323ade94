"""Norms that are constant maps at inference, and folding them into the linear layers before or after them.

``y = scale * (x - mean_c(x)) + shift`` with constants per channel; subtracting the mean is optional. With
``P = I - 11^T / C`` a reader ``W y + b`` becomes ``W' = W diag(scale) P``, ``b' = b + W shift``, and a producer
``x = W u + b`` becomes ``diag(scale) P W``, ``diag(scale) P b + shift``.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinor1.blocks.normalization.registry import is_norm

from .dataflow import Trace
from .linear_maps import linear_map, replace_module, untie


@dataclass(frozen=True)
class Constants:
    """A norm at inference: ``scale`` (C), ``shift`` (C) or None; ``centre``: whether the mean is subtracted first."""

    scale: Tensor
    shift: Tensor | None
    centre: bool = False
    channel_dim: int = -1


@dataclass(frozen=True)
class Fold:
    """Target layers of a constant norm.

    Attributes:
        readers: Linear maps after the norm, each with the rows that read the norm (None: all).
        padded: Whether zeros are padded between norm and reader; a shift in the reader would not keep them zero.
        producer: The linear map before the norm, if the norm is folded there.
    """

    readers: tuple[tuple[str, slice | None], ...] = ()
    padded: bool = False
    producer: str | None = None


class ChannelAffine(nn.Module):
    """``y = scale * x + shift`` per channel: replaces a norm that cannot be folded.

    Args:
        scale: (C), or None for 1. A parameter stays a parameter; a tensor becomes a constant buffer.
        shift: (C), or None for 0. Stored in the same way.
        centre: Whether the mean over channels is subtracted first.
        channel_dim: Axis of the channels.
    """

    def __init__(self, scale: Tensor | None, shift: Tensor | None, centre: bool = False, channel_dim: int = -1) -> None:
        super().__init__()
        self.centre = centre
        self.channel_dim = channel_dim
        # A trained scale or shift stays a parameter; a constant becomes a buffer.
        for name, values in (('scale', scale), ('shift', shift)):
            if isinstance(values, nn.Parameter):
                self.register_parameter(name, values)
            else:
                self.register_buffer(name, None if values is None else values.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Apply to any shape with C channels on axis ``channel_dim``; keeps shape and dtype."""
        if self.centre:
            x = x - x.mean(self.channel_dim, keepdim=True)
        if self.scale is not None:
            x = x * self._per_channel(self.scale, x)
        if self.shift is not None:
            x = x + self._per_channel(self.shift, x)
        return x

    def _per_channel(self, values: Tensor, x: Tensor) -> Tensor:
        after = x.dim() - 1 - self.channel_dim % x.dim()
        return values.to(x.dtype).reshape(-1, *[1] * after)

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        parts = [name for name in ('scale', 'shift') if getattr(self, name) is not None]
        return ', '.join([*parts, f'centre={self.centre}', f'channel_dim={self.channel_dim}'])


def all_norms(model: nn.Module) -> dict[str, nn.Module]:
    """Every norm of ``model`` by name: PyTorch's, dinor1's, and classes whose names end in ``Norm``.

    Raises:
        ValueError: the model is itself a norm, without neighbours to fold it into.
    """
    if is_norm(model):
        raise ValueError(f'{type(model).__name__} is itself a norm; convert a model that contains it')
    return {name: m for name, m in model.named_modules() if is_norm(m) or type(m).__name__.endswith('Norm')}


def is_layer_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a LayerNorm over one, the last, axis.

    A subclass with its own forward method is tested numerically: some use another axis for the channels, some only call
    another kernel.
    """
    if not isinstance(module, nn.LayerNorm) or len(module.normalized_shape) != 1:
        return False
    if type(module).forward is nn.LayerNorm.forward:
        return True
    # Compare a subclass with LayerNorm on an example.
    probe = copy.deepcopy(module).cpu().double()
    x = torch.linspace(-1, 2, 6 * module.normalized_shape[0], dtype=torch.float64).cos().view(2, 3, -1)
    try:
        with torch.no_grad():
            actual = probe.forward(x)
    except Exception:
        return False
    expected = nn.functional.layer_norm(x, probe.normalized_shape, probe.weight, probe.bias, probe.eps)
    return actual.shape == x.shape and torch.allclose(actual, expected)


def find_fold(trace: Trace, name: str) -> Fold | str:
    """Find layers to fold the norm ``name`` into if it is a constant map; a string gives the reason why not."""
    forward = _find_readers(trace, name)
    if isinstance(forward, Fold) and not forward.padded:
        return forward
    producer = _find_producer(trace, name)
    return forward if producer is None else producer


def _find_readers(trace: Trace, name: str) -> Fold | str:
    # Find the norm in the trace.
    source = trace.norm(name)
    if source is None or not source.uses:
        return 'the example inputs do not reach it'
    # Collect the readers; any other use prevents folding.
    readers = {}
    for use in source.uses:
        if use.kind == 'sum':
            return f'its output enters {use.what}'
        if use.kind == 'output':
            return "its output is part of the model's output"
        if use.kind != 'linear' or not use.alone:
            return f'its output is read by {use.what}'
        reason = reader_conflict(trace, use.name, use.rows, name)
        if reason is not None:
            return reason
        readers[use.name, str(use.rows)] = (use.name, use.rows)
    return Fold(tuple(readers.values()), padded=any(use.padded for use in source.uses))


def reader_conflict(trace: Trace, reader: str, rows: slice | None, norm: str) -> str | None:
    """Reason why ``reader`` cannot absorb the constants of ``norm``; None: it can."""
    # The constants would also change the other inputs of the reader.
    for other_rows, value in trace.inputs[reader]:
        if rows is not None and other_rows is not None and other_rows != rows:
            continue
        if value is None or value.alone is None or (value.alone.kind, value.alone.name) != ('norm', norm):
            return f'its reader {reader} also reads something else'
    # A folded weight must not be used elsewhere.
    loose = trace.loose_use(reader)
    return None if loose is None else f'the weight of its reader {reader} is also read by {loose}'


def _find_producer(trace: Trace, name: str) -> Fold | None:
    # The norm must always read the same linear layer, whose weight nothing else uses.
    values = [value for _, value in trace.inputs.get(name, ())]
    source = values[0].alone if values and values[0] is not None else None
    if source is None or source.kind != 'linear' or trace.loose_use(source.name):
        return None
    if any(value is None or value.alone is not source for value in values):
        return None
    # Nothing but the norm may read the layer.
    if any((use.kind, use.name) != ('norm', name) or use.padded for use in source.uses):
        return None
    return Fold(producer=source.name)


def apply_folds(model: nn.Module, folds: dict[str, tuple[Constants, Fold | None]]) -> dict[str, str]:
    """Fold norms of ``model`` in place; those without target layers become :class:`ChannelAffine`.

    Returns:
        What each norm became, in words.
    """
    # Look up all norms first: wrapping by a caller could change names.
    modules = {name: model.get_submodule(name) for name in folds}
    return {name: _apply(model, modules[name], *folds[name]) for name in folds}


def _apply(model: nn.Module, norm: nn.Module, constants: Constants, fold: Fold | None) -> str:
    # Keep an affine map if the norm cannot be folded.
    if fold is None:
        replace_module(model, norm, _affine(constants, norm))
        return f'became {_describe(constants)}'
    # Fold into the producer.
    if fold.producer is not None:
        target = linear_map(model.get_submodule(fold.producer))
        untie(model, target)
        if constants.centre:
            target.centre_outputs()
        target.scale_outputs(constants.scale, constants.shift)
        replace_module(model, norm, nn.Identity())
        return f'folded into {fold.producer} before it'
    # Fold into the readers. A shift before padded zeros must stay an addition.
    targets = [linear_map(model.get_submodule(name), rows) for name, rows in fold.readers]
    names = ', '.join(dict.fromkeys(name for name, _ in fold.readers))
    shift = constants.shift
    rest: nn.Module = nn.Identity()
    if fold.padded and shift is not None and bool(shift.any()):
        if constants.centre or not bool(constants.scale.all()):
            replace_module(model, norm, _affine(constants, norm))
            return f'became {_describe(constants)}: zeros are padded before {names} reads it'
        rest = _like(norm, ChannelAffine(None, shift / constants.scale, channel_dim=constants.channel_dim))
        shift = None
    # Fold the shift first, because it is multiplied by the original weight.
    for target in targets:
        untie(model, target)
        if shift is not None:
            target.shift_inputs(shift)
        target.scale_inputs(constants.scale)
        if constants.centre:
            target.centre_inputs()
    replace_module(model, norm, rest)
    if isinstance(rest, ChannelAffine):
        return f'scale folded into {names}; the shift stays one addition, because zeros are padded in between'
    return f'folded into {names}'


def _affine(constants: Constants, norm: nn.Module) -> ChannelAffine:
    return _like(norm, ChannelAffine(constants.scale, constants.shift, constants.centre, constants.channel_dim))


def _like(norm: nn.Module, affine: ChannelAffine) -> ChannelAffine:
    """``affine`` in the dtype and on the device of ``norm``."""
    reference = next((t for t in [*norm.parameters(), *norm.buffers()] if t.is_floating_point()), None)
    return affine if reference is None else affine.to(reference.device, reference.dtype)


def _describe(constants: Constants) -> str:
    parts = ['a centring'] if constants.centre else []
    return ' and '.join([*parts, 'a constant scale and shift per channel'])
