"""Unified Normalization: the authors' numbers, properties, and gradients of the exact variant."""

import copy

import pytest
import torch
from torch import nn

from dinor1.blocks.normalization import UnifiedNorm
from tests.blocks.normalization.conftest import relative_error, run_oracle_steps

# float64, means over at most a few hundred positions; the reference states a relative tolerance of 1e-12.
EXACT = 1e-12
CASES = ['un_plain', 'un_window1', 'un_outlier', 'un_late', 'un_late_outlier', 'un_pad']


def from_case(oracle, case):
    cfg = oracle.cfg(case)
    names = ('eps', 'window_size', 'warmup_iters', 'outlier_filtration', 'momentum')
    return UnifiedNorm(cfg['C'], **{name: cfg[name] for name in names}).double()


@pytest.mark.shared
@pytest.mark.parametrize('case', CASES)
def test_unified_norm_equals_reference(oracle, case):
    assert run_oracle_steps(from_case(oracle, case), oracle, case, EXACT) > 30


@pytest.mark.shared
@pytest.mark.parametrize('case', CASES)
def test_unified_norm_evaluation_is_constant_affine_map(oracle, case):
    layer = from_case(oracle, case)
    run_oracle_steps(layer, oracle, case, EXACT)
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    weight, bias = oracle[f'{case}/fold/lin_weight'], oracle[f'{case}/fold/lin_bias']
    assert relative_error(weight * scale, oracle[f'{case}/fold/folded_weight']) < EXACT
    assert relative_error(bias + weight @ layer.bias, oracle[f'{case}/fold/folded_bias']) < EXACT
    out = nn.functional.linear(layer(oracle[f'{case}/eval/x']), weight, bias)
    assert relative_error(out, oracle[f'{case}/fold/lin_out']) < EXACT


def test_unified_norm_window_one_gradcheck():
    layer = UnifiedNorm(4, window_size=1, exact_padding=True).double()
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, False, True], [False, True, True]])
    for pad_mask in (None, mask):
        assert torch.autograd.gradcheck(
            lambda x, *_, pad_mask=pad_mask: layer(x, pad_mask), (x, layer.weight, layer.bias)
        )


def test_unified_norm_moment_is_geometric_mean_of_window():
    layer = UnifiedNorm(3, window_size=4, warmup_iters=0).double()
    batches = torch.randn(9, 5, 6, 3, dtype=torch.float64)
    for batch in batches:
        y = layer(batch)
    used = batches[-4:].square().mean((1, 2)).log().mean(0).exp()
    torch.testing.assert_close(y, batches[-1] / (used + layer.eps).sqrt(), rtol=0, atol=EXACT)


def test_unified_norm_ignores_order_of_tokens_and_images():
    layer = UnifiedNorm(3, window_size=2, warmup_iters=0).double()
    other = copy.deepcopy(layer)
    for _ in range(4):
        x = torch.randn(4, 5, 3, dtype=torch.float64, requires_grad=True)
        grad = torch.randn(4, 5, 3, dtype=torch.float64)
        images, tokens = torch.randperm(4), torch.randperm(5)
        moved = x.detach()[images][:, tokens].requires_grad_()
        layer(x).backward(grad)
        other(moved).backward(grad[images][:, tokens])
        torch.testing.assert_close(moved.grad, x.grad[images][:, tokens], rtol=0, atol=EXACT)


def test_unified_norm_skips_outlier_batch_once():
    layer = UnifiedNorm(6, window_size=4, warmup_iters=5, outlier_filtration=True)
    # The threshold is a variance over channels too: with similar channels it is so low that noise exceeds it.
    scales = torch.linspace(0.5, 2, 6)
    for step in range(12):
        x = torch.randn(8, 16, 6) * scales * (60 if step == 10 else 1)
        before = layer.running_var.clone()
        y = layer(x)
        assert y.isfinite().all()
        assert layer.skip_counter.item() == (step >= 10)
        if step == 10:
            torch.testing.assert_close(layer.buffer_x2[11 % 4], before)
            # The batch is normalised by its own moment, as in BatchNorm.
            torch.testing.assert_close(y.square().mean((0, 1)), torch.ones(6), rtol=1e-4, atol=0)


def test_unified_norm_without_filtration_skips_nothing():
    layer = UnifiedNorm(6, window_size=4, warmup_iters=5)
    for step in range(12):
        layer(torch.randn(8, 16, 6) * (60 if step == 10 else 1))
    assert layer.skip_counter.item() == 0
    assert (layer.buffer_x2[11 % 4] > 1000).all()


def gradient_factor(layer):
    """Factor r of sum(g z) in the gradient of the weight."""
    x = torch.randn(4, 8, layer.num_features) * 2
    layer.zero_grad()
    y = layer(x)
    y.backward(torch.ones_like(y))
    with torch.no_grad():
        z = (y - layer.bias) / layer.weight
    return layer.weight.grad / z.sum((0, 1))


@pytest.mark.parametrize(
    ('settings', 'first'), [(dict(), 1001), (dict(renorm_after=5), 11), (dict(renorm_after=12), 13)]
)
def test_unified_norm_gradient_factor_starts_after_warm_up(settings, first):
    layer = UnifiedNorm(3, window_size=2, warmup_iters=10, **settings)
    layer.iters.fill_(first - 2)
    for _ in range(layer.window_bkw):
        layer.buffer_x2.fill_(4.0)
    torch.testing.assert_close(gradient_factor(layer), torch.ones(3), rtol=1e-4, atol=0)
    running = layer.running_var.clone()
    factor = gradient_factor(layer)
    used = layer.buffer_x2.log().mean(0).exp()
    torch.testing.assert_close(factor, (used / running).sqrt(), rtol=1e-3, atol=0)
    assert (factor > 1.1).all()


def test_unified_norm_gradient_factor_is_bounded():
    layer = UnifiedNorm(3, window_size=2, warmup_iters=0, renorm_after=0, renorm_clip=3.0)
    layer.running_var.fill_(1e-4)
    layer.iters.fill_(10)
    layer.buffer_x2.fill_(4.0)
    torch.testing.assert_close(gradient_factor(layer), torch.full((3,), 3.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize('exact_padding', [False, True])
def test_unified_norm_padding_does_not_change_valid_tokens(exact_padding):
    plain = UnifiedNorm(4, window_size=2, warmup_iters=1, exact_padding=exact_padding).double()
    padded = copy.deepcopy(plain)
    mask = torch.tensor([[False] * 5 + [True] * 2] * 3)
    for _ in range(4):
        x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
        junk = torch.cat([x.detach(), torch.full((3, 2, 4), 7.0, dtype=torch.float64)], 1).requires_grad_()
        y, y_padded = plain(x), padded(junk, mask)
        torch.testing.assert_close(y_padded[:, :5], y, rtol=0, atol=EXACT)
        grad = torch.randn(3, 5, 4, dtype=torch.float64)
        y.backward(grad)
        y_padded.backward(torch.cat([grad, torch.zeros(3, 2, 4, dtype=torch.float64)], 1))
    torch.testing.assert_close(padded.running_var, plain.running_var, rtol=0, atol=EXACT)
    torch.testing.assert_close(padded.buffer_x2, plain.buffer_x2, rtol=0, atol=EXACT)
    # The published code also averages the gradient's statistic over padding, so the results differ by design.
    same = torch.allclose(padded.buffer_gz, plain.buffer_gz, rtol=0, atol=EXACT)
    assert same is exact_padding


def test_unified_norm_windows_may_differ():
    layer = UnifiedNorm(3, window_size=(2, 5))
    assert layer.buffer_x2.shape == (2, 3)
    assert layer.buffer_gz.shape == (5, 3)


@pytest.mark.parametrize('window_size', [0, (3, 0), (1, 2, 3), 2.0, (2, 2.5), None])
def test_unified_norm_bad_windows_raise(window_size):
    with pytest.raises(ValueError, match='window_size must be one or two numbers of at least 1'):
        UnifiedNorm(3, window_size=window_size)


@pytest.mark.parametrize('scale', [1e19, 1e20, 1e30])
def test_unified_norm_gradient_at_huge_inputs_is_that_of_scaled_ones(scale):
    """Squares of these numbers overflow float32. Output and ``scale * gradient`` do not depend on the scale."""
    x, upstream = torch.randn(2, 8, 5), torch.randn(2, 8, 5)
    found = []
    for factor in (1.0, scale):
        layer = UnifiedNorm(5, eps=0.0).train()
        inputs = (x * factor).requires_grad_()
        y = layer(inputs)
        y.backward(upstream)
        found.append((y.detach(), inputs.grad * factor, layer.weight.grad))
        assert all(buffer.isfinite().all() for buffer in layer.buffers())
        # The next batch is normalised as usual.
        assert layer(x).isfinite().all()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_unified_norm_infinite_inputs_do_not_enter_the_state(value):
    layer = UnifiedNorm(5).train()
    x = torch.randn(2, 8, 5)
    x[0, 0, 0] = value
    layer(x)
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
