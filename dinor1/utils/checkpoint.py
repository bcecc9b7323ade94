"""Load weights, and check that they fit the model."""

import copy
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from torch import nn

from dinor1.registry import MODELS
from dinor1.utils.distributed import unwrapped, whole_parameters
from dinor1.utils.errors import InputError
from dinor1.utils.model_converters import convert_model
from dinor1.utils.released_weights import LANGUAGE_MODEL


def check_checkpoint(model: nn.Module, path: str, partial: bool = False, resume: bool = False) -> None:
    """Check that the parameters of a checkpoint fit a model.

    Args:
        model: The model that will load the checkpoint, with or without a wrapper for distributed training. If FSDP has
            sharded the model, all processes must call this function.
        path: Checkpoint of MMEngine.
        partial: Whether to accept missing and additional parameters if some fit, as for the initial weights of a
            training.
        resume: Whether a run will resume from the checkpoint, which needs more than weights.

    Raises:
        InputError: the file is missing or not a checkpoint, its weights belong to another architecture or contain NaN,
            or it has only weights while a run is to be resumed.
    """
    # Read the file.
    checkpoint = _load(path)
    state_dict = _state_dict(checkpoint, path)
    if resume:
        _check_resumable(checkpoint, path)
    # Convert weights of an earlier format, and compare with the model.
    upgraded = _upgrade(unwrapped(model), state_dict)
    if upgraded and resume:
        raise InputError(
            f'{path}: has an earlier format, from which no run can be resumed; to start from its weights, give '
            '--cfg-options load_from=PATH instead of --resume'
        )
    with whole_parameters(model):
        _compare(unwrapped(model), state_dict, path, partial)


def load_model(cfg: Config, path: str, device: str | torch.device = 'cpu', surplus: tuple[str, ...] = ()) -> nn.Module:
    """Build ``cfg.model``, convert it as ``cfg.model_converters`` says, and load the weights of ``path``.

    Args:
        cfg: Config.
        path: Checkpoint of MMEngine, safetensors file, or address of released weights. A language model may be missing
            as a whole: it brings its own weights.
        device: Device of the model.
        surplus: Prefixes of weights that the model may lack; these weights are not read.

    Returns:
        The model in evaluation mode on ``device``.

    Raises:
        InputError: see :func:`check_checkpoint` and :func:`~dinor1.utils.model_converters.convert_model`.
    """
    # Build and convert the model. The config is copied because building a model modifies it.
    model = MODELS.build(copy.deepcopy(cfg.model))
    model, _ = convert_model(model, cfg.get('model_converters'))
    # Load the weights.
    state_dict = {k: v for k, v in read_state_dict(path).items() if not k.startswith(surplus)}
    _upgrade(model, state_dict)
    _compare(model, state_dict, path)
    own = {k: v for k, v in model.state_dict().items() if k.startswith(LANGUAGE_MODEL) and k not in state_dict}
    model.load_state_dict(state_dict | own)
    return model.to(device).eval()


def load_weights(model: nn.Module, path: str, missing: tuple[str, ...] = (), surplus: tuple[str, ...] = ()) -> None:
    """Load the weights of ``path`` into an existing model.

    Args:
        model: The model, without a wrapper for distributed training.
        path: Checkpoint of MMEngine.
        missing: Prefixes of weights that the checkpoint may lack; these weights keep their values.
        surplus: Prefixes of weights that the model may lack; these weights are not read.

    Raises:
        InputError: see :func:`check_checkpoint`.
    """
    state_dict = {k: v for k, v in read_state_dict(path).items() if not k.startswith(surplus)}
    _upgrade(model, state_dict)
    kept = {k: v for k, v in model.state_dict().items() if k.startswith(missing) and k not in state_dict}
    _compare(model, state_dict | kept, path)
    model.load_state_dict(state_dict | kept)


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint file, on the CPU, with the names of the model without a distributed wrapper.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint.
    """
    return _state_dict(_load(path), path)


def _upgrade(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> bool:
    """Convert weights of an earlier format in place, if the model can; returns whether anything was converted."""
    upgrade = getattr(model, 'upgrade_state_dict', None)
    return upgrade is not None and upgrade(state_dict)


def _compare(model: nn.Module, state_dict: dict[str, torch.Tensor], path: str, partial: bool = False) -> None:
    """Compare names, shapes and values of weights with a model.

    Raises:
        InputError: the weights do not fit, or contain NaN.
    """
    # Sort the weights.
    own = model.state_dict()
    fitting = [k for k, v in state_dict.items() if k in own and v.shape == own[k].shape]
    differing = [k for k, v in state_dict.items() if k in own and v.shape != own[k].shape]
    other_kind = [k for k in fitting if _kind(state_dict[k]) != _kind(own[k])]
    missing = [k for k in own if k not in state_dict]
    if not any(k.startswith(LANGUAGE_MODEL) for k in state_dict):
        missing = [k for k in missing if not k.startswith(LANGUAGE_MODEL)]  # released without: it has its own weights
    surplus = [k for k in state_dict if k not in own]
    # Check only parameters for NaN: a buffer may contain NaN on purpose.
    spoilt = [k for k, _ in model.named_parameters() if k in fitting and state_dict[k].isnan().any()]
    if spoilt:
        raise InputError(
            f'{path}: {len(spoilt)} of its weights hold NaN, such as {spoilt[0]}, because the training diverged; '
            'give an earlier checkpoint, or train with a lower learning rate'
        )
    # Check the kind of numbers.
    if other_kind:
        key = other_kind[0]
        raise InputError(
            f'{path}: {len(other_kind)} of its weights have another type, such as {key}, '
            f'{state_dict[key].dtype} instead of {own[key].dtype}; give the config that it was trained with'
        )
    # Check names and shapes.
    if partial and fitting:
        return
    if differing or missing or surplus:
        details = []
        if differing:
            key = differing[0]
            shapes = f'{tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}'
            details.append(f'{len(differing)} of another shape, such as {key} {shapes}')
        if missing:
            details.append(f'{len(missing)} missing, such as {missing[0]}')
        if surplus:
            details.append(f'{len(surplus)} unknown, such as {surplus[0]}')
        raise InputError(
            f'{path}: a checkpoint of another architecture ({"; ".join(details)}); '
            'give the config that it was trained with'
        )


def _kind(tensor: torch.Tensor) -> tuple[bool, bool]:
    """Whether a tensor has floating-point or complex numbers; their precision may differ."""
    return tensor.is_floating_point(), tensor.is_complex()


def _check_resumable(checkpoint: dict[str, Any], path: str) -> None:
    """Check that a checkpoint contains what MMEngine needs to resume a run.

    Raises:
        InputError: something is missing.
    """
    meta = checkpoint.get('meta')
    missing = [key for key in ('meta', 'message_hub') if not checkpoint.get(key)]
    missing += [f'meta.{key}' for key in ('epoch', 'iter') if isinstance(meta, dict) and meta and key not in meta]
    if missing:
        raise InputError(
            f'{path}: has no {", ".join(missing)}, so no run can be resumed from it; '
            'to start from its weights, give --cfg-options load_from=PATH instead of --resume'
        )


def _load(path: str) -> Any:
    """Load a checkpoint on the CPU.

    Raises:
        InputError: the file is missing, damaged or not a checkpoint, or holds objects that could run code.
    """
    if not Path(path).is_file() and '://' not in str(path):
        raise InputError(f'{path}: no such checkpoint')
    try:
        return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
    except InputError:
        raise
    except (URLError, ConnectionError) as error:
        reason = ' '.join(str(getattr(error, 'reason', error)).split())
        raise InputError(
            f'{path}: cannot be fetched ({reason}); download it on another machine and give the path of the file '
            'instead, such as --cfg-options load_from=FILE'
        ) from error
    except Exception as error:
        # Catch everything: unpickling damaged bytes can raise almost any exception.
        what = 'or a damaged one, or one with Python objects, which are not loaded'
        raise InputError(
            f'{path}: not a checkpoint, {what} ({type(error).__name__}); train or download it again'
        ) from error


def _state_dict(checkpoint: Any, path: str) -> dict[str, torch.Tensor]:
    """Return the weights of a loaded checkpoint, with names without the prefix of DDP.

    Raises:
        InputError: the checkpoint has no weights.
    """
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state_dict.items()
    ):
        raise InputError(f'{path}: not a checkpoint with a state_dict')
    return {k.removeprefix('module.'): v for k, v in state_dict.items()}
