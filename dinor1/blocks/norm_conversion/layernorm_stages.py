"""Stages of LayerNorm removal: the order in which norms are switched, and norms that are switched twice.

S. Heimersheim, arXiv 2409.13710; L. Baroni et al., arXiv 2507.02559: first the norms before the MLPs, then those before
attention as read by queries and keys, then the same norms as read by values, and last the final norm.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinor1.blocks.normalization.fixed_std_norm import FixedStdLayerNorm

from .example_inputs import example_calls, portable_copy
from .linear_maps import linear_map
from .tracing import trace

STAGES = ('mlp', 'attention', 'values', 'final', 'first')
DEFAULT_ORDER = ('mlp', 'attention', 'values', 'final')

# Only within a numbered block, since Swin's output norms are called norm1 and norm2 too.
_NAMES = {
    'mlp': re.compile(r'\d\.(ln_?2|norm_?2|layernorm_after|post_attention_layernorm|(mlp|ffn)_(layer)?_?norm)$'),
    'attention': re.compile(r'\d\.(ln_?1|norm_?1|layernorm_before|input_layernorm|(attn|attention)_(layer)?_?norm)$'),
}
_VALUE_NAMES = re.compile(r'(^|\.)(v|value|values|v_proj|value_proj|to_v|wv)$')


def check_order(order: Sequence[str]) -> tuple[str, ...]:
    """Check ``order``; returns a tuple.

    Raises:
        ValueError: a stage is unknown or repeated, or values come before attention.
    """
    order = tuple(order)
    if not order or set(order) - set(STAGES) or len(set(order)) < len(order):
        raise ValueError(f'order must name stages among {", ".join(STAGES)}, each once; got {list(order)}')
    if 'values' in order and ('attention' not in order or order.index('values') < order.index('attention')):
        raise ValueError(f'order: values must come after attention, got {list(order)}')
    return order


def stage_of(name: str) -> str:
    """Stage of the norm ``name``: ``mlp`` or ``attention`` in a numbered block, otherwise ``final``."""
    return next((stage for stage, pattern in _NAMES.items() if pattern.search(name)), 'final')


def removal_stages(model: nn.Module, order: Sequence[str] = DEFAULT_ORDER) -> dict[str, list[str]]:
    """Names of the :class:`FixedStdLayerNorm` of each stage in ``order``, by depth.

    ``values`` has the attention norms with a separate switch for values (see
    :func:`split_values`); ``first`` has those with a separate divisor for the first position.
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, FixedStdLayerNorm)}
    stages = {}
    for stage in check_order(order):
        if stage == 'values':
            stages[stage] = [name for name, norm in norms.items() if has_split_values(norm)]
        elif stage == 'first':
            stages[stage] = [name for name, norm in norms.items() if norm.per_position is not None]
        else:
            stages[stage] = [name for name in norms if stage_of(name) == stage]
    return stages


class ValueSplit:
    """Gives attention two outputs of one norm: the ordinary one for queries and keys, ``values=True`` for values.

    It uses forward hooks of the norm and of its reader, so that names of weights do not change.

    Args:
        norm: Norm with a second output for values.
        rows: Outputs of the reader that are values; None: all.
    """

    def __init__(self, norm: FixedStdLayerNorm, rows: slice | None) -> None:
        self.norm = norm
        self.rows = rows
        self.values: Tensor | None = None
        norm.register_forward_hook(self.after_norm)

    def after_norm(self, norm: FixedStdLayerNorm, args: tuple, output: Tensor) -> None:
        """Normalise again, for values."""
        self.values = norm.forward(args[0], values=True)

    def after_reader(self, reader: nn.Module, args: tuple, output: Tensor) -> Tensor:
        """Replace the values in the output of a linear ``reader``."""
        values, self.values = self.values, None
        if values is None:
            return output  # the reader was called without the norm's output
        # Project the values of the second output with the reader's weights.
        target = linear_map(reader)
        weight = getattr(reader, target.weight)
        weight, bias = weight if target.out_axis == 0 else weight.t(), getattr(reader, target.bias)
        if self.rows is None:
            return nn.functional.linear(values, weight, bias)
        bias = None if bias is None else bias[self.rows]
        projected = nn.functional.linear(values, weight[self.rows], bias)
        return torch.cat([output[..., : self.rows.start], projected], -1)

    def before_attention(self, attention: nn.MultiheadAttention, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Replace the values that an ``nn.MultiheadAttention`` receives."""
        values, self.values = self.values, None
        if values is None:
            return args, kwargs
        if 'value' in kwargs:
            return args, {**kwargs, 'value': values}
        return (*args[:2], values, *args[3:]), kwargs


def has_split_values(norm: nn.Module) -> bool:
    """Whether values have a separate switch."""
    return any(isinstance(getattr(hook, '__self__', None), ValueSplit) for hook in norm._forward_hooks.values())


def drop_finished_splits(model: nn.Module) -> None:
    """Remove every :class:`ValueSplit` whose norm is switched for queries, keys and values."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                split = getattr(hook, '__self__', None)
                if isinstance(split, ValueSplit) and bool(split.norm.is_fixed & split.norm.v_is_fixed):
                    del hooks[key]


def split_values(model: nn.Module, example_inputs: Any = None) -> dict[str, str]:
    """Give the attention norms of ``model`` a second switch, for values.

    This is possible if the norm's output reaches, unchanged, a fused projection of queries, keys and values (in this
    order), a value projection, or an ``nn.MultiheadAttention``.

    Args:
        model: Model with :class:`FixedStdLayerNorm`; changed in place.
        example_inputs: As in the converters.

    Returns:
        Reason for every attention norm without a second switch.
    """
    # Trace the attention norms.
    attention = {
        name: norm
        for name, norm in model.named_modules()
        if isinstance(norm, FixedStdLayerNorm) and stage_of(name) == 'attention'
    }
    try:
        calls = example_calls(model, example_inputs)
    except ValueError as error:
        return dict.fromkeys(attention, str(error))
    probe = portable_copy(model)
    result = trace(probe, calls, (FixedStdLayerNorm,))
    # Hook the reader of values of each norm.
    reasons = {}
    for name, norm in attention.items():
        source = result.norm(name)
        readers = {} if source is None else {u.name: u for u in source.uses if u.kind == 'linear' and u.alone}
        found = _value_reader(model, readers)
        if found is None or source.uses[0].padded or not _arrives_unchanged(probe, calls, name, found[0]):
            reasons[name] = 'no projection reads values directly from it'
            continue
        reader, rows = found
        module = model.get_submodule(reader)
        split = ValueSplit(norm, rows)
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(split.before_attention, with_kwargs=True)
        else:
            module.register_forward_hook(split.after_reader)
    return reasons


def _value_reader(model: nn.Module, readers: dict[str, Any]) -> tuple[str, slice | None] | None:
    """Name of the reader that projects values, and its rows for values."""
    # A single reader projects queries, keys and values together.
    if len(readers) == 1:
        name = next(iter(readers))
        module = model.get_submodule(name)
        if isinstance(module, nn.MultiheadAttention):
            return name, None
        outputs, inputs = linear_map(module).read()[0].shape[:2]
        return (name, slice(2 * inputs, 3 * inputs)) if outputs == 3 * inputs else None
    # Of several readers, the name tells which one projects values.
    values = [name for name in readers if _VALUE_NAMES.search(name)]
    return (values[0], None) if len(values) == 1 else None


def _arrives_unchanged(model: nn.Module, calls: list, norm: str, reader: str) -> bool:
    """Whether ``reader`` gets exactly what ``norm`` returns, in the same shape."""
    seen: dict[str, list[Tensor]] = {'out': [], 'in': []}

    def leaving(module: nn.Module, args: tuple, output: Tensor) -> None:
        seen['out'].append(output)

    def arriving(module: nn.Module, args: tuple, kwargs: dict) -> None:
        seen['in'].append(args[0] if args else kwargs['query'])

    # Record both ends in all example calls, and compare.
    handles = [
        model.get_submodule(norm).register_forward_hook(leaving),
        model.get_submodule(reader).register_forward_pre_hook(arriving, with_kwargs=True),
    ]
    with torch.no_grad():
        for args, kwargs in calls:
            model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    pairs = zip(seen['out'], seen['in'], strict=False)
    return len(seen['out']) == len(seen['in']) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
