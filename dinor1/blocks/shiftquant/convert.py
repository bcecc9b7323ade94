"""Convert a model for training in integers."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from dinor1.utils.errors import InputError

from .grid import FLOAT_BITS
from .int_conv import IntConv2d
from .int_linear import IntLinear
from .l1_norm import L1BatchNorm1d, L1BatchNorm2d, L1LayerNorm
from .layers import IntegerLayer
from .noise import noise_sources
from .recipe import IntegerRecipe
from .report import QuantReport

# Layers that stay in floating point by default, by the names of this project and MMDetection: the first layer, the
# heads, and the layers that place the sampling points of deformable attention. The paper's choice is unknown.
_STEMS = r'(.*\.)?backbone\.(conv1|stem\.0|0\.conv|patch_embed.*)'
_HEADS = r'(.*\.)?[a-z_]*heads?(\..*)?'
DEFAULT_SKIP = (f're:{_STEMS}', f're:{_HEADS}', r're:(.*\.)?(sampling_offsets|attention_weights)')
# A first layer with more input channels reads features, not images.
_IMAGE_CHANNELS = 4
_NORMS = {nn.BatchNorm1d: L1BatchNorm1d, nn.BatchNorm2d: L1BatchNorm2d, nn.LayerNorm: L1LayerNorm}
_L2_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def quantize_model(
    model: nn.Module,
    recipe: IntegerRecipe | None = None,
    skip: Sequence[str] | None = None,
    norm: str | None = None,
    seed: int = 0,
    aliases: Sequence[type[nn.Module]] = (),
) -> QuantReport:
    """Replace linear layers, convolutions and, with ``norm``, norms of ``model`` in place.

    New layers have the Parameter objects of the old ones: optimizers, DDP wrappers and tied weights stay valid. A layer
    that is used several times is replaced by one layer.

    Args:
        model: Any model. Existing integer layers do not change.
        recipe: Settings of the quantization; None: the defaults of :class:`IntegerRecipe`.
        skip: Layers to keep: names (``backbone.conv1``, including everything inside) or regular expressions for the
            whole name (``re:.*head.*``). None: :data:`DEFAULT_SKIP`; in a model without such names, the first
            convolution if it reads an image, and the last layer. The report has the patterns as ``skip``.
        norm: ``'l1'``: replace batch norms and layer norms by L1 norms with this recipe; trained deviations are
            converted as for Gaussian data. None: keep them.
        seed: Seed of the noise.
        aliases: Subclasses of ``nn.Linear`` and ``nn.Conv2d`` with the same computation, such as MMCV's wrappers. Other
            subclasses are kept: they may compute something different.

    Returns:
        Report of replaced and kept layers, with reasons.

    Raises:
        InputError: a setting is out of range, a pattern is not a regular expression or matches no module, or the model
            itself is the layer to replace.
    """
    # Check the settings.
    recipe = recipe or IntegerRecipe()
    if norm not in (None, 'l1'):
        raise InputError(f"quantize_model: norm must be None or 'l1', got {norm!r}")
    if norm == 'l1' and recipe.bits[1] == FLOAT_BITS and not recipe.is_float:
        raise InputError("quantize_model: norm='l1' needs bits of activations from 2 to 8")
    # Replace or keep every layer, and record the reason.
    report = QuantReport(recipe.bits, DEFAULT_SKIP + _unnamed_ends(model) if skip is None else tuple(skip))
    is_skipped = _skip_rule(model, report.skip, must_match=skip is not None)
    made: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        kind = _integer_class(module, norm, tuple(aliases))
        reason = _why_kept(module, kind, norm)
        if kind is None and reason is None:
            continue
        if reason is None and is_skipped(name):
            reason = 'in skip'
        if reason is not None:
            report.add(name, type(module).__name__, 'kept', reason)
            continue
        if not name:
            raise InputError(f'quantize_model: the model is a single {type(module).__name__}; use its integer class')
        if module not in made:
            made[module] = _make(module, kind, recipe, seed, name)
        parent, _, leaf = name.rpartition('.')
        setattr(model.get_submodule(parent), leaf, made[module])
        report.add(name, type(module).__name__, 'replaced', f'now {kind.__name__}')
    _bypass_fused_encoders(model)
    return report


def set_enabled(model: nn.Module, enabled: bool) -> None:
    """Switch all integer layers and norms of ``model`` to quantization, or to floating point."""
    for name in noise_sources(model):
        model.get_submodule(name).enabled = enabled


def _bypass_fused_encoders(model: nn.Module) -> None:
    """Make ``nn.TransformerEncoder`` and its layers call their submodules.

    In evaluation torch may run a whole encoder layer in one kernel, which reads the weights and calls no layer.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and noise_sources(module):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder) and noise_sources(module):
            module.use_nested_tensor = False


def _integer_class(module: nn.Module, norm: str | None, aliases: tuple[type, ...]) -> type[nn.Module] | None:
    """Class that replaces ``module``, or None."""
    kind = type(module)
    if kind in _NORMS:
        return _NORMS[kind] if norm == 'l1' else None
    if kind is nn.Linear or (kind in aliases and issubclass(kind, nn.Linear)):
        return IntLinear
    if kind is nn.Conv2d or (kind in aliases and issubclass(kind, nn.Conv2d)):
        return IntConv2d
    return None


def _why_kept(module: nn.Module, kind: type[nn.Module] | None, norm: str | None) -> str | None:
    """Reason to report why ``module`` is kept; None for layers to replace and for irrelevant modules."""
    # Handle modules without an integer counterpart.
    if isinstance(module, (IntegerLayer, *_NORMS.values())):
        return 'already an integer layer'
    if kind is None:
        if isinstance(module, nn.MultiheadAttention):
            return "torch's attention multiplies with its weights itself"
        if isinstance(module, _CONVOLUTIONS):
            return 'no integer counterpart'
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            return 'a subclass, which may compute something different'
        return 'no L1 counterpart' if norm == 'l1' and isinstance(module, _L2_NORMS) else None
    # Handle modules whose settings the counterpart does not support.
    if kind is IntConv2d and module.groups > 1 and module.groups == module.in_channels:
        return 'depthwise'
    if isinstance(module, _L2_NORMS):
        return _why_norm_kept(module)
    return None


def _why_norm_kept(module: nn.Module) -> str | None:
    if isinstance(module, nn.LayerNorm):
        if len(module.normalized_shape) != 1:
            return f'normalises {len(module.normalized_shape)} axes together'
        return None if (module.weight is None) == (module.bias is None) else 'weight without bias'
    if not module.track_running_stats or module.momentum is None:
        return 'running statistics of another kind'
    return 'frozen' if module.affine and not module.weight.requires_grad else None


def _make(module: nn.Module, kind: type[nn.Module], recipe: IntegerRecipe, seed: int, name: str) -> nn.Module:
    if issubclass(kind, IntegerLayer):
        return kind.from_float(module, recipe, seed, name)
    # Make an L1 norm with the settings of the old norm.
    arguments = dict(
        eps=module.eps,
        affine=module.weight is not None,
        gaussian_correction=True,
        quantized=not recipe.is_float,
        recipe=recipe,
        seed=seed,
    )
    # Copy running statistics, parameters and mode.
    if kind is L1LayerNorm:
        new = kind(module.normalized_shape[0], **arguments)
    else:
        new = kind(module.num_features, momentum=module.momentum, **arguments)
        new.load_state_dict(
            {name: buffer for name, buffer in module.state_dict().items() if name.startswith('running')}, strict=False
        )
        new.to(module.running_mean.device)
    new.noise.name = name
    if module.weight is not None:
        new.weight, new.bias = module.weight, module.bias
    return new.train(module.training)


def _unnamed_ends(model: nn.Module) -> tuple[str, ...]:
    """Names of the layer that reads images and of the last layer, in a model with unknown names for them.

    Layers are in the order of definition, since the order of execution is unknown without an input. A model of one or
    two layers is considered a part of another model, without a first and last layer.
    """
    layers = [(name, m) for name, m in model.named_modules() if name and isinstance(m, nn.Linear | nn.Conv2d)]
    if len(layers) < 3:
        return ()
    # Find the first and the last layer, unless a layer has a usual name of these.
    found = []
    if not any(re.fullmatch(_STEMS, name) for name, _ in layers):
        name, first = layers[0]
        if isinstance(first, nn.Conv2d) and first.in_channels <= _IMAGE_CHANNELS:
            found.append(name)
    if not any(re.fullmatch(_HEADS, name) for name, _ in layers):
        found.append(layers[-1][0])
    return tuple(found)


def _skip_rule(model: nn.Module, patterns: tuple[str, ...], must_match: bool) -> Any:
    """Compile patterns into a predicate of a module's name.

    Raises:
        InputError: a pattern is not a regular expression, or with ``must_match`` matches no module.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    found: set[str] = set()
    # Collect the names that each pattern matches.
    for pattern in patterns:
        if pattern.startswith('re:'):
            try:
                rule = re.compile(pattern[3:])
            except re.error as error:
                raise InputError(f'skip: {pattern!r} is not a regular expression: {error}') from None
            matching = {name for name in names if rule.fullmatch(name)}
        else:
            matching = {name for name in names if name == pattern or name.startswith(f'{pattern}.')}
        if must_match and not matching:
            raise InputError(
                f"skip: {pattern!r} matches no module of {type(model).__name__}; give a module's name, or a regular "
                "expression for the whole name after 're:'"
            )
        found |= matching
    return found.__contains__
