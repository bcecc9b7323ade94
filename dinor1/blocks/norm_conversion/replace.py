"""Replace the norms of any model, including those that no config controls."""

import copy
import inspect
import re
from collections.abc import Callable

import torch
from torch import nn

from dinor1.blocks.normalization.evo_norm import EvoNorm, is_norm_act
from dinor1.blocks.normalization.registry import NORMS, is_norm
from dinor1.utils.precision import compute_dtype

from .report import ConversionReport

_IMAGE_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.InstanceNorm2d)


def replace_norm(
    model: nn.Module,
    src: type[nn.Module] | tuple[type[nn.Module], ...] = nn.LayerNorm,
    cfg: dict | None = None,
    name_filter: str | Callable[[str], bool] | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Replace norms of the class ``src`` by the norm that ``cfg`` describes.

    Width, ``eps``, axis of the channels, device, mode and ``requires_grad`` are those of the replaced norm unless
    ``cfg`` sets them; ``weight`` and ``bias`` are copied if both norms have them. The new model computes a different
    function and must be trained: this is not an equivalent conversion. A norm that does not fit ``cfg`` stays, and
    ``model.norm_report`` gives the reason.

    A norm that is used several times stays one norm. Subclasses of ``src`` stay, since they may read their input
    in another layout. ``nn.TransformerEncoder`` and its layers stop using the fused kernel that reads a LayerNorm's
    parameters without calling it.

    Args:
        model: Any model; may be a norm itself.
        src: Class, or classes, to replace.
        cfg: ``dict(type=..., **arguments)`` as in ``norm_cfg``: a name of :data:`dinor1.blocks.normalization.NORMS`,
            ``LN``, or a class that takes ``(num_features, **arguments)``. Default: ``dict(type='UN')``.
        name_filter: Names to replace: a regular expression that is searched in the module's name, or a function of
            the name. Default: all.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The model, with ``norm_report``.

    Raises:
        ValueError: ``cfg`` has no ``type``, or an unknown one.
    """
    # Read the settings.
    arguments = dict(cfg if cfg is not None else dict(type='UN'))
    target = _resolve(arguments.pop('type', None))
    requires_grad = arguments.pop('requires_grad', None)
    sources = src if isinstance(src, tuple) else (src,)
    wanted = _as_predicate(name_filter)
    model = model if inplace else copy.deepcopy(model)

    # Replace or keep every norm, and record the reason.
    report = ConversionReport('replace_norm')
    made: dict[nn.Module, nn.Module] = {}
    for name, norm in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(norm, sources) and not is_norm(norm):
            continue
        if not isinstance(norm, sources) or not wanted(name):
            reason = 'left out by name_filter' if isinstance(norm, sources) else f'{type(norm).__name__} is not in src'
            report.kept(name, norm, reason, asked=False)
            continue
        refusal = _refusal(norm, sources, target)
        if refusal:
            report.kept(name, norm, refusal)
            continue
        if norm not in made:
            made[norm] = _build(norm, target, arguments, requires_grad)
        report.converted(name, norm, _what_changed(norm, made[norm]))
        model = _put(model, name, made[norm])
    bypass_fused_encoders(model, made.values())
    return report.attach(model)


def bypass_fused_encoders(model: nn.Module, norms: set[nn.Module] | None = None) -> None:
    """Make ``nn.TransformerEncoder`` and its layers call their norms.

    In evaluation torch may run a whole encoder layer in one kernel, which reads ``weight``, ``bias`` and ``eps`` of the
    two norms and computes LayerNorm, for any class of these norms.

    Args:
        model: Changed in place.
        norms: Only layers with one of these norms. Default: every layer.
    """
    # Disable the fused kernel of every affected layer and its encoder.
    chosen = None if norms is None else set(norms)
    changed = set()
    for module in model.modules():
        if not isinstance(module, nn.TransformerEncoderLayer):
            continue
        if chosen is None or module.norm1 in chosen or module.norm2 in chosen:
            module.activation_relu_or_gelu = 0
            changed.add(module)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and changed.intersection(module.layers):
            module.use_nested_tensor = False


def _resolve(kind: str | type[nn.Module] | None) -> type[nn.Module]:
    if inspect.isclass(kind):
        return kind
    known = {**NORMS, 'LN': nn.LayerNorm}
    if kind not in known:
        raise ValueError(f'replace_norm: cfg needs a type among {sorted(known)}, or a class; got {kind!r}')
    return known[kind]


def _as_predicate(name_filter: str | Callable[[str], bool] | None) -> Callable[[str], bool]:
    if name_filter is None:
        return lambda name: True
    if isinstance(name_filter, str):
        return re.compile(name_filter).search
    return name_filter


def _refusal(norm: nn.Module, sources: tuple[type[nn.Module], ...], target: type[nn.Module]) -> str | None:
    """Reason why ``norm`` is kept, or None."""
    # Check that the input of the norm is known.
    if type(norm) not in sources:
        return 'a subclass, which may read its input in another layout'
    width, axis = _width(norm), _channel_axis(norm)
    if width is None:
        return f'normalises {len(norm.normalized_shape)} axes together' if _is_last_axis(norm) else 'has no known width'
    if axis is None:
        return 'the axis of its channels is unknown'
    # Check that the target supports this input.
    if issubclass(target, EvoNorm):
        if not isinstance(norm, (*_IMAGE_NORMS, EvoNorm)):
            return f'{target.__name__} normalises images (B, C, H, W), and this norm does not'
    elif axis != -1 and 'channel_dim' not in inspect.signature(target).parameters:
        return f'{target.__name__} works on the last axis, this norm on axis {axis}'
    return None


def _is_last_axis(norm: nn.Module) -> bool:
    return isinstance(norm, (nn.LayerNorm, nn.RMSNorm))


def _width(norm: nn.Module) -> int | None:
    """Number of channels; None if there is no single number."""
    if _is_last_axis(norm):
        return norm.normalized_shape[0] if len(norm.normalized_shape) == 1 else None
    return getattr(norm, 'num_channels' if isinstance(norm, nn.GroupNorm) else 'num_features', None)


def _channel_axis(norm: nn.Module) -> int | None:
    """Axis of the channels; None for a class that is neither dinor1's nor torch's."""
    if type(norm) in NORMS.values():
        return 1 if isinstance(norm, EvoNorm) else getattr(norm, 'channel_dim', -1)
    if not type(norm).__module__.startswith('torch.nn.'):
        return None
    return -1 if _is_last_axis(norm) else 1


def _build(norm: nn.Module, target: type[nn.Module], arguments: dict, requires_grad: bool | None) -> nn.Module:
    # Make the new norm with the settings of the old one.
    accepted = inspect.signature(target).parameters
    arguments = dict(arguments)
    if getattr(norm, 'eps', None) is not None:
        arguments.setdefault('eps', norm.eps)
    if 'channel_dim' in accepted:
        arguments.setdefault('channel_dim', _channel_axis(norm))
    new = target(_width(norm), **arguments)
    # Copy device, dtype and parameters.
    old_parameters = dict(norm.named_parameters(recurse=False))
    if old_parameters:
        reference = next(iter(old_parameters.values()))
        new.to(reference.device, compute_dtype(reference)).to(reference.dtype)
    for name, parameter in new.named_parameters(recurse=False):
        old = old_parameters.get(name)
        if old is not None and old.shape == parameter.shape:
            with torch.no_grad():
                parameter.copy_(old)
            parameter.requires_grad_(old.requires_grad)
        if requires_grad is not None:
            parameter.requires_grad_(requires_grad)
    return new.train(norm.training)


def _what_changed(norm: nn.Module, new: nn.Module) -> str:
    old_names, new_names = ({name for name, _ in module.named_parameters(recurse=False)} for module in (norm, new))
    parts = [f'now {type(new).__name__}']
    if old_names - new_names:
        parts.append(f'without {" and ".join(sorted(old_names - new_names, reverse=True))}')
    if new_names - old_names:
        parts.append(f'with a new {" and ".join(sorted(new_names - old_names, reverse=True))}')
    if is_norm_act(new):
        parts.append('which includes the activation: remove the one after it')
    return ', '.join(parts)


def _put(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Set the submodule ``name``; returns the model (``new`` itself for an empty name)."""
    if not name:
        return new
    parent, _, leaf = name.rpartition('.')
    setattr(model.get_submodule(parent), leaf, new)
    return model
