"""Normalisation, activation and pooling: definitions and equivariance."""

import pytest
import torch

from dinor1.blocks.lie import SL2, GLp2, GroupBatchNorm, GroupLayerNorm, GroupPool, SpatialMaxPool


@pytest.fixture
def x():
    return torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)


def test_group_layer_norm_is_joint_over_all_but_batch(x):
    mean, variance = x.mean((1, 2, 3, 4), keepdim=True), x.var((1, 2, 3, 4), correction=0, keepdim=True)
    torch.testing.assert_close(GroupLayerNorm()(x), (x - mean) / (variance + 1e-5).sqrt())


def test_group_batch_norm_has_one_statistic_per_channel(x):
    norm = GroupBatchNorm(3).double()
    mean, variance = x.mean((0, 2, 3, 4), keepdim=True), x.var((0, 2, 3, 4), correction=0, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())


def test_pools_equal_reductions(x):
    expected = x.view(2, 3, 4, 3, 2, 3, 2).amax((4, 6))
    assert torch.equal(SpatialMaxPool(2)(x), expected)
    assert torch.equal(GroupPool('max', 'all')(x), x.amax((2, 3, 4)))
    assert torch.equal(GroupPool('max', 'group')(x), x.amax(2))
    torch.testing.assert_close(GroupPool('mean', 'group')(x), x.mean(2))
    torch.testing.assert_close(GroupPool('mean', 'all')(x), x.mean((2, 3, 4)))
    expected = torch.stack([x[:, :, n].amax((2, 3)) for n in range(4)]).mean(0)
    torch.testing.assert_close(GroupPool('max_mean', 'all')(x), expected)


@pytest.mark.parametrize(
    'layer', [GroupLayerNorm(), GroupBatchNorm(3), SpatialMaxPool(), GroupPool('max', 'group'), GroupPool('max', 'all')]
)
def test_norms_and_pools_are_equivariant_if_area_is_preserved(layer):
    errors = layer.check_equivariance(group=SL2())
    assert errors['rotation 90'] < 1e-5
    # Pooling windows of two pixels do not turn: 3 to 4 % for sigma 3 pixels. The others only have interpolation errors.
    assert max(errors.values()) < (0.06 if isinstance(layer, SpatialMaxPool) else 0.02)


def test_norms_and_pools_under_changes_of_area():
    """Means over a fixed frame are multiplied by the determinant; single values, maxima, fixed statistics are not."""
    errors = {
        name: layer.check_equivariance(group=GLp2())['scale 1.2']
        for name, layer in {
            'layer norm': GroupLayerNorm(),
            'batch norm': GroupBatchNorm(3),
            'max': GroupPool('max', 'all'),
            'mean': GroupPool('mean', 'all'),
            'max_mean': GroupPool('max_mean', 'all'),
        }.items()
    }
    assert errors['batch norm'] < 1e-3
    assert max(errors['max'], errors['max_mean']) < 0.03
    assert errors['layer norm'] > 0.1
    # The mean is multiplied by 1.44, except for parts that leave the frame.
    assert errors['mean'] == pytest.approx(0.44, abs=0.06)


def test_norms_and_pools_bad_input_raises(x):
    with pytest.raises(
        ValueError, match=r'GroupLayerNorm takes a map on the group, \(B, C, N, H, W\), got shape \(3, 4'
    ):
        GroupLayerNorm()(x[0])
    with pytest.raises(ValueError, match='GroupBatchNorm takes a map on the group'):
        GroupBatchNorm(3)(x[:, :, 0])
    with pytest.raises(ValueError, match='with H and W at least 2'):
        SpatialMaxPool()(x[..., :1])
    with pytest.raises(ValueError, match='GroupPool takes a map on the group'):
        GroupPool()(x[0])
    with pytest.raises(ValueError, match="reduce must be 'max', 'mean' or 'max_mean'"):
        GroupPool('sum')
    with pytest.raises(ValueError, match="reduce='max_mean' needs dims='all'"):
        GroupPool('max_mean', 'group')
    with pytest.raises(ValueError, match='kernel_size must be at least 1'):
        SpatialMaxPool(0)
    with pytest.raises(ValueError, match=r'has no group of its own; give one: check_equivariance\(group=...\)'):
        GroupLayerNorm().check_equivariance()
