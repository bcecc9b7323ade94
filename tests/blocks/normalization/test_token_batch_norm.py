"""Batch norm over tokens."""

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from dinor1.blocks.normalization import TokenBatchNorm


@pytest.mark.parametrize('shape', [(6, 8), (3, 5, 8), (2, 3, 4, 8)])
def test_token_batch_norm_equals_torch_with_moved_channels(shape):
    ours, theirs = TokenBatchNorm(8), nn.BatchNorm1d(8)
    x = torch.randn(shape) * 2 + 1
    for _ in range(2):
        expected = theirs(x.reshape(-1, 8)).view(shape)
        assert torch.equal(ours(x), expected)
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(x), theirs.eval()(x.reshape(-1, 8)).view(shape))


def test_token_batch_norm_builds_by_name_and_wrong_width_raises():
    name, layer = build_norm_layer(dict(type='TokenBN'), 8, postfix=1)
    assert name == 'tbn1'
    assert isinstance(layer, TokenBatchNorm)
    assert layer(torch.randn(0, 5, 8)).shape == (0, 5, 8)
    with pytest.raises(ValueError, match='normalises 8 channels'):
        layer(torch.randn(2, 5, 4))
