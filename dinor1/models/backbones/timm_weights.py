"""Pretrained weights of timm's models: from timm's hub, from a file, or from an installed package."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dinor1.utils.checkpoint import read_state_dict
from dinor1.utils.errors import InputError
from dinor1.utils.packaged_files import check_sha256

from . import efficientnet_lite


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a model of timm from a file, on the CPU.

    Args:
        path: A safetensors file, or a file or URL with weights of torch. Names are timm's or those of an original
            EfficientNet-Lite, which are renamed. A file with the original name of an EfficientNet-Lite must have the
            checksum in its name.

    Raises:
        InputError: the file is missing, damaged or without weights, or its checksum is not the one in its name.
    """
    # Read the file, after a comparison of its checksum.
    if efficientnet_lite.is_packaged_name(path) and Path(path).is_file():
        check_sha256(path)
    is_safetensors = Path(path).suffix == '.safetensors'
    state_dict = _read_safetensors(Path(path)) if is_safetensors else read_state_dict(str(path))
    # Rename the weights of an original EfficientNet-Lite.
    if efficientnet_lite.is_original(state_dict):
        try:
            return efficientnet_lite.to_timm_names(state_dict)
        except InputError as error:
            raise InputError(f'{path}: {error}') from None
    return state_dict


def fit_to_features(
    state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    """Select the weights of a network without head from those of the whole network.

    Args:
        state_dict: Weights with the names of timm's whole network, or those of the network without head.
        own: Weights of the network built by ``timm.create_model(..., features_only=True)``.
        source: Origin of the weights, for error messages.

    Returns:
        A tensor for every name of ``own``.

    Raises:
        InputError: a tensor is missing, or has another shape. Further tensors, such as those of a head, are ignored.
    """
    # Find the name of each tensor: timm wraps the network as `model` or `body`, or joins the first two parts of a name.
    fitting = {}
    for name, value in state_dict.items():
        candidates = (name, f'model.{name}', f'body.{name}', name.replace('.', '_', 1))
        if own_name := next((candidate for candidate in candidates if candidate in own), None):
            fitting[own_name] = value
    # Report tensors that are missing or have another shape.
    missing = [name for name in own if name not in fitting]
    differing = [name for name, value in fitting.items() if value.shape != own[name].shape]
    details = []
    if missing:
        details.append(f'{len(missing)} of {len(own)} tensors are missing, such as {missing[0]}')
    if differing:
        name = differing[0]
        shapes = f'{tuple(fitting[name].shape)} instead of {tuple(own[name].shape)}'
        details.append(f'{len(differing)} have another shape, such as {name} {shapes}')
    if details:
        raise InputError(
            f'{source}: weights of another network ({"; ".join(details)}); give weights of the model in model_name '
            'of the backbone, with the names of timm'
        )
    return fitting


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f'{path}: no such checkpoint')
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f'{path}: not a safetensors file, or a damaged one; download it again') from error
