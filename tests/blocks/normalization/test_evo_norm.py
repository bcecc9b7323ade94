"""EvoNorm compared with timm's numbers and the formulas; it normalises images only."""

import pytest
import torch
from torch import nn

from dinor1.blocks.normalization import (
    EvoNormB0,
    EvoNormB1,
    EvoNormB2,
    EvoNormS0,
    EvoNormS1,
    EvoNormS2,
    RMSNorm,
    is_norm_act,
)
from tests.blocks.normalization.conftest import run_oracle_steps

BATCH = (EvoNormB0, EvoNormB1, EvoNormB2)
SAMPLE = (EvoNormS0, EvoNormS1, EvoNormS2)
CASES = {
    'evo_b0': EvoNormB0,
    'evo_b1': EvoNormB1,
    'evo_b2': EvoNormB2,
    'evo_s0': EvoNormS0,
    'evo_s1': EvoNormS1,
    'evo_s2': EvoNormS2,
    'evo_s0_noact': EvoNormS0,
    'evo_b0_noact': EvoNormB0,
}


def build(norm, width=8, **arguments):
    """Build a norm with random parameters in float64."""
    layer = norm(width, **({'groups': 4} if norm in SAMPLE else {}), **arguments).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=1.0, std=0.3)
    return layer


@pytest.mark.shared
@pytest.mark.parametrize('case', CASES)
def test_evo_norm_equals_reference(oracle, case):
    cfg = oracle.cfg(case)
    names = ('eps', 'apply_act', 'groups' if CASES[case] in SAMPLE else 'momentum')
    layer = CASES[case](cfg['C'], **{name: cfg[name] for name in names})
    # The reference was computed in float32 and states this tolerance.
    assert run_oracle_steps(layer, oracle, case, 2e-6) >= 5


@pytest.mark.parametrize('norm', BATCH + SAMPLE)
def test_evo_norm_gradcheck(norm):
    layer = build(norm, width=4)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        layer.train(training)
        # In training every call updates the running variance, but nothing reads it.
        assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def definition(norm, layer, x):
    """The formulas of the paper's table, with other operators."""

    def deviation(t, axes):
        return ((t**2).mean(axes, keepdim=True) - t.mean(axes, keepdim=True) ** 2 + layer.eps) ** 0.5

    def root(t, axes):
        return ((t**2).mean(axes, keepdim=True) + layer.eps) ** 0.5

    images = (2, 3)
    grouped = x.reshape(x.shape[0], 4, x.shape[1] // 4, *x.shape[2:])
    over_group = {
        EvoNormS0: lambda: x / (1 + torch.exp(-layer.v.view(1, -1, 1, 1) * x)),
        EvoNormS1: lambda: x / (1 + torch.exp(-x)),
        EvoNormS2: lambda: x / (1 + torch.exp(-x)),
    }
    terms = {
        EvoNormB0: lambda: layer.v.view(1, -1, 1, 1) * x + deviation(x, images),
        EvoNormB1: lambda: (x + 1) * root(x, images),
        EvoNormB2: lambda: root(x, images) - x,
    }
    # Batch variants divide by a maximum, sample variants by the group's deviation.
    if norm in terms:
        y = x / torch.max(deviation(x, (0, 2, 3)), terms[norm]())
    else:
        scale = (root if norm is EvoNormS2 else deviation)(grouped, (2, 3, 4))
        y = over_group[norm]() / scale.expand_as(grouped).reshape(x.shape)
    return y * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize('norm', BATCH + SAMPLE)
def test_evo_norm_equals_definition(norm):
    layer = build(norm)
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64) * 2 + 0.5
    # E[x^2] - E[x]^2 loses a few of float64's 16 digits.
    torch.testing.assert_close(layer(x), definition(norm, layer, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize('unbiased', [True, False])
def test_evo_norm_running_variance(unbiased):
    layer = EvoNormB0(4, momentum=0.25, unbiased=unbiased).double()
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    layer(x)
    expected = 0.75 + 0.25 * x.transpose(0, 1).flatten(1).var(1, correction=int(unbiased))
    torch.testing.assert_close(layer.running_var, expected, rtol=0, atol=1e-12)
    layer.eval()(x)
    torch.testing.assert_close(layer.running_var, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('norm', BATCH + SAMPLE)
def test_evo_norm_without_activation_is_affine(norm):
    layer = build(norm, apply_act=False)
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    expected = x * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    assert getattr(layer, 'v', None) is None
    assert set(layer.state_dict()) - {'running_var'} == {'weight', 'bias'}
    assert not is_norm_act(layer)


def test_is_norm_act():
    assert all(is_norm_act(norm(8)) for norm in BATCH + SAMPLE)
    assert not any(is_norm_act(layer) for layer in (RMSNorm(8), nn.BatchNorm2d(8), nn.ReLU()))


@pytest.mark.parametrize('norm', BATCH + SAMPLE)
def test_evo_norm_zero_init_silences_residual_branch(norm):
    assert not norm(8, zero_init=True)(torch.randn(2, 8, 3, 3)).any()


@pytest.mark.parametrize('norm', SAMPLE)
@pytest.mark.parametrize(
    ('width', 'arguments', 'groups'),
    [
        (64, {}, 32),
        (8, {}, 8),
        (48, {}, 24),
        (12, dict(groups=5), 4),
        (12, dict(group_size=6), 2),
        (7, dict(groups=3), 1),
    ],
)
def test_evo_norm_number_of_groups(norm, width, arguments, groups):
    assert norm(width, **arguments).groups == groups


def test_evo_norm_bad_groups_raise():
    with pytest.raises(ValueError, match='EvoNormS0: group_size 5 does not divide 12 channels'):
        EvoNormS0(12, group_size=5)
    with pytest.raises(ValueError, match='groups must be at least 1, got 0'):
        EvoNormS1(12, groups=0)


@pytest.mark.parametrize('norm', BATCH + SAMPLE)
def test_evo_norm_tokens_raise(norm):
    with pytest.raises(ValueError, match=r'images \(B, C, H, W\), got shape \(2, 10, 8\): tokens have no H and W'):
        norm(8)(torch.randn(2, 10, 8))
    with pytest.raises(ValueError, match=r'normalises 8 channels on axis 1, got shape \(2, 4, 4, 8\)'):
        norm(8)(torch.randn(2, 4, 4, 8))


@pytest.mark.parametrize('norm', BATCH + SAMPLE)
def test_evo_norm_one_pixel_is_finite(norm):
    layer = norm(8)
    x = torch.randn(1, 8, 1, 1, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
