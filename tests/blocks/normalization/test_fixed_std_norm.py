"""LayerNorm with a switchable divisor: numbers of the published script, tracking, freezing and checkpoints."""

import copy

import pytest
import torch
from torch import nn

from dinor1.blocks.normalization import FixedStdLayerNorm

# The reference was computed in float32 and states this tolerance.
FLOAT32 = 2e-6


def randomised(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


@pytest.mark.shared
def test_fixed_std_norm_equals_reference(oracle):
    cfg = oracle.cfg('fakeln')
    layer = FixedStdLayerNorm(cfg['C'], eps=cfg['eps'], momentum=cfg['momentum'], per_position=cfg['N'])
    layer.load_state_dict({'weight': oracle['fakeln/weight'], 'bias': oracle['fakeln/bias']}, strict=False)
    layer.std.fill_(cfg['init_std'])
    layer.std[0] = cfg['init_std_first']

    def close(actual, key):
        torch.testing.assert_close(actual, oracle[f'fakeln/{key}'], rtol=0, atol=FLOAT32)

    # Compare outputs and tracked deviations before the switch.
    for step in range(cfg['steps']):
        close(layer(oracle[f'fakeln/step{step}/x']), f'step{step}/y_real')
        close(layer.std, f'step{step}/std_vector')
        close(layer.std[0], f'step{step}/ema_std_first')
        close(layer.std[-1], f'step{step}/ema_std')
    # Compare all outputs after the switch.
    layer.fix()
    x = oracle['fakeln/fake/x']
    close(layer(x), 'fake/y_special_first')
    everywhere = torch.ones(x.shape[:2], dtype=torch.bool)
    close(layer(x, values=True, first_std_mask=everywhere), 'fake/y_all_first_std')
    close(layer(x, values=True), 'fake/y_after_eot_off_bos_path')
    layer.drop_first_position()
    close(layer.std, 'fake/std_uniform')
    close(layer(x), 'fake/y_uniform')


@pytest.mark.parametrize('arguments', [dict(), dict(bias=False), dict(affine=False), dict(per_position=5)])
def test_fixed_std_norm_equals_layer_norm_before_switch(arguments):
    layer = randomised(FixedStdLayerNorm(6, eps=1e-3, **arguments).double())
    theirs = nn.LayerNorm(6, eps=1e-3, elementwise_affine=layer.weight is not None, bias=layer.bias is not None)
    theirs.double().load_state_dict({n: v for n, v in layer.state_dict().items() if n in ('weight', 'bias')})
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        torch.testing.assert_close(layer.train(training)(x), theirs(x), rtol=0, atol=1e-12)
    grad = torch.randn(2, 5, 6, dtype=torch.float64)
    (ours,) = torch.autograd.grad(layer(x), x, grad)
    torch.testing.assert_close(ours, torch.autograd.grad(theirs(x), x, grad)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize('bias', [True, False])
def test_fixed_std_norm_is_affine_after_switch(bias):
    layer = randomised(FixedStdLayerNorm(6, bias=bias).double())
    layer.std.fill_(2.0)
    layer.fix()
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    expected = layer.weight * (x - x.mean(-1, keepdim=True)) / 2 + (layer.bias if bias else 0)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(layer, x)
    # Affine: twice the deviation from the mean gives twice the response.
    torch.testing.assert_close(layer(2 * x) - layer(x), layer(x) - layer(0 * x), rtol=0, atol=1e-12)


def sigma(x):
    return (x.var(-1, correction=0) + 1e-5).sqrt()


def test_fixed_std_norm_tracking_closed_form():
    layer = FixedStdLayerNorm(6, momentum=0.75).double()
    batches = torch.randn(3, 2, 5, 6, dtype=torch.float64) * 3
    for batch in batches:
        layer(batch)
    first, second, third = (sigma(batch).mean() for batch in batches)
    expected = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
    torch.testing.assert_close(layer.std, expected, rtol=0, atol=1e-12)


def test_fixed_std_norm_tracks_first_position_separately():
    layer = FixedStdLayerNorm(6, per_position=8).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    x[:, 0] *= 10
    layer(x)
    torch.testing.assert_close(layer.std[0], sigma(x)[:, 0].mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.std[1:], sigma(x)[:, 1:].mean().expand(7), rtol=0, atol=1e-12)


def test_fixed_std_norm_does_not_track_evaluation_values_or_recomputation():
    layer = FixedStdLayerNorm(6)
    layer.eval()(torch.randn(3, 6))
    layer.train()(torch.randn(3, 6), values=True)
    layer(torch.randn(0, 6))
    assert layer.std.item() == 0
    x = torch.randn(2, 4, 6, requires_grad=True)
    torch.utils.checkpoint.checkpoint(lambda x: layer(x) * 2, x, use_reentrant=False).sum().backward()
    # Repeat a second batch, since the first one sets S in any case.
    first = layer.std.clone()
    y = torch.utils.checkpoint.checkpoint(lambda x: layer(x) * 2, 3 * x, use_reentrant=False)
    second = layer.std.clone()
    y.sum().backward()
    assert second > first
    assert torch.equal(layer.std, second)


@pytest.mark.parametrize('switch', [dict(values=False), dict(main=False)])
def test_fixed_std_norm_switches_are_separate_and_first_freezes(switch):
    layer = FixedStdLayerNorm(6)
    x = torch.randn(2, 4, 6)
    layer(x)
    frozen = layer.std.clone()
    layer.fix(**switch)
    y, y_values = layer(5 * x), layer(5 * x, values=True)
    assert torch.equal(layer.std, frozen)
    real = nn.functional.layer_norm(5 * x, (6,))
    constant = (5 * x - 5 * x.mean(-1, keepdim=True)) / frozen
    expected = (constant, real) if 'values' in switch else (real, constant)
    torch.testing.assert_close((y, y_values), expected)


def test_fixed_std_norm_checkpoint_resumes_schedule():
    layer = randomised(FixedStdLayerNorm(6, per_position=4))
    layer(torch.randn(2, 4, 6))
    layer.fix(values=False)
    other = FixedStdLayerNorm(6, per_position=4)
    other.load_state_dict(layer.state_dict())
    assert set(layer.state_dict()) == {'weight', 'bias', 'std', 'is_fixed', 'v_is_fixed'}
    x = torch.randn(2, 4, 6)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other(x, values=True), layer(x, values=True))


def test_fixed_std_norm_from_layer_norm_shares_parameters():
    norm = randomised(nn.LayerNorm(6, eps=1e-3)).double().eval()
    layer = FixedStdLayerNorm.from_layer_norm(norm, momentum=0.5, per_position=3)
    assert layer.weight is norm.weight
    assert (layer.eps, layer.momentum, layer.per_position, layer.training) == (1e-3, 0.5, 3, False)
    assert layer.std.dtype == torch.float64
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), norm(x), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r'works on one axis, got LayerNorm over \(4, 6\)'):
        FixedStdLayerNorm.from_layer_norm(nn.LayerNorm((4, 6)))


def test_fixed_std_norm_misuse_raises():
    layer = FixedStdLayerNorm(6, per_position=3)
    with pytest.raises(ValueError, match='S has not been measured'):
        layer.fix()
    with pytest.raises(ValueError, match='S for 3 positions, got 4'):
        layer(torch.randn(2, 4, 6))
    with pytest.raises(ValueError, match='first_std_mask needs per_position'):
        FixedStdLayerNorm(6)(torch.randn(2, 4, 6), first_std_mask=torch.ones(2, 4, dtype=torch.bool))


def test_fixed_std_norm_ignores_nonfinite_batch():
    layer, x = FixedStdLayerNorm(8), torch.randn(4, 8)
    layer(x)
    before = layer.std.clone()
    layer(x.index_fill(0, torch.tensor([1]), float('inf')))
    assert torch.equal(layer.std, before)
    layer(x)
    layer.fix()
    assert layer(x).isfinite().all()


@pytest.mark.parametrize('calls', [(False, True), (True, False), (False, False)])
@pytest.mark.parametrize('per_position', [None, 5])
def test_fixed_std_norm_compiled_training_equals_eager(calls, per_position):
    """Calls for queries and for values in both orders; S changes between them and the backward pass."""
    layer = FixedStdLayerNorm(6, per_position=per_position)
    eager = copy.deepcopy(layer)

    def step(layer, x):
        y = sum(layer(x * (i + 1), values=values) for i, values in enumerate(calls))
        return y.detach(), *torch.autograd.grad(y.sin().sum(), (x, *layer.parameters()))

    torch._dynamo.reset()
    compiled = torch.compile(layer, backend='aot_eager')
    for number in range(3):
        x = (torch.randn(2, 4, 6) * (number + 1)).requires_grad_()
        # The same operators, perhaps in another order.
        torch.testing.assert_close(step(compiled, x), step(eager, x), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(layer.state_dict(), eager.state_dict(), rtol=1e-6, atol=0)
        if number == 1:
            layer.fix(), eager.fix()


def test_fixed_std_norm_inference_mode_leaves_ordinary_buffer():
    layer = FixedStdLayerNorm(6, per_position=5)
    with torch.inference_mode():
        layer(torch.randn(2, 5, 6))
    layer.drop_first_position()
    assert (layer.std > 0).all()
    assert not layer.std.is_inference()


@pytest.mark.parametrize('per_position', [None, 5])
def test_fixed_std_norm_keeps_one_buffer(per_position):
    """Hooks such as EMA, and DDP, hold the tensor and see its new values."""
    layer = FixedStdLayerNorm(6, per_position=per_position)
    held = dict(layer.named_buffers())
    for _ in range(2):
        layer(torch.randn(2, 5, 6))
        layer.drop_first_position()
    layer.fix()
    assert all(buffer is held[name] for name, buffer in layer.named_buffers())
    assert (held['std'] > 0).all()
