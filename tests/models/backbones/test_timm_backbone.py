"""TimmBackbone: levels, weights and modes as in timm and MMDetection; error messages have one line."""

import copy
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

timm = pytest.importorskip('timm', reason="needs timm: pip install 'dinor1[lite]'")

# Small models from timm's tests. Their feature networks differ in structure: a list of layers, joined names, a wrapped
# transformer, and a separate class.
LEVELS = {
    'test_resnet': (1, 2, 4),
    'test_convnext': (0, 2, 3),
    'test_vit': (2, 5),
    'test_efficientnet': (2, 3, 4),
}
SIDE = 160  # the only size that test_vit takes


def build(model_name='test_resnet', out_indices=(2, 3, 4), **kwargs):
    return MODELS.build(dict(type='TimmBackbone', model_name=model_name, out_indices=out_indices, **kwargs))


def whole_network(name):
    """The network of timm with head, and with batch-norm statistics that differ from those of a new layer."""
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def refused(said, **kwargs):
    with pytest.raises(InputError, match=said) as caught:
        build(**kwargs).init_weights()
    assert '\n' not in str(caught.value)


# Levels and weights ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('name', LEVELS)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_timm_backbone_levels_equal_the_whole_network(name, suffix, tmp_path):
    network = whole_network(name)
    path = tmp_path / f'weights{suffix}'
    if suffix == '.pth':
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    backbone = build(name, LEVELS[name], pretrained=str(path)).eval()
    images = torch.randn(2, 3, SIDE, SIDE)
    expected = network.forward_intermediates(images, indices=list(LEVELS[name]), intermediates_only=True)
    before = backbone(images)
    assert not any(torch.allclose(mine, their) for mine, their in zip(before, expected, strict=True))
    backbone.init_weights()
    for i, (mine, their) in enumerate(zip(backbone(images), expected, strict=True)):
        torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-5)
        assert mine.shape == (2, backbone.channels[i], SIDE // backbone.strides[i], SIDE // backbone.strides[i])


@torch.no_grad()
def test_timm_backbone_moves_the_last_channels_axis():
    backbone = build('swin_tiny_patch4_window7_224', (0, 1), model_args=dict(embed_dim=24, depths=(1, 1, 1, 1))).eval()
    levels = backbone(torch.randn(1, 3, 224, 224))
    assert [tuple(level.shape) for level in levels] == [(1, 24, 56, 56), (1, 48, 28, 28)]
    assert (backbone.channels, backbone.strides) == ((24, 48), (4, 8))
    assert all(level.is_contiguous() for level in levels)


@torch.no_grad()
def test_timm_backbone_vision_transformer_accepts_any_size():
    backbone = build('test_vit', (5,), model_args=dict(dynamic_img_size=True, dynamic_img_pad=True)).eval()
    assert backbone(torch.randn(1, 3, 100, 130))[0].shape == (1, 64, 7, 9)


@torch.no_grad()
def test_timm_backbone_copy_gives_equal_outputs():
    """The reference model of GRQO is a copy, and some models of timm read their levels through hooks."""
    backbone = build('hrnet_w18_small', (2, 3)).eval()
    images = torch.randn(1, 3, 64, 64)
    for mine, their in zip(copy.deepcopy(backbone)(images), backbone(images), strict=True):
        torch.testing.assert_close(mine, their, atol=0, rtol=0)


def test_init_weights_loads_from_the_hub_of_timm(tmp_path):
    network = whole_network('test_resnet')
    path = tmp_path / 'weights.pth'
    torch.save(network.state_dict(), path)
    overlay = dict(pretrained_cfg_overlay=dict(file=str(path)))
    backbone = build(pretrained=True, model_args=overlay)
    assert not torch.equal(backbone.body.conv1[0].weight, network.conv1[0].weight)
    backbone.init_weights()
    assert torch.equal(backbone.body.conv1[0].weight, network.conv1[0].weight)


def test_init_weights_loads_weights_once(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(whole_network('test_resnet').state_dict(), path)
    backbone = build(pretrained=str(path))
    backbone.init_weights()
    nn.init.zeros_(backbone.body.conv1[0].weight)
    backbone.init_weights()
    assert not backbone.body.conv1[0].weight.any()


def test_init_weights_follows_init_cfg():
    backbone = build(init_cfg=dict(type='Constant', layer='Conv2d', val=0.25))
    backbone.init_weights()
    assert {module.weight.unique().item() for module in backbone.modules() if isinstance(module, nn.Conv2d)} == {0.25}


def test_drop_path_rate_grows_to_the_last_block():
    rates = [m.drop_prob for m in build('test_vit', (5,), drop_path_rate=0.3).modules() if hasattr(m, 'drop_prob')]
    assert max(rates) == pytest.approx(0.3)
    assert not [m for m in build('test_vit', (5,)).modules() if getattr(m, 'drop_prob', 0)]


# Frozen layers ---------------------------------------------------------------------------------------------


def trained(backbone):
    """Names of the parameters, and of the batch-norm statistics, that one training iteration changes."""
    before = copy.deepcopy(backbone.state_dict())
    backbone.train()
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(level.square().mean() for level in backbone(torch.randn(2, 3, SIDE, SIDE))).backward()
    optimizer.step()
    changed = {k.removeprefix('body.') for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    statistics = {name for name in changed if 'running' in name or 'num_batches' in name}
    return changed - statistics, statistics


def layers(names):
    return {name.split('.')[0] for name in names}


@pytest.mark.parametrize(
    ('frozen_stages', 'expected'),
    [
        (-1, {'conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4'}),
        (0, {'layer1', 'layer2', 'layer3', 'layer4'}),
        (2, {'layer3', 'layer4'}),
        ('layer3', {'layer4'}),
    ],
)
def test_frozen_stages_of_a_resnet_are_those_of_mmdetection(frozen_stages, expected):
    """As in MMDetection's ResNet: 0 is the stem, 1 the stem and the first stage."""
    parameters, statistics = trained(build(frozen_stages=frozen_stages, norm_eval=False))
    assert layers(parameters) == expected
    assert layers(statistics) == expected
    parameters, statistics = trained(build(frozen_stages=frozen_stages, norm_eval=True))
    assert layers(parameters) == expected
    assert statistics == set()


def test_frozen_stages_accepts_a_block_inside_a_stage():
    backbone = build('tf_efficientnet_lite0', frozen_stages='blocks.4.0')
    free = {name for name, parameter in backbone.body.named_parameters() if parameter.requires_grad}
    assert {'.'.join(name.split('.')[:3]) for name in free} == {
        'blocks.4.1', 'blocks.4.2', *(f'blocks.5.{i}' for i in range(4)), 'blocks.6.0',
    }  # fmt: skip
    backbone.train()
    blocks = backbone.body.blocks
    assert [module.training for module in (blocks[3], blocks[4][0], blocks[4][1], blocks[5])] == [False] * 2 + [
        True
    ] * 2
    assert not any(module.training for module in blocks[4][0].modules())
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))


def test_frozen_stages_of_a_vision_transformer_are_its_blocks():
    parameters, _ = trained(build('test_vit', (5,), frozen_stages=3))
    assert {name.split('.')[2] for name in parameters} == {'4', '5'}
    # Class token and position embedding are parameters of the network itself, and come before the first block.
    assert all(name.startswith('model.blocks.') for name in parameters)


def test_timm_backbone_eval_sets_all_modules():
    assert not any(module.training for module in build(norm_eval=False).eval().modules())


# In a detector ---------------------------------------------------------------------------------------------


@pytest.fixture
def detector(build_tiny):
    def make(neck=(48, 192, 96), **backbone):
        return build_tiny(
            **{
                'model.backbone': dict(
                    _delete_=True,
                    type='TimmBackbone',
                    model_name='test_resnet',
                    out_indices=(2, 3, 4),
                    **backbone,
                ),
                'model.neck.in_channels': list(neck),
            }
        )

    return make


def test_timm_backbone_trains_in_the_detector(detector, make_batch):
    model = detector(frozen_stages=1)
    model.train()
    inputs, samples = make_batch((2, 1))
    sum(v for k, v in model.loss(inputs, samples).items() if 'loss' in k).backward()
    with_gradient = {name for name, p in model.backbone.body.named_parameters() if p.grad is not None}
    assert layers(with_gradient) == {'layer2', 'layer3', 'layer4'}


def test_detector_rejects_a_neck_of_other_channels(detector, build_tiny):
    with pytest.raises(InputError, match=r'in_channels=\[48, 96\] .* its levels have \[48, 192, 96\] channels'):
        detector(neck=(48, 96))
    transformer = dict(model_name='test_vit', out_indices=(2, 5))
    neck = dict(_delete_=True, type='SimpleFeaturePyramid', in_channels=32)
    with pytest.raises(InputError, match='in_channels=32 .* its last level has 64 channels'):
        build_tiny(**{'model.backbone': dict(_delete_=True, type='TimmBackbone', **transformer), 'model.neck': neck})


def test_detector_trains_vision_transformer_with_simple_feature_pyramid(build_tiny, make_batch):
    model = build_tiny(
        **{
            'model.backbone': dict(
                _delete_=True,
                type='TimmBackbone',
                model_name='test_vit',
                out_indices=(5,),
                model_args=dict(dynamic_img_size=True, dynamic_img_pad=True),
            ),
            'model.neck': dict(_delete_=True, type='SimpleFeaturePyramid', in_channels=64),
        }
    )
    inputs, samples = make_batch((2, 1))
    sum(v for k, v in model.loss(inputs, samples).items() if 'loss' in k).backward()
    assert model.backbone.body.model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


# Bad input -------------------------------------------------------------------------------------------------


def test_timm_backbone_without_timm_is_rejected(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    refused(r"not installed; run pip install 'dinor1\[lite\]'")


@pytest.mark.parametrize(
    ('kwargs', 'said'),
    [
        (dict(model_name='test_resnett'), "did you mean 'test_resnet'"),
        (dict(out_indices=(2, 3, 5)), r'out_indices=\(2, 3, 5\), it has 5 levels, of index 0 to 4'),
        (dict(model_name='test_vit', out_indices=(6,)), 'it has 6 levels, of index 0 to 5'),
        (dict(out_indices=()), r'increasing order.* got \(\)'),
        (dict(out_indices=(3, 2)), 'increasing order'),
        (dict(out_indices=(-1,)), 'increasing order'),
        (dict(frozen_stages=5), 'index of one of its 5 levels, got 5'),
        (dict(frozen_stages=-2), 'got -2'),
        (dict(frozen_stages='layer5'), "frozen_stages='layer5' is not .* did you mean 'layer"),
        (dict(out_indices=(1, 2), frozen_stages=4), 'the network that out_indices selects'),
        (dict(drop_path_rate=1.0), r'\[0, 1\), got 1.0'),
        (dict(model_args=dict(depth=3)), 'unexpected keyword.*check model_args'),
        (dict(pretrained=True, init_cfg=dict(type='Kaiming', layer='Conv2d')), 'exclude each other'),
        (dict(pretrained='package'), 'no package has weights of it, only of tf_efficientnet_lite0'),
        (dict(pretrained='missing.pth'), 'missing.pth: no such checkpoint'),
        (dict(pretrained='missing.safetensors'), 'missing.safetensors: no such checkpoint'),
        (
            dict(pretrained=True, model_args=dict(pretrained_cfg_overlay=dict(file='missing.pth'))),
            'cannot fetch its weights.*set pretrained to a file',
        ),
    ],
)
def test_timm_backbone_rejects_invalid_arguments(kwargs, said):
    refused(said, **kwargs)


def test_init_weights_rejects_files_that_do_not_fit(tmp_path):
    path = tmp_path / 'weights.pth'
    weights = whole_network('test_resnet').state_dict()
    torch.save(whole_network('test_convnext').state_dict(), path)
    refused(r'weights.pth: weights of another network .*(\d+) of \1 tensors are missing', pretrained=str(path))
    torch.save({name: value for name, value in weights.items() if name != 'layer2.0.conv1.weight'}, path)
    refused(r'\(1 of \d+ tensors are missing, such as layer2.0.conv1.weight', pretrained=str(path))
    torch.save(weights | {'layer2.0.conv1.weight': torch.zeros(3, 2)}, path)
    refused(r'such as layer2.0.conv1.weight \(3, 2\) instead of \(48, 32, 3, 3\)', pretrained=str(path))
    for damaged in (path, tmp_path / 'weights.safetensors'):
        damaged.write_bytes(b'not weights')
        refused('damaged', pretrained=str(damaged))
