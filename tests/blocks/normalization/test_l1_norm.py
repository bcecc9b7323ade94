"""L1 normalisation: the formula, invariances, torch's L2 layers, and the quantized variant."""

import math

import pytest
import torch
from torch import nn

from dinor1.blocks.normalization import L1BatchNorm, L1LayerNorm
from dinor1.blocks.normalization.l1_norm import fake_quantize
from tests.blocks.normalization.conftest import relative_error

# float64, means over at most a few dozen entries; the reference states a relative tolerance of 1e-12.
EXACT = 1e-12
GAUSS = math.sqrt(math.pi / 2)


@pytest.mark.shared
@pytest.mark.parametrize(('name', 'norm'), [('l1ln', L1LayerNorm), ('l1bn', L1BatchNorm)])
def test_l1_norm_equals_reference(oracle, name, norm):
    layer = norm(8).double()
    layer.load_state_dict({'weight': oracle['l1/weight'], 'bias': oracle['l1/bias']}, strict=False)
    x = oracle['l1/x'].requires_grad_()
    y = layer(x)
    y.backward(oracle['l1/grad_out'])
    actual = dict(y=y, grad_x=x.grad, grad_weight=layer.weight.grad, grad_bias=layer.bias.grad)
    for key, value in oracle.under(f'l1/{name}').items():
        assert relative_error(actual.pop(key), value) < EXACT, key
    assert not actual


def away_from_the_kink(*shape):
    """Integers plus a quarter, so that no deviation from the mean is below 1e-3."""
    x = torch.randint(-6, 7, shape).double()
    return (x * (1 + 0.01 * torch.rand(shape, dtype=torch.float64)) + 0.25).requires_grad_()


@pytest.mark.parametrize('scale', ['none', 'gauss'])
@pytest.mark.parametrize(('norm', 'axes'), [(L1LayerNorm, (-1,)), (L1BatchNorm, (0, 1))])
def test_l1_norm_gradcheck_and_formula(norm, axes, scale):
    layer = norm(5, scale=scale).double()
    nn.init.normal_(layer.weight)
    x = away_from_the_kink(3, 4, 5)
    centred = x.detach() - x.detach().mean(axes, keepdim=True)
    assert centred.abs().min() > 1e-3
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))

    grad = torch.randn(3, 4, 5, dtype=torch.float64)
    layer(x).backward(grad)
    k = GAUSS if scale == 'gauss' else 1.0
    scaled = k * centred.abs().mean(axes, keepdim=True) + 1e-5
    q, z, sign = grad * layer.weight.detach(), centred / scaled, centred.sign()
    pull = (sign - sign.mean(axes, keepdim=True)) * (q * z).mean(axes, keepdim=True)
    expected = (q - q.mean(axes, keepdim=True) - k * pull) / scaled
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize('norm', [L1LayerNorm, L1BatchNorm])
def test_l1_norm_ignores_scale_and_shift(norm):
    layer = norm(6, eps=0.0).double()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(3 * x - 2), layer(x), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ('layer', 'theirs'), [(L1LayerNorm(4096, scale='gauss'), nn.LayerNorm(4096)), (L1BatchNorm(3, scale='gauss'), None)]
)
def test_l1_norm_gauss_scale_gives_unit_variance(layer, theirs):
    x = torch.randn(64, 300, 3) if theirs is None else torch.randn(4, 4096)
    expected = (x - x.mean((0, 1))) / x.std((0, 1)) if theirs is None else theirs(x)
    # The mean absolute deviation of n Gaussian numbers is off by 0.75 / sqrt(n): 1.2 % at 4096, 0.5 % at 19200.
    torch.testing.assert_close(layer(x), expected, rtol=0.05, atol=0.01)


def test_l1_layer_norm_gain_exceeds_layer_norm():
    """S <= std for any vector (Jensen), so that 1 / s >= 1 / std."""
    x = torch.randn(200, 7, dtype=torch.float64).exp()
    ours, theirs = L1LayerNorm(7, eps=0.0).double()(x), nn.LayerNorm(7, eps=0.0).double()(x)
    assert (ours.abs() >= theirs.abs() * (1 - 1e-12)).all()
    # Equality if all absolute deviations are equal.
    x = torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(L1LayerNorm(4, eps=0.0)(x), x, rtol=0, atol=EXACT)


def test_l1_batch_norm_running_statistics_and_evaluation():
    layer = L1BatchNorm(4, momentum=0.25, scale='gauss').double()
    x = torch.randn(3, 5, 4, dtype=torch.float64) * 2 + 1
    layer(x)
    mean = x.mean((0, 1))
    deviation = (x - mean).abs().mean((0, 1))
    torch.testing.assert_close(layer.running_mean, 0.25 * mean, rtol=0, atol=EXACT)
    torch.testing.assert_close(layer.running_mad, 0.75 + 0.25 * deviation, rtol=0, atol=EXACT)
    expected = (x - layer.running_mean) / (GAUSS * layer.running_mad + 1e-5)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=0, atol=EXACT)


def test_l1_batch_norm_ignores_padding():
    plain, padded = L1BatchNorm(4).double(), L1BatchNorm(4).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    junk = torch.cat([x, torch.full((3, 2, 4), float('nan'), dtype=torch.float64)], 1)
    y = padded(junk, torch.tensor([[False] * 5 + [True] * 2] * 3))
    torch.testing.assert_close(y[:, :5], plain(x), rtol=0, atol=EXACT)
    torch.testing.assert_close(padded.running_mad, plain.running_mad, rtol=0, atol=EXACT)


@pytest.mark.parametrize('training', [True, False])
def test_quantized_l1_batch_norm_ignores_padding(training):
    """Grids are those of the valid positions: results equal those without padding, forward and backward."""
    quant = dict(bits=4, grad_rounding='nearest')
    plain, padded = (L1BatchNorm(4, quant=quant).train(training) for _ in range(2))
    x, grad = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    mask = torch.tensor([[False] * 5 + [True] * 2] * 3)

    def numbers(layer, x, grad, *masks):
        y = layer(x.requires_grad_(), *masks)
        y.backward(grad)
        return y[:, :5].detach(), x.grad[:, :5], layer.weight.grad, layer.running_mean, layer.running_mad

    # If padding 50 times as large set the grid, all valid values would be rounded to 0.
    junk = torch.cat([x, torch.full((3, 2, 4), 50.0)], 1)
    expected = numbers(plain, x, grad)
    actual = numbers(padded, junk, torch.cat([grad, torch.zeros(3, 2, 4)], 1), mask)
    # Float32 sums in another order.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_quantized_l1_batch_norm_gradient_grid_ignores_padding():
    layer = L1BatchNorm(4, affine=False, quant=dict(bits=4, grad_rounding='nearest')).eval()
    x, grad = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(layer(x[:, :2]), x, grad[:, :2])
    grad[:, 2] = 50.0
    (actual,) = torch.autograd.grad(layer(x, torch.tensor([[False, False, True]] * 2)), x, grad)
    assert torch.equal(actual[:, :2], expected[:, :2])


def test_quantized_l1_batch_norm_batch_of_padding_is_finite():
    layer = L1BatchNorm(4, quant=dict(bits=4))
    y = layer(torch.randn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool))
    assert y.isfinite().all()
    assert y.abs().max() > 0
    assert layer.running_mean.eq(0).all()


@pytest.mark.parametrize(('norm', 'axes'), [(L1LayerNorm, (1,)), (L1BatchNorm, (0, 2, 3))])
def test_l1_norm_channels_on_axis_one(norm, axes):
    layer = norm(6, channel_dim=1).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    centred = x - x.mean(axes, keepdim=True)
    expected = centred / (centred.abs().mean(axes, keepdim=True) + 1e-5)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=EXACT)
    with pytest.raises(ValueError, match='for channels on axis 1 build it with channel_dim=1'):
        norm(6)(x)


def test_fake_quantize_is_symmetric_grid():
    x = torch.tensor([-1.0, -0.4, 0.0, 0.26, 0.9], dtype=torch.float64, requires_grad=True)
    y = fake_quantize(x, 3)  # -3 ... 3, steps of 1/3
    torch.testing.assert_close(y, torch.tensor([-3.0, -1, 0, 1, 3], dtype=torch.float64) / 3, rtol=0, atol=1e-15)
    y.sum().backward()
    assert x.grad.eq(1).all()
    assert not fake_quantize(torch.zeros(3), 8).any()


@pytest.mark.parametrize('norm', [L1LayerNorm, L1BatchNorm])
def test_quantized_l1_norm_error_falls_with_bits(norm):
    x = torch.randn(4, 16, 8)
    grad = torch.randn(4, 16, 8)

    def outputs(quant):
        layer, leaf = norm(8, quant=quant), x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(grad)
        return y.detach(), leaf.grad

    exact = outputs(None)
    errors = []
    for bits in (4, 8, 12):
        quantized = outputs(dict(bits=bits, grad_rounding='nearest'))
        errors.append([(a - b).norm() / b.norm() for a, b in zip(quantized, exact, strict=True)])
    for coarse, fine in zip(errors, errors[1:], strict=False):
        # Steps are 16 times finer with 4 more bits.
        assert all(c > 4 * f > 0 for c, f in zip(coarse, fine, strict=True))
    assert errors[1][0] < 0.02


def test_quantized_l1_norm_stochastic_gradient_is_unbiased():
    layer = L1LayerNorm(4, quant=dict(bits=4), affine=False)
    x, grad = torch.randn(1, 4), torch.tensor([[0.31, -1.0, 0.77, 0.05]])
    nearest = L1LayerNorm(4, quant=dict(bits=4, grad_rounding='nearest'), affine=False)

    def mean_gradient(layer, draws):
        leaf = x.expand(draws, 4).clone().requires_grad_()
        layer(leaf).backward(grad.expand(draws, 4))
        return leaf.grad.mean(0)

    fine = L1LayerNorm(4, quant=dict(bits=16, grad_rounding='nearest'), affine=False)
    # Put the input on the 4-bit grid first, so that the target has the same forward pass.
    x = fake_quantize(x, 4)
    target = mean_gradient(fine, 1)
    stochastic = mean_gradient(layer, 20000)
    scale = target.norm()
    # One draw has a rounding error of at most a step of 1/7; the mean over 20000 draws is below 1 % of it.
    assert (stochastic - target).norm() / scale < (mean_gradient(nearest, 1) - target).norm() / scale


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(scale='l2'), "scale must be 'none' or 'gauss', got 'l2'"),
        (dict(quant=dict(bit=8)), r"quant accepts \['act', 'bits', 'grad_rounding'\], got \['bit'\]"),
        (dict(quant=dict(bits=1)), 'bits must be a whole number from 2 to 16, got 1'),
        (dict(quant=dict(act='minmax')), "act must be 'absmax', got 'minmax'"),
        (dict(quant=dict(grad_rounding='up')), "grad_rounding must be 'stochastic' or 'nearest', got 'up'"),
    ],
)
def test_l1_norm_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        L1LayerNorm(8, **arguments)
