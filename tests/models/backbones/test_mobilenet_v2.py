"""MobileNetV2: MMDetection's network with renamed weights equals torchvision's network."""

import pytest
import torch
import torchvision
from mmdet.models.backbones import MobileNetV2
from torch import nn

from dinor1.models.backbones.mobilenet_v2 import to_mmdet_names
from dinor1.utils.errors import InputError


@pytest.fixture
def network():
    network = torchvision.models.mobilenet_v2()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@torch.no_grad()
def test_mobilenet_v2_equals_torchvision(network):
    ours = MobileNetV2(out_indices=(0, 1, 2, 4, 7))
    ours.eval()
    ours.load_state_dict(to_mmdet_names(network.state_dict()))
    images = torch.randn(2, 3, 96, 70)
    expected, x = [], images
    for i, layer in enumerate(network.features):
        x = layer(x)
        if i in (1, 3, 6, 13, 18):
            expected.append(x)
    for mine, their in zip(ours(images), expected, strict=True):
        torch.testing.assert_close(mine, their, atol=1e-6, rtol=1e-6)


def test_to_mmdet_names_uses_the_order_of_tensors(network):
    """Releases of torchvision name the layers inside a block differently."""
    weights = network.features.state_dict()
    others = {f'features.{i}.{name.rsplit(".", 1)[-1]}': value for i, (name, value) in enumerate(weights.items())}
    renamed = to_mmdet_names(others)
    assert all(torch.equal(renamed[name], value) for name, value in to_mmdet_names(network.state_dict()).items())


def test_to_mmdet_names_rejects_other_weights(network):
    weights = network.state_dict()
    with pytest.raises(InputError, match='0 tensors besides the classifier, but MobileNetV2 has 312'):
        to_mmdet_names({})
    with pytest.raises(InputError, match='311 tensors'):
        to_mmdet_names({name: value for name, value in weights.items() if name != 'features.0.0.weight'})
    with pytest.raises(InputError, match=r'0.0.weight has shape \(1, 2\), but MobileNetV2 expects conv1.conv.weight'):
        to_mmdet_names(weights | {'features.0.0.weight': torch.zeros(1, 2)})
    narrow = torchvision.models.mobilenet_v2(width_mult=0.5).state_dict()
    with pytest.raises(InputError, match='of width 1.0'):
        to_mmdet_names(narrow)
