#!/usr/bin/env python
"""Convert the weights of an original EfficientNet-Lite to the names of timm's tf_efficientnet_lite*.

TimmBackbone does the same when it loads such a file or a package; this tool is for other uses of the weights.

Examples:
    python tools/model_converters/efficientnet_lite.py efficientnet-lite0-57934424.pth tf_efficientnet_lite0.pth
"""

from dinor1.cli.exit_status import run_command
from dinor1.cli.weights import convert_weights


def convert(path: str) -> dict:
    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.models.backbones.efficientnet_lite import is_original
    from dinor1.models.backbones.timm_weights import read_weights
    from dinor1.utils.checkpoint import read_state_dict
    from dinor1.utils.errors import InputError

    if not is_original(read_state_dict(path)):
        raise InputError(f'{path}: not the weights of an original EfficientNet-Lite; give efficientnet-lite*.pth')
    return read_weights(path)


def main() -> None:
    convert_weights(__doc__, convert)


if __name__ == '__main__':
    run_command(main)
