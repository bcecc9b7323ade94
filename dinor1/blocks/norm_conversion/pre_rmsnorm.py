"""Pre-LN to Pre-RMSNorm with equal outputs.

Z. Jiang, J. Gu, H. Zhu and D. Z. Pan, "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN
Transformers", NeurIPS 2023, arXiv 2305.14858, section 3. :mod:`.residual_streams` explains why.
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dinor1.blocks.normalization.rms_norm import RMSNorm

from .dataflow import Trace
from .example_inputs import Call, check_equal, example_calls, portable_copy
from .folding import all_norms, is_layer_norm
from .linear_maps import LinearMap, linear_map, output_map, replace_module, untie
from .report import ConversionReport
from .residual_streams import Centre, CentredParameter, ResidualStream, find_streams, named_streams
from .tracing import trace

logger = logging.getLogger(__name__)


def to_pre_rmsnorm(
    model: nn.Module,
    streams: Sequence[ResidualStream] | None = None,
    *,
    example_inputs: Any = None,
    fold_affine: bool = False,
    trainable: bool = False,
    inplace: bool = False,
    check: bool = True,
) -> nn.Module:
    """Replace LayerNorms by RMSNorms, and centre the weights that write to the streams they read.

    Converted are the norms of pre-norm streams, and any other LayerNorm whose input is a sum of linear outputs,
    embeddings and parameters that nothing else reads. All others are kept, with the reason in the report:

    - Post-LN layers;
    - norms over several concatenated vectors (Swin's patch merging), and with them all norms of the concatenated
      stream, whose means carry information;
    - norms of a stream that begins with an input of the model, as in a ``torch.nn.TransformerEncoder`` alone: convert
      the model around it, whose embedding writes that input;
    - norms that the example inputs do not reach.

    If all norms are kept, there is a ``UserWarning``.

    If a LayerNorm with an affine part writes to a stream (CLIP's norm before the first block), one explicit centring
    follows it. A LayerScale is folded into the projection before it. Weights that a writer shares with another layer
    (tied embeddings) are copied first. Embeddings passed to a converted model (``inputs_embeds``) must be centred.

    The outputs are equal at inference. In training they are not with elementwise dropout after a projection (the
    dropped vector is not zero-mean); without dropout gradients differ unless ``trainable``.

    Args:
        model: Any module; it is not changed unless ``inplace``.
        streams: Writers and readers of each stream. None: found by running the model.
        example_inputs: Inputs to run the model on: a tensor, a tuple of positional arguments, a dict of keyword
            arguments, or a list of several such calls. They must cover every relevant branch. None: guessed.
        fold_affine: Fold weight and bias of a norm into its readers if all of them are linear layers without padding in
            between; False: keep them in the RMSNorm.
        trainable: Keep the raw weights and centre them in every forward pass, so that gradients and training equal
            those of the Pre-LN model; :func:`bake_centring` ends this. Excludes ``fold_affine``.
        inplace: Change ``model`` itself.
        check: Verify on a copy with random parameters, in float64, that the outputs do not change.

    Returns:
        The model, with its report at ``model.norm_report``.

    Raises:
        ValueError: the model does not run on the example inputs, none could be guessed, ``streams`` do not match the
            model, or the check failed.
    """
    if trainable and fold_affine:
        raise ValueError('to_pre_rmsnorm: fold_affine rewrites the weights that trainable keeps; choose one of them')
    streams, reasons, calls = describe(model, streams, example_inputs, needs_calls=check)

    def convert(target: nn.Module) -> dict[str, str]:
        return _convert(target, streams, fold_affine, trainable)

    # Check on a copy, then convert and report.
    if check:
        check_equal(model, convert, calls, 'to_pre_rmsnorm')
    originals = all_norms(model)
    converted = model if inplace else copy.deepcopy(model)
    return report_on('to_pre_rmsnorm', originals, convert(converted), reasons).attach(converted)


def describe(
    model: nn.Module, streams: Sequence[ResidualStream] | None, example_inputs: Any, needs_calls: bool
) -> tuple[list[ResidualStream], dict[str, str], list[Call]]:
    """Streams by name, the reason for every LayerNorm outside of them, and calls for the check."""
    # Find the streams by tracing the model.
    if streams is None:
        calls = example_calls(model, example_inputs)
        probe = portable_copy(model)
        result = trace(probe, calls, (nn.LayerNorm,))
        streams, reasons = find_streams(probe, result)
        _warn_of_unseen(model, streams, result)
        return streams, reasons, calls
    # Given streams need only names, and the calls only for the check.
    streams = named_streams(model, streams)
    calls = example_calls(model, example_inputs) if needs_calls else []
    return streams, {}, calls


def report_on(
    converter: str, originals: dict[str, nn.Module], done: dict[str, str], reasons: dict[str, str]
) -> ConversionReport:
    """Report on all norms: those of ``done`` were converted, the others kept for ``reasons``."""
    report = ConversionReport(converter)
    for name, norm in originals.items():
        if name in done:
            report.converted(name, norm, done[name])
        else:
            default = (
                'in none of the given streams' if is_layer_norm(norm) else 'not a LayerNorm over the last axis alone'
            )
            report.kept(name, norm, reasons.get(name, default), asked=name in reasons)
    return report


def _warn_of_unseen(model: nn.Module, streams: list[ResidualStream], result: Trace) -> None:
    """Warn of modules and parameters that no example uses: they may write to a stream without being centred."""
    widths = {stream.width for stream in streams}
    unseen = []
    # Find linear layers that were not called, and free parameters that were not read.
    for name, module in model.named_modules():
        target = linear_map(module)
        uncalled = name not in result.called and target is not None
        if uncalled and getattr(module, target.weight).shape[target.out_axis] in widths:
            unseen.append(name)
        for key, parameter in module._parameters.items():
            full = f'{name}.{key}' if name else key
            free = target is None and not isinstance(module, nn.Embedding) and name in result.called
            fits = parameter is not None and parameter.dim() > 1 and parameter.shape[-1] in widths
            if free and fits and ('parameter', full) not in result.sources:
                unseen.append(full)
    if unseen:
        logger.warning(
            f'the example inputs do not use {", ".join(unseen)}: a converted {type(model).__name__} is exact only '
            'if these do not write to a residual stream; pass example_inputs that use them'
        )


def centre_stream(model: nn.Module, stream: ResidualStream, trainable: bool = False) -> None:
    """Make everything that writes to ``stream`` zero-mean over channels, in place."""
    for name, scale in stream.writers().items():
        # Add an explicit centring after an affine LayerNorm.
        target = output_map(model, name) if _norm_at(model, name) is None else None
        if target is None:
            norm = _norm_at(model, name)
            if norm.weight is not None:
                replace_module(model, norm, nn.Sequential(norm, Centre()))
        elif scale is None:
            _centre(model, target, trainable)
        elif trainable:
            owner, _, leaf = scale.rpartition('.')
            module = model.get_submodule(owner)._modules.get(leaf)
            if module is None:
                raise ValueError(f'to_pre_rmsnorm: trainable needs a module for the scale {scale}, not a parameter')
            replace_module(model, module, nn.Sequential(module, Centre()))
        else:
            # Scale before centring: the mean over scaled channels must be 0.
            untie(model, target)
            target.scale_outputs(_take_scale(model, scale))
            target.centre_outputs()


def _norm_at(model: nn.Module, name: str) -> nn.LayerNorm | None:
    owner, _, leaf = name.rpartition('.')
    module = model.get_submodule(owner)._modules.get(leaf)
    return module if isinstance(module, nn.LayerNorm) else None


def _centre(model: nn.Module, target: LinearMap, trainable: bool) -> None:
    if not trainable:
        untie(model, target)
        target.centre_outputs()
        return
    # Training would move the mean, so the parameters are centred whenever they are read.
    parametrize.register_parametrization(target.module, target.weight, CentredParameter(target.out_axis))
    if target.bias is not None and getattr(target.module, target.bias) is not None:
        parametrize.register_parametrization(target.module, target.bias, CentredParameter(0))


def _take_scale(model: nn.Module, name: str) -> Tensor:
    """Take the vector out of a LayerScale, which becomes the identity."""
    # The scale may be a parameter of its parent.
    owner, _, leaf = name.rpartition('.')
    parent = model.get_submodule(owner)
    if leaf in parent._parameters:
        parameter = parent._parameters[leaf]
        factor = parameter.detach().clone().flatten()
        parameter.data.fill_(1)
        parameter.requires_grad_(False)
        return factor
    # Otherwise it is a module with one parameter.
    module = model.get_submodule(name)
    factor = next(iter(module._parameters.values())).detach().flatten()
    replace_module(model, module, nn.Identity())
    return factor


def _convert(model: nn.Module, streams: Sequence[ResidualStream], fold_affine: bool, trainable: bool) -> dict[str, str]:
    # Look up all norms, then centre the writers.
    norms = {name: model.get_submodule(name) for stream in streams for name in stream.norms()}
    for stream in streams:
        centre_stream(model, stream, trainable)
    # Replace the norms.
    done = {}
    for stream in streams:
        for name, readers in stream.norms().items():
            folded = fold_affine and bool(readers) and norms[name].weight is not None
            if folded:
                fold_norm_affine(model, norms[name], readers)
            replace_module(model, norms[name], as_rms_norm(norms[name], affine=not folded))
            done[name] = 'now RMSNorm' + (f', weight and bias folded into {", ".join(readers)}' if folded else '')
    return done


def fold_norm_affine(model: nn.Module, norm: nn.LayerNorm, readers: Sequence[str]) -> None:
    """Fold weight and bias of ``norm`` into the linear layers that read it; the norm itself does not change."""
    for reader in readers:
        target = linear_map(model.get_submodule(reader))
        untie(model, target)
        # Fold the bias first, because it is multiplied by the original weight.
        if norm.bias is not None:
            target.shift_inputs(norm.bias.detach())
        if norm.weight is not None:
            target.scale_inputs(norm.weight.detach())


def as_rms_norm(norm: nn.LayerNorm, affine: bool = True) -> RMSNorm:
    """RMSNorm with the eps, the mode and, if ``affine``, the same parameter objects as ``norm``."""
    new = RMSNorm(norm.normalized_shape[0], norm.eps, affine=False)
    if affine:
        new.weight, new.bias = norm.weight, norm.bias
    return new.train(norm.training)


def bake_centring(model: nn.Module) -> nn.Module:
    """Make the centring of a model converted with ``trainable=True`` permanent, in place.

    Tied weights are untied. After a LayerScale the centring stays an operation.

    Returns:
        ``model``.

    Raises:
        ValueError: a module has other parametrizations too.
    """
    # Replace the parametrizations by their raw parameters.
    raw: list[LinearMap] = []
    for module in list(model.modules()):
        chains = dict(module.parametrizations.items()) if parametrize.is_parametrized(module) else {}
        if not all(len(chain) == 1 and isinstance(chain[0], CentredParameter) for chain in chains.values()):
            raise ValueError(f'bake_centring: {module} has parametrizations of other kinds; remove those first')
        if chains:
            # remove_parametrizations() would also remove the weight from deep copies of the module, which share its
            # class. Restore the raw parameter, and with it its tie to others.
            module.__class__ = type(module).__bases__[0]
            del module.parametrizations
        for key, chain in chains.items():
            if isinstance(chain.original, nn.Parameter):
                module.register_parameter(key, chain.original)
            else:
                module.register_buffer(key, chain.original)
            raw.append(LinearMap(module, key, None, out_axis=chain[0].axis, in_axis=None))
    # Centre the raw weights.
    for target in raw:
        untie(model, target)
        target.centre_outputs()
    return model
