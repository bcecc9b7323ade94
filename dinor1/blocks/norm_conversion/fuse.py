"""Fold norms that are constant at inference into neighbouring linear layers.

Unified Normalization, arXiv 2208.01313 (its "fusion"); PowerNorm without group scaling, arXiv 2003.07845; L1 batch
norm, arXiv 1802.09769. In evaluation each is ``y = A x + B`` per channel.
"""

import copy
from typing import Any

import torch
from torch import nn

from dinor1.blocks.normalization.l1_norm import L1BatchNorm
from dinor1.blocks.normalization.moment_norm import MomentNorm
from dinor1.blocks.normalization.power_norm import PowerNorm

from .example_inputs import check_equal, example_calls, portable_copy
from .folding import Constants, Fold, all_norms, apply_folds, find_fold
from .report import ConversionReport
from .tracing import trace

_CONSTANT = (MomentNorm, L1BatchNorm)


def fuse_unified_norm(
    model: nn.Module, *, example_inputs: Any = None, inplace: bool = False, check: bool = True
) -> nn.Module:
    """Fold every UN, PN without group scaling and L1BN into the linear layers next to it, for inference.

    If all readers of the norm's output are linear (projections, 1x1 convolutions, heads), the norm is folded into them:
    ``W' = W diag(A)``, ``b' = b + W B``. Otherwise, if only the norm reads one linear layer or convolution, it is
    folded into that layer: ``A W``, ``A b + B``. If zeros are padded between norm and reader (windows of Swin, a padded
    convolution), only ``A`` is folded, and ``B / A`` stays one addition. All other norms become a
    :class:`~dinor1.blocks.norm_conversion.folding.ChannelAffine` and are reported as kept.

    Args:
        model: Any trained module, with final running statistics. It is not changed unless
            ``inplace``.
        example_inputs: Inputs to find the readers of every norm: a tensor, a tuple of positional arguments, a dict of
            keyword arguments, or a list of several such calls. They must cover every relevant branch, including
            padding. None: guessed.
        inplace: Change ``model`` itself.
        check: Verify on a copy with random parameters, in float64, that the outputs do not change.

    Returns:
        The fused model, with its report at ``model.norm_report``.

    Raises:
        ValueError: the model does not run on the example inputs, none could be guessed, or the check failed.
    """
    # Find the layers to fold each norm into.
    calls = example_calls(model, example_inputs)
    result = trace(portable_copy(model), calls, _CONSTANT)
    found: dict[str, Fold | str] = {}
    for name, norm in all_norms(model).items():
        reason = _not_constant(norm)
        found[name] = find_fold(result, name) if reason is None else reason

    def convert(target: nn.Module) -> dict[str, str]:
        folds = {}
        for name, fold in found.items():
            norm = target.get_submodule(name)
            if _not_constant(norm) is None:
                folds[name] = (_constants(norm), fold if isinstance(fold, Fold) else None)
        return apply_folds(target, folds)

    # Check on a copy, then convert.
    if check:
        check_equal(model, convert, calls, 'fuse_unified_norm')
    report = ConversionReport('fuse_unified_norm')
    originals = all_norms(model)
    fused = model if inplace else copy.deepcopy(model)
    done = convert(fused)
    # Report on every norm.
    for name, fold in found.items():
        if isinstance(fold, str):
            asked = isinstance(originals[name], _CONSTANT)
            report.kept(name, originals[name], f'{done[name]}: {fold}' if name in done else fold, asked)
        elif done[name].startswith('became'):
            report.kept(name, originals[name], done[name])
        else:
            report.converted(name, originals[name], done[name])
    return report.attach(fused)


def _not_constant(norm: nn.Module) -> str | None:
    """Reason why ``norm`` is not a constant map at inference; None: it is one."""
    if isinstance(norm, PowerNorm) and norm.group_num is not None:
        return 'group scaling depends on the token'
    if isinstance(norm, L1BatchNorm) and norm.quant is not None:
        return 'it rounds its input'
    if isinstance(norm, _CONSTANT):
        return None
    return 'only UN, PN and L1BN are folded here'


@torch.no_grad()
def _constants(norm: nn.Module) -> Constants:
    # Divide by the running statistics, in float64.
    if isinstance(norm, L1BatchNorm):
        scale = 1 / (norm.factor * norm.running_mad.double() + norm.eps)
        shift = -norm.running_mean.double() * scale
    else:
        scale = (norm.running_moment().double() + norm.eps).rsqrt()
        shift = None
    # Include weight and bias.
    if norm.weight is not None:
        scale = scale * norm.weight.double()
        shift = norm.bias.double() + (0 if shift is None else shift * norm.weight.double())
    return Constants(scale, shift, channel_dim=norm.channel_dim)
