"""Pre-LN to Pre-CRMSNorm: a zero-mean stream of width d is stored in d - 1 channels.

Z. Jiang, J. Gu, H. Zhu and D. Z. Pan, arXiv 2305.14858, section 3. The last channel is minus the sum of the others:
layers that write to the stream lose their last output, and a reader ``W`` becomes ``W[:, :-1] - W[:, -1:]``.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dinor1.blocks.normalization.rms_norm import CRMSNorm

from .example_inputs import Call, check_equal
from .folding import ChannelAffine, all_norms
from .linear_maps import linear_map, output_map, replace_module
from .pre_rmsnorm import as_rms_norm, centre_stream, describe, fold_norm_affine, report_on
from .residual_streams import Branch, Exit, ResidualStream

# Ways to connect a branch to the narrow stream, from the cheapest:
# 'narrow': reads and writes d - 1 channels.
# 'narrow output': reads d channels (the last one is restored after the norm) and writes d - 1.
# 'wide': reads and writes d channels; the last one is dropped after the branch's module.
# The first two fail where code takes the width of its output from the shape of its input.
Mode = Literal['narrow', 'narrow output', 'wide']


class RestoreChannel(nn.Module):
    """Append the last channel of a zero-mean vector: minus the sum of the stored ones."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d - 1) -> (..., d)."""
        return torch.cat([x, -x.sum(-1, keepdim=True)], -1)


class DropChannel(nn.Module):
    """Drops the last channel of a module's output (of the first tensor, if there are several).

    Args:
        module: Module with channels on the last axis of its output.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call ``module`` with its own arguments."""
        output = self.module(*args, **kwargs)
        if isinstance(output, tuple):
            return (output[0][..., :-1], *output[1:])
        return output[..., :-1]


@dataclass(frozen=True)
class _Plan:
    """A stream, the mode of each branch that has a choice (by its norm), and whether to compress the stream."""

    stream: ResidualStream
    modes: dict[str, Mode] = field(default_factory=dict)
    compress: bool = True


def to_pre_crmsnorm(
    model: nn.Module,
    streams: Sequence[ResidualStream] | None = None,
    *,
    example_inputs: Any = None,
    inplace: bool = False,
    check: bool = True,
) -> nn.Module:
    """Replace LayerNorms by CRMSNorms on streams that are one channel narrower, with equal outputs.

    First apply :func:`~dinor1.blocks.norm_conversion.to_pre_rmsnorm` with the affine parts folded into the readers;
    then compress the streams. If the output of a norm is not read by linear layers alone (or is padded, which prevents
    folding its bias), the last channel is restored after the CRMSNorm, which keeps the affine part. The same applies if
    code between norm and stream derives widths from the shape of its input: it keeps working on d channels, and the
    last one is dropped from its output (by a :class:`DropChannel` around it, which adds ``module.`` to the names
    inside). Trials determine which of these works. A stream keeps RMSNorm, with a reason in the report, if something
    else depends on its width or if no norm would gain.

    Args:
        model: Any module; it is not changed unless ``inplace``.
        streams: Writers and readers of each stream. None: found by running the model.
        example_inputs: Inputs to run the model on: a tensor, a tuple of positional arguments, a dict of keyword
            arguments, or a list of several such calls. They must cover every relevant branch. None: guessed.
        inplace: Change ``model`` itself.
        check: Verify the whole conversion on a copy with random parameters, in float64. Trials are always checked.

    Returns:
        The model, with its report at ``model.norm_report``.

    Raises:
        ValueError: the model does not run on the example inputs, none could be guessed, ``streams`` do not match the
            model, or the check failed.
    """
    # Choose a plan for each stream.
    streams, reasons, calls = describe(model, streams, example_inputs, needs_calls=True)
    plans: list[_Plan] = []
    refusals: dict[str, str] = {}
    for stream in streams:
        plan, refusal = _choose(model, plans, stream, calls)
        plans.append(plan)
        refusals.update(dict.fromkeys(stream.norms(), refusal or ''))

    def convert(target: nn.Module) -> dict[str, str]:
        return _convert(target, plans)

    # Check on a copy, then convert and report.
    if check:
        check_equal(model, convert, calls, 'to_pre_crmsnorm')
    originals = all_norms(model)
    converted = model if inplace else copy.deepcopy(model)
    done = convert(converted)
    for name in done:
        if refusals.get(name):
            done[name] += f', not compressed: {refusals[name]}'
    return report_on('to_pre_crmsnorm', originals, done, reasons).attach(converted)


def _choose(
    model: nn.Module, earlier: list[_Plan], stream: ResidualStream, calls: list[Call]
) -> tuple[_Plan, str | None]:
    """Cheapest plan for ``stream`` that works, and the reason if the stream is not compressed."""
    # Keep the width of a stream with a writer that cannot be compressed.
    plain = _Plan(stream, compress=False)
    refusal = _refusal(model, stream)
    if refusal is not None:
        return plain, refusal

    # Try combinations of modes, from the cheapest.
    groups: dict[type, list[Branch | Exit]] = {}
    for item in (*stream.branches, *stream.exits):
        if item.norm is not None:
            groups.setdefault(_kind(model, item), []).append(item)
    error = None
    for combination in _combinations(groups):
        plan = _Plan(stream, {item.norm: mode for kind, mode in combination.items() for item in groups[kind]})
        if 'narrow' not in combination.values():
            continue  # no gain: every norm would restore its channel
        try:
            check_equal(model, lambda target, plan=plan: _convert(target, [*earlier, plan]), calls, 'to_pre_crmsnorm')
        except Exception as problem:
            error = str(problem.__cause__ or problem).splitlines()[0][:160]
            continue
        return plan, None
    return plain, 'no norm would gain' if error is None else f'the model depends on its width ({error})'


def _kind(model: nn.Module, item: Branch | Exit) -> type:
    """Class of the module around a branch, or of the module that reads an exit."""
    module = getattr(item, 'module', None)
    if module is None and item.readers:
        module = item.readers[0].rpartition('.')[0]
    return type(None) if module is None else type(model.get_submodule(module))


def _refusal(model: nn.Module, stream: ResidualStream) -> str | None:
    for name in stream.writers():
        if output_map(model, name) is None:
            return f'{name} writes to it'
    return None


def _combinations(groups: dict[type, list[Branch | Exit]]) -> Iterator[dict[type, Mode]]:
    """Combinations of modes, one mode per kind of module around the branches, from the cheapest."""
    # Find the modes that all members of a group support.
    choices: list[list[Mode]] = []
    for items in groups.values():
        modes: list[Mode] = ['narrow'] if all(item.readers for item in items) else []
        modes.append('narrow output')
        if all(getattr(item, 'module', None) is not None for item in items):
            modes.append('wide')
        choices.append(modes)
    # Sort the combinations by their costs.
    cost: dict[Mode, int] = {'narrow': 0, 'narrow output': 1, 'wide': 2}
    for combination in sorted(product(*choices), key=lambda modes: sum(cost[mode] for mode in modes)):
        yield dict(zip(groups, combination, strict=True))


def _convert(model: nn.Module, plans: Sequence[_Plan]) -> dict[str, str]:
    # Look up all modules before names change.
    norms = {name: model.get_submodule(name) for plan in plans for name in plan.stream.norms()}
    wide = {
        b.module: model.get_submodule(b.module) for plan in plans for b in plan.stream.branches if _is_wide(plan, b)
    }
    # Centre the writers, narrow them, and convert the norms.
    for plan in plans:
        centre_stream(model, plan.stream)
    done = {}
    for plan in plans:
        if plan.compress:
            for name in _narrow_writers(plan):
                output_map(model, name).drop_last_output()
        for name, readers in plan.stream.norms().items():
            done[name] = _convert_norm(model, norms[name], name, readers, plan)
    for module in wide.values():
        # Wrap modules last, because this changes the names inside.
        replace_module(model, module, DropChannel(module))
    return done


def _is_wide(plan: _Plan, branch: Branch) -> bool:
    return plan.compress and branch.norm is not None and plan.modes.get(branch.norm) == 'wide'


def _narrow_writers(plan: _Plan) -> list[str]:
    wide = {branch.out for branch in plan.stream.branches if _is_wide(plan, branch)}
    return [name for name in plan.stream.writers() if name not in wide]


def _convert_norm(model: nn.Module, norm: nn.LayerNorm, name: str, readers: tuple, plan: _Plan) -> str:
    if not plan.compress:
        replace_module(model, norm, as_rms_norm(norm))
        return 'now RMSNorm'
    # Replace the norm, and let its readers use one channel less.
    compressed = CRMSNorm(plan.stream.width - 1, norm.eps).train(norm.training)
    if plan.modes[name] == 'narrow':
        fold_norm_affine(model, norm, readers)
        for reader in readers:
            linear_map(model.get_submodule(reader)).drop_last_input()
        replace_module(model, norm, compressed)
        return f'now CRMSNorm, weight and bias folded into {", ".join(readers)}'
    # Restore the last channel if a reader needs the full width.
    parts = [compressed, RestoreChannel()]
    if norm.weight is not None:
        parts.append(ChannelAffine(norm.weight, norm.bias))
    replace_module(model, norm, nn.Sequential(*parts))
    return 'now CRMSNorm with the last channel restored'
