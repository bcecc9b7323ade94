"""Removal of LayerNorm at inference: swap norms, measure deviations, fold constants.

S. Heimersheim, "You can remove GPT2's LayerNorm by fine-tuning", arXiv 2409.13710; L. Baroni, G. Khara, J. Schaeffer,
M. Subkhankulov and S. Heimersheim, "Transformers Don't Need LayerNorm at Inference Time", arXiv 2507.02559. A LayerNorm
that divides by a constant S is the affine map ``weight (x - mean_c(x)) / S + bias``; it is folded into a linear reader
as ``W' = W diag(weight) P / S``, ``b' = b + W bias``, with ``P = I - 11^T / d``.

The switches during training are scheduled by :class:`dinor1.blocks.norm_conversion.removal_hook.LayerNormRemovalHook`.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dinor1.blocks.normalization.fixed_std_norm import FixedStdLayerNorm
from dinor1.utils.precision import compute_dtype

from .example_inputs import check_equal, example_calls, portable_copy
from .folding import Constants, Fold, all_norms, apply_folds, find_fold, is_layer_norm
from .layernorm_stages import DEFAULT_ORDER, check_order, drop_finished_splits, split_values, stage_of
from .linear_maps import replace_module
from .report import ConversionReport
from .tracing import trace


def swap_layernorm_for_fixed_std(
    model: nn.Module,
    order: Sequence[str] = DEFAULT_ORDER,
    *,
    momentum: float = 0.9,
    per_position: int | None = None,
    example_inputs: Any = None,
    inplace: bool = False,
) -> nn.Module:
    """Replace LayerNorms by :class:`FixedStdLayerNorm`, which compute LayerNorm until they are switched.

    Parameters are the same objects and keep their names: an optimizer that was built before keeps working, and a
    checkpoint of the original model can be loaded, except for the buffers.

    Args:
        model: Any module; a copy of it is changed unless ``inplace``.
        order: Stages to remove. ``mlp`` and ``attention``: norms before these in numbered blocks, with the usual names
            (``norm2``, ``ln_2``, ``layernorm_after``; ``norm1``, ``ln_1``, ``layernorm_before``). ``values``: attention
            norms get a second switch for values. ``final``: all other norms. ``first``: see ``per_position``. Norms of
            other stages stay.
        momentum: See :class:`FixedStdLayerNorm`.
        per_position: See :class:`FixedStdLayerNorm`.
        example_inputs: Inputs to find the value projections; None: guessed. If this fails, values
            switch together with queries and keys, and the report says so.
        inplace: Change ``model`` itself.

    Returns:
        The model, with its report at ``model.norm_report``.

    Raises:
        ValueError: ``order`` names an unknown stage.
    """
    # Swap the norms of the given stages.
    order = check_order(order)
    originals = all_norms(model)
    swapped = model if inplace else copy.deepcopy(model)
    done, reasons = {}, {}
    for name, norm in all_norms(swapped).items():
        reasons[name] = _why_not_swapped(norm, stage_of(name), order)
        if reasons[name] is None:
            replace_module(swapped, norm, FixedStdLayerNorm.from_layer_norm(norm, momentum, per_position))
            done[name] = f'now FixedStdLayerNorm, stage {stage_of(name)}'
    # Give values a second switch, and report.
    joined = split_values(swapped, example_inputs) if 'values' in order else {}
    report = ConversionReport('swap_layernorm_for_fixed_std')
    for name, norm in originals.items():
        if reasons[name] is not None:
            report.kept(name, norm, reasons[name], asked=is_layer_norm(norm) and stage_of(name) in order)
        elif name in joined:
            report.converted(name, norm, f'{done[name]}; values switch with queries and keys: {joined[name]}')
        else:
            report.converted(name, norm, done[name])
    return report.attach(swapped)


def _why_not_swapped(norm: nn.Module, stage: str, order: tuple[str, ...]) -> str | None:
    if not is_layer_norm(norm):
        return 'not a LayerNorm over the last axis alone'
    return None if stage in order else f'stage {stage} is not in the order'


@torch.no_grad()
def collect_ln_std(
    model: nn.Module,
    loader: Iterable,
    n: int | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    skip_first: bool = False,
) -> dict[str, float]:
    """Mean over tokens of ``sqrt(var_c(x) + eps)`` at the input of every LayerNorm: the S of :func:`remove_layernorm`.

    Args:
        model: Model, run in evaluation mode; all modes are restored.
        loader: Yields batches.
        n: Number of batches; None: all.
        forward: ``forward(model, batch)``. None: a dict becomes keyword arguments, a tuple or list positional
            arguments; a model of MMEngine runs its ``test_step``.
        skip_first: Exclude position 0 of axis -2: the start of text or the class token.

    Returns:
        S of every LayerNorm and FixedStdLayerNorm over one axis, by name; norms that never ran are left out.

    Raises:
        ValueError: the loader yields nothing.
    """
    # Accumulate the sum and the number of deviations for each norm.
    sums: dict[str, tuple[Tensor, int]] = {}

    def measure(name: str) -> Callable:
        def hook(norm: nn.Module, args: tuple) -> None:
            # Compute the deviation of every position, perhaps without the first.
            x = args[0].to(compute_dtype(args[0]))
            x = x[..., 1:, :] if skip_first else x
            sigma = (x.var(-1, correction=0) + norm.eps).sqrt()
            # Add to the sum and number over all batches.
            total, count = sums.get(name, (0, 0))
            sums[name] = (total + sigma.sum(dtype=torch.float64), count + sigma.numel())

        return hook

    # Run the batches in evaluation mode with a hook on every norm.
    norms = {name: m for name, m in model.named_modules() if _is_measurable(m)}
    handles = [norm.register_forward_pre_hook(measure(name)) for name, norm in norms.items()]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    batches = 0
    try:
        for batch in islice(loader, n):
            (forward or _run_batch)(model, batch)
            batches += 1
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    # Divide the sums by the numbers.
    if batches == 0:
        raise ValueError('collect_ln_std: the loader has no batch; check the data')
    return {name: float(sums[name][0]) / sums[name][1] for name in norms if sums.get(name, (0, 0))[1]}


def _is_measurable(module: nn.Module) -> bool:
    return is_layer_norm(module) or isinstance(module, FixedStdLayerNorm)


def _run_batch(model: nn.Module, batch: Any) -> Any:
    if hasattr(model, 'test_step') and hasattr(model, 'data_preprocessor'):
        return model.test_step(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (list, tuple)) else model(batch)


def remove_layernorm(
    model: nn.Module,
    stats: Mapping[str, float | Tensor] | None = None,
    *,
    example_inputs: Any = None,
    inplace: bool = False,
    check: bool = True,
) -> nn.Module:
    """Fold norms with a constant divisor into the linear layers that read them, so that no operation remains.

    This applies to every switched :class:`FixedStdLayerNorm`, and to every LayerNorm or FixedStdLayerNorm with an S in
    ``stats``. A norm whose output is not read by linear layers alone (Post-LN: by the stream itself), or which has a
    bias before padding with zeros (Swin's windows), becomes one centring, scale and shift per channel, reported as
    kept. A head that is tied to the embeddings gets its own weight.

    Args:
        model: Any module; it is not changed unless ``inplace``.
        stats: S by the name of the norm, as from :func:`collect_ln_std`; it overrides the tracked values.
        example_inputs: Inputs to find the readers of every norm: a tensor, a tuple of positional
            arguments, a dict of keyword arguments, or a list of several such calls. None: guessed.
        inplace: Change ``model`` itself.
        check: Verify on a copy with random parameters, in float64, that folding does not change the outputs.

    Returns:
        The model, with its report at ``model.norm_report``.

    Raises:
        ValueError: ``stats`` has an unknown name or an S that is not positive; the model does not run on the example
            inputs, none could be guessed, or the check failed.
    """
    # Set the constants on a copy.
    originals = all_norms(model)
    _check_stats(originals, stats or {})
    fixed = copy.deepcopy(model)
    _set_constants(fixed, stats or {})
    reasons = {name: _why_not_constant(norm) for name, norm in all_norms(fixed).items()}
    # Find the layers to fold each norm into.
    calls = example_calls(fixed, example_inputs)
    result = trace(portable_copy(fixed), calls, (FixedStdLayerNorm, nn.LayerNorm))
    found = {name: find_fold(result, name) for name, reason in reasons.items() if reason is None}

    def convert(target: nn.Module) -> dict[str, str]:
        folds = {}
        for name, fold in found.items():
            folds[name] = (_constants(target.get_submodule(name)), fold if isinstance(fold, Fold) else None)
        return apply_folds(target, folds)

    # Check on a copy, then convert.
    if check:
        check_equal(fixed, convert, calls, 'remove_layernorm')
    if inplace:
        fixed = model
        _set_constants(fixed, stats or {})
    done = convert(fixed)
    # Report on every norm.
    report = ConversionReport('remove_layernorm')
    for name, norm in originals.items():
        if name not in done:
            report.kept(name, norm, reasons[name], asked=isinstance(norm, FixedStdLayerNorm))
        elif isinstance(found[name], str):
            report.kept(name, norm, f'{done[name]}: {found[name]}')
        elif done[name].startswith('became'):
            report.kept(name, norm, done[name])
        else:
            report.converted(name, norm, done[name])
    return report.attach(fixed)


def _check_stats(norms: dict[str, nn.Module], stats: Mapping[str, float | Tensor]) -> None:
    known = [name for name, norm in norms.items() if _is_measurable(norm)]
    for name, value in stats.items():
        if name not in known:
            raise ValueError(
                f'remove_layernorm: stats has {name!r}, which is not a LayerNorm of the model; it has {known}'
            )
        value = torch.as_tensor(value)
        if value.numel() != 1 or not bool(value.isfinite() & (value > 0)):
            raise ValueError(f'remove_layernorm: S of {name} must be one positive number, got {value.tolist()}')


def _set_constants(model: nn.Module, stats: Mapping[str, float | Tensor]) -> None:
    """Switch the norms in ``stats`` to their S; switched norms need no second output for values."""
    for name, value in stats.items():
        norm = model.get_submodule(name)
        # A plain LayerNorm must become one that can be switched.
        if isinstance(norm, nn.LayerNorm):
            replacement = FixedStdLayerNorm.from_layer_norm(norm)
            replace_module(model, norm, replacement)
            norm = replacement
        # Switch the norm to S.
        norm.std.fill_(float(value))
        norm.fix()
    drop_finished_splits(model)


def _why_not_constant(norm: nn.Module) -> str | None:
    if is_layer_norm(norm):
        return 'a LayerNorm without S: pass stats, or swap and switch it first'
    if not isinstance(norm, FixedStdLayerNorm):
        return 'not a LayerNorm over the last axis alone'
    if not bool(norm.is_fixed & norm.v_is_fixed):
        return 'still a real LayerNorm: it is not switched, or not for all of queries, keys and values'
    if bool((norm.std != norm.std.reshape(-1)[0]).any()):
        return 'the first position has a separate divisor'
    return None


@torch.no_grad()
def _constants(norm: FixedStdLayerNorm) -> Constants:
    scale = 1 / norm.std.double().reshape(-1)[:1].expand(norm.num_features)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    return Constants(scale, None if norm.bias is None else norm.bias.double(), centre=True)
