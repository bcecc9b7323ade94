"""IntLinear and IntConv2d: bitwise equal backends, torch's layers, expected gradients, unusual input."""

import copy
import math
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinor1.blocks.shiftquant import (
    GradientStats,
    IntConv2d,
    IntegerRecipe,
    IntLinear,
    ShiftQuantizer,
    has_int_mm,
    load_noise_state,
    noise_state,
)
from dinor1.utils.errors import InputError

needs_int_mm = pytest.mark.skipif(not has_int_mm('cpu'), reason='this torch has no int8 product on CPU')
FLOAT = IntegerRecipe((32, 32, 32))
BITS = [(4, 4, 4), (6, 6, 6), (8, 8, 8), (4, 4, 3), (5, 4, 6), (2, 2, 2), (8, 3, 5)]


def run(layer, x, grad):
    """Run a layer; returns output and all gradients."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(grad if grad.shape == y.shape else grad[: y.numel()].view(y.shape))
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


def random_layer(draw):
    """A layer of random sizes and settings as ``make(backend)``, and an input for it."""
    settings = dict(
        bits=draw.choice(BITS),
        groups=draw.choice([None, None, 1, 2, 4, 6]),
        mode=draw.choice(['auto', 'masked']),
        act_quant=draw.choice(['tensor', 'shift']),
        independent_noise=draw.random() < 0.2,
        quantize_bias_grad=draw.random() < 0.5,
    )
    options = dict(bias=draw.random() < 0.5, seed=1)

    def recipe(backend):
        return IntegerRecipe(backend=backend, **settings)

    # Make a linear layer, or a convolution of random geometry.
    if draw.random() < 0.4:
        sizes = [draw.choice([1, 2, 3, 7, 16, 33]) for _ in range(3)]
        x = torch.randn(sizes[0], sizes[1])
        return lambda backend: IntLinear(*sizes[1:], recipe=recipe(backend), **options), x
    groups = draw.choice([1, 1, 1, 2, 3])
    channels = [groups * draw.choice([1, 2, 3, 5]) for _ in range(2)]
    kernel = (draw.randint(1, 4), draw.randint(1, 3))
    shape = dict(
        stride=(draw.randint(1, 3), draw.randint(1, 3)),
        padding=draw.choice([0, 1, (2, 0), 3]),
        dilation=draw.choice([1, 1, (2, 1), 2]),
        groups=groups,
        padding_mode=draw.choice(['zeros', 'zeros', 'zeros', 'circular']),
    )
    x = torch.randn(draw.randint(1, 3), channels[0], draw.randint(7, 12), draw.randint(7, 12))
    if draw.random() < 0.3:
        x = x.to(memory_format=torch.channels_last)
    return lambda backend: IntConv2d(*channels, kernel, recipe=recipe(backend), **shape, **options), x


@needs_int_mm
def test_int_layers_backends_are_bitwise_equal():
    """Outputs and gradients of 200 random layers: odd sizes, groups, strides, paddings, one channel, zeros."""
    draw = random.Random(0)
    kinds = set()
    for number in range(200):
        make, x = random_layer(draw)
        x = x * 10 ** draw.uniform(-4, 4)
        x[torch.rand_like(x) < draw.choice([0, 0.5, 1 if number % 40 == 0 else 0])] = 0
        layer = make('sim')
        grad = torch.randn(8192) * torch.randn(8192).exp()
        other = make('int8')
        other.load_state_dict(layer.state_dict())
        for ours, theirs in zip(run(layer, x, grad), run(other, x, grad), strict=True):
            assert torch.equal(ours, theirs), (number, layer)
            assert ours.isfinite().all(), (number, layer)
        kinds.add((type(layer).__name__, layer.recipe.mode))
    assert len(kinds) == 4


@pytest.mark.parametrize('number', range(20))
def test_int_layers_equal_float64_on_quantized_tensors(number):
    """By definition: torch's layers and gradients in float64 on the quantized tensors."""
    draw = random.Random(100 + number)
    make, x = random_layer(draw)
    layer = make('sim')
    layer.recipe = recipe = IntegerRecipe(layer.recipe.bits, layer.recipe.groups, grad_rounding='nearest')
    grad = torch.randn(8192)
    y, grad_x, grad_weight, *_ = run(layer, x, grad)

    act = ShiftQuantizer(recipe.bits[1], 1, rounding='nearest').fake(x).double().requires_grad_()
    weight = ShiftQuantizer(recipe.bits[0], 1, rounding='nearest').fake(layer.weight).double().requires_grad_()
    reference = copy.deepcopy(layer).double()
    reference.enabled = False
    expected = torch.func.functional_call(reference, dict(weight=weight), (act,))
    # Float32 numbers after one rounding each, against float64.
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    channels = 1 if expected.dim() == 4 else -1
    quantizer = ShiftQuantizer(recipe.bits[2], recipe.groups, dim=channels, rounding='nearest')
    expected.backward(quantizer.fake(grad[: y.numel()].view(y.shape)).double())
    for ours, theirs in ((grad_x, act.grad), (grad_weight, weight.grad)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize(('layer', 'plain', 'shape'), [
    (IntLinear(5, 3, recipe=FLOAT), nn.Linear(5, 3), (2, 4, 5)),
    (IntConv2d(4, 6, 3, 2, 1, groups=2, recipe=FLOAT), nn.Conv2d(4, 6, 3, 2, 1, groups=2), (2, 4, 7, 7)),
])  # fmt: skip
def test_int_layers_with_32_bits_equal_torch(layer, plain, shape):
    assert layer.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(layer.state_dict())
    x, grad = torch.randn(shape), torch.randn(8192)
    assert all(torch.equal(a, b) for a, b in zip(run(layer, x, grad), run(plain, x, grad), strict=True))


@pytest.mark.parametrize('bits', [(4, 32, 32), (32, 4, 32), (32, 32, 4), (4, 4, 32), (4, 32, 4), (32, 4, 4)])
def test_int_layers_each_tensor_can_stay_in_floating_point(bits):
    layer = IntConv2d(3, 4, 3, 2, 1, recipe=IntegerRecipe(bits, grad_rounding='nearest'))
    x, grad = torch.randn(2, 3, 7, 8), torch.randn(2, 4, 4, 4)
    # Quantize the operands that are not in floating point.
    act = x if bits[1] == 32 else ShiftQuantizer(bits[1], 1, rounding='nearest').fake(x)
    weight = layer.weight if bits[0] == 32 else ShiftQuantizer(bits[0], 1, rounding='nearest').fake(layer.weight)
    pull = grad if bits[2] == 32 else ShiftQuantizer(bits[2], dim=1, rounding='nearest').fake(grad)
    act, weight = act.clone().requires_grad_(), weight.detach().clone().requires_grad_()
    expected = F.conv2d(act, weight, layer.bias.detach(), 2, 1)
    expected.backward(pull)
    # Compare with the layer.
    y, grad_x, grad_weight, grad_bias = run(layer, x, grad)
    for ours, theirs in (
        (y, expected),
        (grad_x, act.grad),
        (grad_weight, weight.grad),
        (grad_bias, grad.sum((0, 2, 3))),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize('options', [{}, dict(groups=1), dict(independent_noise=True), dict(quantize_bias_grad=True)])
@pytest.mark.parametrize('make', [
    lambda recipe: (IntLinear(6, 5, recipe=recipe, seed=0), torch.randn(8, 6)),
    lambda recipe: (IntConv2d(2, 3, 3, 2, 1, recipe=recipe, seed=0), torch.randn(2, 2, 5, 5)),
])  # fmt: skip
def test_int_layers_gradients_are_unbiased(make, options):
    """Compare backward passes with the gradient for the same Xq and Wq and the unquantized D: 5 standard errors."""
    layer, x = make(IntegerRecipe((4, 4, 3), **options))
    grad = torch.randn_like(layer(x)) * torch.logspace(-1, 0, layer.weight.shape[0]).view(-1, *[1] * (x.dim() - 2))
    plain = copy.deepcopy(layer)
    plain.recipe = IntegerRecipe((4, 4, 32))
    expected = run(plain, x, grad)[1:]
    layer.zero_grad()
    draws = []
    for _ in range(500 if options else 2000):
        draws.append([g.double() for g in run(layer, x, grad)[1:]])
        layer.zero_grad()
    for ours, theirs in zip(zip(*draws, strict=True), expected, strict=True):
        ours = torch.stack(ours)
        error = ours.std(0) / math.sqrt(len(ours))
        assert ((ours.mean(0) - theirs).abs() <= 5 * error + 1e-6).all()
    # By default the bias gets the unquantized gradient; weight and input get noise.
    noisy = [torch.stack(g).std(0).max() > 0 for g in zip(*draws, strict=True)]
    assert noisy == [True, True, 'quantize_bias_grad' in options]


def test_int_layers_share_one_draw_by_default():
    x, grad = torch.randn(6, 4), torch.randn(6, 3)
    for independent in (False, True):
        layer = IntLinear(4, 3, recipe=IntegerRecipe(independent_noise=independent), seed=0)
        run(layer, x, grad)
        assert noise_state(nn.Sequential(layer)) == {'0': 1 + independent}


@pytest.mark.parametrize(('layer', 'shape'), [(IntLinear(4, 3), (0, 4)), (IntConv2d(4, 3, 3), (0, 4, 5, 5))])
def test_int_layers_empty_batches(layer, shape):
    x = torch.zeros(shape, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape[:2] == ((0, 3))
    assert x.grad.shape == shape
    assert not layer.weight.grad.any()


@pytest.mark.parametrize('backend', ['sim', pytest.param('int8', marks=needs_int_mm)])
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_int_layers_nan_and_infinity_reach_loss_scaler(backend, bad):
    layer, x, grad = IntLinear(4, 3, recipe=IntegerRecipe(backend=backend)), torch.randn(5, 4), torch.randn(5, 3)
    broken = x.clone()
    broken[0, 0] = bad
    assert run(layer, broken, grad)[0].isnan().any()
    layer.zero_grad()
    broken = grad.clone()
    broken[0, 0] = bad
    y, grad_x, grad_weight, _ = run(layer, x, broken)
    assert y.isfinite().all()
    assert grad_x.isnan().any()
    assert grad_weight.isnan().any()


@pytest.mark.parametrize('backend', ['sim', pytest.param('int8', marks=needs_int_mm)])
@pytest.mark.parametrize('size', [0.0, 1e-45, 1e-39])
def test_int_layers_zero_and_denormal_tensors(backend, size):
    layer = IntLinear(4, 3, bias=False, recipe=IntegerRecipe(backend=backend))
    y, grad_x, grad_weight = run(layer, torch.full((5, 4), size), torch.full((5, 3), size))
    assert all(t.isfinite().all() and t.abs().max() <= 1e-37 for t in (y, grad_x, grad_weight))


def test_int_layers_loss_scale_cancels():
    """AMP scales the gradient by a power of two: codes are equal, the result is scaled."""
    layer, x, grad = IntLinear(6, 5, seed=0), torch.randn(8, 6), torch.randn(8, 5)
    plain = run(layer, x, grad)
    layer.zero_grad()
    layer.noise.position = 0
    scaled = run(layer, x, grad * 2**16)
    assert torch.equal(plain[1] * 2**16, scaled[1])
    assert torch.equal(plain[2] * 2**16, scaled[2])


def test_int_layers_half_precision_and_autocast():
    layer, x = IntLinear(6, 5, recipe=IntegerRecipe((8, 8, 8)), seed=0), torch.randn(8, 6)
    full = layer(x)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
        y.sum().backward()
    assert torch.equal(y, full)
    assert layer.weight.grad.dtype == torch.float32


def test_int_layers_save_activations_as_bytes():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        IntLinear(64, 32)(torch.randn(16, 64, requires_grad=True))
    assert [t.dtype for t in saved if t.numel() > 1] == [torch.int8] * 2


def test_int_layers_second_derivative_raises():
    x = torch.randn(3, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(IntLinear(4, 2)(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_int_layers_frozen_parts_get_no_gradient():
    layer = IntLinear(4, 3).requires_grad_(False)
    x = torch.randn(2, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_int_layers_recomputation_gives_same_output():
    layer, x = IntConv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    assert torch.equal(layer(x), layer(x))


def test_noise_state_restores_noise():
    x, grad = torch.randn(6, 4), torch.randn(6, 3)
    model = nn.Sequential(IntLinear(4, 3, seed=5))
    run(model, x, grad)
    weights, state = copy.deepcopy(model.state_dict()), noise_state(model)
    model.zero_grad()
    first = run(model, x, grad)
    fresh = nn.Sequential(IntLinear(4, 3, seed=5))
    fresh.load_state_dict(weights)
    assert not torch.equal(run(fresh, x, grad)[2], first[2])
    fresh.zero_grad()
    load_noise_state(fresh, state)
    assert torch.equal(run(fresh, x, grad)[2], first[2])


def test_int_layers_copy_and_pickle():
    layer, x, grad = IntConv2d(2, 3, 3, seed=0), torch.randn(1, 2, 5, 5), torch.randn(1, 3, 3, 3)
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = run(layer, x, grad)
    for twin in twins:
        assert all(torch.equal(a, b) for a, b in zip(run(twin, x, grad), expected, strict=True))


def test_gradient_stats_count_zeros_and_groups():
    layer = IntLinear(3, 4, recipe=IntegerRecipe(groups=3, grad_rounding='nearest'))
    layer.stats = GradientStats()
    assert layer.stats.zero_share() == 0
    assert layer.stats.group_shares() == []
    grad = torch.zeros(10, 4)
    grad[0] = torch.tensor([7.0, 3.0, 1.0, 0.0])  # groups 0, 1, 2, 2; all other rows are zero
    run(layer, torch.randn(10, 3), grad)
    assert layer.stats.zero_share() == pytest.approx(37 / 40)
    assert layer.stats.group_shares() == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(bits=(4, 4)), 'bits must be three whole numbers'),
        (dict(bits=(4, 4, 16)), 'bits must be three'),
        (dict(bits=4), 'bits must be three'),
        (dict(backend='cuda'), "backend must be one of .* got 'cuda'"),
        (dict(act_quant='row'), 'act_quant must be one of'),
        (dict(groups=99), 'groups must be'),
        (dict(bits=(4, 4, 6), groups=5, mode='preshift'), "fewer groups or mode='masked'"),
    ],
)
def test_recipe_bad_settings_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        IntegerRecipe(**arguments)
