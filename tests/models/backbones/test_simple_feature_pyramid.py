"""SimpleFeaturePyramid: each level equals the operations of the paper, applied one by one."""

import pytest
import torch
import torch.nn.functional as F

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError


def build(**kwargs):
    return MODELS.build(dict(type='SimpleFeaturePyramid', **(dict(in_channels=16, out_channels=8) | kwargs)))


def layer_norm(x, weights, name):
    """Normalisation over channels, by its formula."""
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return x * weights[f'{name}.weight'][:, None, None] + weights[f'{name}.bias'][:, None, None]


def enlarged(x, weights, name):
    return F.conv_transpose2d(x, weights[f'{name}.weight'], weights[f'{name}.bias'], stride=2)


def level(x, scale, weights, name):
    """Compute a level; ``first`` is the index of its 1 x 1 convolution."""
    if scale == 4:
        x = F.gelu(layer_norm(enlarged(x, weights, f'{name}.0'), weights, f'{name}.1'))
        x, first = enlarged(x, weights, f'{name}.3'), 4
    elif scale == 2:
        x, first = enlarged(x, weights, f'{name}.0'), 1
    elif scale == 1:
        first = 0
    else:
        x, first = F.max_pool2d(x, 2), 1
    x = layer_norm(F.conv2d(x, weights[f'{name}.{first}.weight']), weights, f'{name}.{first + 1}')
    return layer_norm(F.conv2d(x, weights[f'{name}.{first + 2}.weight'], padding=1), weights, f'{name}.{first + 3}')


@torch.no_grad()
def test_simple_feature_pyramid_equals_the_formulas():
    scales = (4, 2, 1, 0.5)
    neck = build(scales=scales, num_outs=5)
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    weights = neck.state_dict()
    features = torch.randn(2, 16, 6, 10)
    outs = neck([torch.full((1,), torch.nan), features])  # only the last level is used
    for i, scale in enumerate(scales):
        torch.testing.assert_close(outs[i], level(features, scale, weights, f'levels.{i}'), atol=1e-5, rtol=1e-5)
    assert torch.equal(outs[4], outs[3][:, :, ::2, ::2])


@pytest.mark.parametrize(('scales', 'num_outs'), [((2.0, 1.0, 0.5), 3), ((2.0, 1.0, 0.5), 4), ((1.0,), 1)])
def test_simple_feature_pyramid_has_the_expected_sizes(scales, num_outs):
    outs = build(scales=scales, num_outs=num_outs)([torch.randn(1, 16, 9, 12)])
    sizes = [(18, 24), (9, 12), (4, 6), (2, 3)] if len(scales) > 1 else [(9, 12)]
    assert [tuple(out.shape[1:]) for out in outs] == [(8, *size) for size in sizes[:num_outs]]


@pytest.mark.parametrize(
    ('kwargs', 'said'),
    [
        (dict(scales=()), r'scales must be some of .* got \(\)'),
        (dict(scales=(1.0, 2.0)), 'in this order'),
        (dict(scales=(3.0,)), 'scales must be some of'),
        (dict(num_outs=2), 'num_outs=2 is less than the 3 scales'),
    ],
)
def test_simple_feature_pyramid_rejects_invalid_arguments(kwargs, said):
    with pytest.raises(InputError, match=said):
        build(**kwargs)
