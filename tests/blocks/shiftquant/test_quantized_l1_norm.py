"""L1 norms in integers: the formula in float64 on the codes, gradients, running statistics, loading."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dinor1.blocks.normalization import l1_norm
from dinor1.blocks.shiftquant import IntegerRecipe, L1BatchNorm1d, L1BatchNorm2d, L1LayerNorm, ShiftQuantizer
from dinor1.utils.errors import InputError

GAUSS = math.sqrt(math.pi / 2)
NORMS = [(L1BatchNorm2d, (6, 5, 4, 3), (0, 2, 3)), (L1BatchNorm1d, (9, 5), (0,)), (L1LayerNorm, (3, 4, 5), (-1,))]


def per_channel(norm, values):
    return values.view(1, -1, 1, 1) if isinstance(norm, L1BatchNorm2d) else values


def random_affine(norm):
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def formula(norm, x, axes, kappa):
    """The formula of the norm in float64."""
    x, weight, bias = (t.double() for t in (x, per_channel(norm, norm.weight), per_channel(norm, norm.bias)))
    centred = x - x.mean(axes, keepdim=True)
    sigma = kappa * centred.abs().mean(axes, keepdim=True)
    return centred / (sigma + norm.eps) * weight + bias, sigma


@pytest.mark.parametrize(
    ('norm', 'shape'), [(L1BatchNorm2d, (0, 5, 3, 3)), (L1BatchNorm1d, (0, 5)), (L1LayerNorm, (0, 5))]
)
def test_quantized_l1_norm_empty_batches(norm, shape):
    layer = norm(5)
    y = layer(torch.zeros(shape, requires_grad=True))
    y.sum().backward()
    assert y.shape == shape
    if norm is not L1LayerNorm:
        assert not layer.running_mean.any()
        assert (layer.running_sigma == 1).all()


@pytest.mark.parametrize('correction', [False, True])
@pytest.mark.parametrize(('norm', 'shape', 'axes'), NORMS)
def test_l1_norm_without_quantization_equals_normalization_block(norm, shape, axes, correction):
    """In training, and in evaluation with the running statistics of that step."""
    layer = random_affine(norm(5, quantized=False, gaussian_correction=correction).double())
    kind, axis = (l1_norm.L1LayerNorm, -1) if norm is L1LayerNorm else (l1_norm.L1BatchNorm, 1)
    other = kind(5, scale='gauss' if correction else 'none', channel_dim=axis).double()
    other.load_state_dict(dict(weight=layer.weight, bias=layer.bias), strict=False)
    if norm is not L1LayerNorm:
        # One stores the divisor itself, the other the mean absolute deviation.
        layer.running_sigma *= layer.kappa
    for training in (True, False):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(layer.train(training)(x), other.train(training)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('correction', [False, True])
@pytest.mark.parametrize(('norm', 'shape', 'axes'), NORMS)
def test_l1_norm_without_quantization_gradcheck(norm, shape, axes, correction):
    layer = random_affine(norm(5, quantized=False, gaussian_correction=correction).double())
    x = torch.randn(shape, dtype=torch.float64)
    # No number may be so close to a mean that a step of gradcheck crosses it.
    assert (x - x.mean(axes, keepdim=True)).abs().min() > 1e-4
    y, _ = formula(layer, x, axes, GAUSS if correction else 1)
    torch.testing.assert_close(layer(x), y, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x.requires_grad_(), *layer.parameters()))


@pytest.mark.parametrize('correction', [False, True])
@pytest.mark.parametrize(('norm', 'shape', 'axes'), NORMS)
@pytest.mark.parametrize('bits', [(4, 4, 4), (8, 8, 8), (4, 4, 32)])
def test_quantized_l1_norm_equals_formula_on_grid(norm, shape, axes, correction, bits):
    layer = random_affine(norm(5, gaussian_correction=correction, recipe=IntegerRecipe(bits, grad_rounding='nearest')))
    x = (torch.randn(shape) + 0.3).requires_grad_()
    grid = ShiftQuantizer(bits[1], 1, rounding='nearest')
    on_grid = grid.fake(x).double().requires_grad_()
    expected, sigma = formula(layer, on_grid, axes, GAUSS if correction else 1)
    y = layer(x)
    # Rounded to the output's grid; near ties float32 and float64 may differ by one step.
    step = grid(expected.float()).scale
    far = (y - grid.fake(expected.float())).abs() > 1e-5
    assert far.float().mean() < 0.02
    assert ((y - expected).abs() <= 0.51 * step).all()

    # The closed form of the gradient, on the quantized gradient of the normalised values.
    grad = torch.randn(shape)
    y.backward(grad)
    channels = 1 if len(shape) != 3 else -1
    pull = grad * per_channel(layer, layer.weight.detach())
    if bits[2] != 32:
        pull = ShiftQuantizer(bits[2], dim=channels, rounding='nearest').fake(pull)
    kappa = GAUSS if correction else 1
    centred = on_grid.detach() - on_grid.detach().mean(axes, keepdim=True)
    # The layer uses whole numbers: a deviation of exactly 0 there is 1e-8 here.
    sign = torch.where(centred.abs() < 1e-5, 0, centred.sign())
    divisor = sigma.detach() + layer.eps
    z, pull = centred / divisor, pull.double()
    tilt = (sign - sign.mean(axes, keepdim=True)) * (pull * z).mean(axes, keepdim=True)
    expected_grad = (pull - pull.mean(axes, keepdim=True) - kappa * tilt) / divisor
    torch.testing.assert_close(x.grad.double(), expected_grad, rtol=1e-4, atol=1e-5)
    others = [axis for axis in range(x.dim()) if axis != (channels % x.dim())]
    torch.testing.assert_close(layer.weight.grad.double(), (grad * z).sum(others), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.bias.grad, grad.sum(others), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('norm', 'shape', 'axes'), NORMS)
def test_quantized_l1_norm_gradient_is_unbiased(norm, shape, axes):
    """The result is linear in the quantized gradient: the mean of 600 draws is the value at the mean."""
    layer = norm(5, recipe=IntegerRecipe((6, 6, 3)), seed=0)
    exact = norm(5, recipe=IntegerRecipe((6, 6, 32)))
    x, grad = torch.randn(shape), torch.randn(shape)

    def gradient(layer):
        leaf = x.clone().requires_grad_()
        layer(leaf).backward(grad)
        return leaf.grad.double()

    draws = torch.stack([gradient(layer) for _ in range(600)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - gradient(exact)).abs() <= 5 * error + 1e-6).all()
    assert error.max() > 0


@pytest.mark.parametrize('quantized', [False, True])
def test_quantized_l1_norm_running_statistics_and_evaluation(quantized):
    layer = L1BatchNorm2d(3, momentum=0.25, quantized=quantized, recipe=IntegerRecipe((8, 8, 8)))
    x = torch.randn(4, 3, 5, 5) * 2 + 1
    layer(x)
    grid = ShiftQuantizer(8, 1, rounding='nearest')
    seen = (grid.fake(x) if quantized else x).double()
    mean = seen.mean((0, 2, 3))
    mad = (seen - mean.view(-1, 1, 1)).abs().mean((0, 2, 3))
    torch.testing.assert_close(layer.running_mean.double(), 0.25 * mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_sigma.double(), 0.75 + 0.25 * mad, rtol=1e-5, atol=1e-6)
    layer.eval()
    before = layer.running_sigma.clone()
    expected = (seen.float() - layer.running_mean.view(-1, 1, 1)) / (layer.running_sigma.view(-1, 1, 1) + layer.eps)
    torch.testing.assert_close(layer(x), grid.fake(expected) if quantized else expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.running_sigma, before)


def test_quantized_l1_norm_checkpointing_counts_batch_once():
    layer, x = L1BatchNorm1d(3), torch.randn(6, 3, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    once = L1BatchNorm1d(3)
    once(x)
    assert torch.equal(layer.running_mean, once.running_mean)


@pytest.mark.parametrize('correction', [False, True])
def test_quantized_l1_norm_loads_batch_norm_weights(correction):
    """The deviation is that of Gaussian data with the L2 norm's variance; with the correction outputs are equal."""
    source, x = nn.BatchNorm2d(3, momentum=1.0), torch.randn(64, 3, 20, 20) * 3 + 1
    random_affine(source)(x)
    layer = L1BatchNorm2d(3, gaussian_correction=correction, quantized=False)
    layer.load_state_dict(source.state_dict())
    sigma = source.running_var.sqrt() * (1 if correction else math.sqrt(2 / math.pi))
    torch.testing.assert_close(layer.running_sigma, sigma)
    if correction:
        # Batch norm has eps inside of a root.
        torch.testing.assert_close(layer.eval()(x), source.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
@pytest.mark.parametrize('norm', [L1BatchNorm1d, L1LayerNorm])
def test_quantized_l1_norm_propagates_nan(norm, bad):
    x = torch.randn(4, 5)
    x[0, 0] = bad
    assert norm(5)(x).isnan().any()


@pytest.mark.parametrize('norm', [L1BatchNorm1d, L1LayerNorm])
@pytest.mark.parametrize('value', [0.0, 2.5, 1e-39])
def test_quantized_l1_norm_constant_input_gives_bias(norm, value):
    layer = random_affine(norm(5))
    x = torch.full((4, 5), value, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, ShiftQuantizer(4, 1, rounding='nearest').fake(layer.bias).expand(4, 5).detach())
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ('layer', 'shape', 'message'),
    [
        (L1BatchNorm2d(3), (2, 3, 4), 'expected 3 channels on axis 1 of 4 axes'),
        (L1BatchNorm1d(3), (2, 4), 'expected 3 channels'),
        (L1LayerNorm(3), (3, 2), r'expected \(..., 3\)'),
    ],
)
def test_quantized_l1_norm_bad_input_raises(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(shape))


def test_quantized_l1_norm_needs_bits_of_activations():
    with pytest.raises(InputError, match='quantized=False'):
        L1LayerNorm(3, recipe=IntegerRecipe((4, 32, 4)))
