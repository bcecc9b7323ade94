"""PowerNorm: the authors' numbers, the paper's recursions, and gradients of the exact variant."""

import copy

import pytest
import torch
from torch import nn

from dinor1.blocks.normalization import PowerNorm
from tests.blocks.normalization.conftest import run_oracle_steps

# float64, means over at most a few dozen positions; the reference states a relative tolerance of 1e-12.
EXACT = 1e-12
CASES = {'pn_core': None, 'pn_basic': 1, 'pn_groups': 4, 'pn_pad': 2}


@pytest.mark.shared
@pytest.mark.parametrize('case', CASES)
def test_power_norm_equals_reference(oracle, case):
    cfg = oracle.cfg(case)
    names = ('eps', 'alpha_fwd', 'alpha_bkw', 'warmup_iters')
    layer = PowerNorm(cfg['C'], group_num=CASES[case], **{name: cfg[name] for name in names}).double()
    assert run_oracle_steps(layer, oracle, case, EXACT) > 40


@pytest.mark.parametrize('group_num', [None, 2])
def test_power_norm_exact_variant_gradcheck(group_num):
    layer = PowerNorm(4, group_num=group_num, approx_backward=False, warmup_iters=1, exact_padding=True).double()
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, False, True], [False, True, True]])
    for pad_mask in (None, mask):
        assert torch.autograd.gradcheck(
            lambda x, *_, pad_mask=pad_mask: layer(x, pad_mask), (x, layer.weight, layer.bias)
        )


def written_out(layer, inputs, grads):
    """The paper's recursion: nu <- nu (1 - (1 - a) Gamma) + (1 - a) Lambda, gradient (q - nu z) / sqrt(v + eps)."""
    nu = torch.zeros(layer.num_features, dtype=torch.float64)
    phi = torch.ones(layer.num_features, dtype=torch.float64)
    a, eps, results = layer.alpha_bkw, layer.eps, []
    for step, (x, grad) in enumerate(zip(inputs, grads, strict=True), start=1):
        v = x.square().mean((0, 1))
        z = x / ((v if step <= layer.warmup_iters else phi) + eps).sqrt()
        q = grad * layer.weight.detach()
        results.append((q - nu * z) / (v + eps).sqrt())
        nu = nu * (1 - (1 - a) * z.square().mean((0, 1))) + (1 - a) * (q * z).mean((0, 1))
        if step < layer.warmup_iters:
            phi = phi * (step - 1) / step + v / step
        phi = layer.alpha_fwd * phi + (1 - layer.alpha_fwd) * v
    return results, nu, phi


def test_power_norm_recursions_of_code_and_paper_agree():
    layer = PowerNorm(5, alpha_bkw=0.7, alpha_fwd=0.8, warmup_iters=3, group_num=None).double()
    nn.init.normal_(layer.weight)
    inputs = [torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(7)]
    grads = [torch.randn(2, 6, 5, dtype=torch.float64) for _ in range(7)]
    for x, grad in zip(inputs, grads, strict=True):
        layer(x).backward(grad)
    expected, nu, phi = written_out(layer, [x.detach() for x in inputs], grads)
    for x, value in zip(inputs, expected, strict=True):
        torch.testing.assert_close(x.grad, value, rtol=0, atol=EXACT)
    torch.testing.assert_close((1 - 0.7) * layer.ema_gz, nu, rtol=0, atol=EXACT)
    torch.testing.assert_close(layer.running_phi, phi, rtol=0, atol=EXACT)


def test_power_norm_running_moment_after_warm_up():
    layer = PowerNorm(3, alpha_fwd=0.6, warmup_iters=0, group_num=None).double()
    batches = torch.randn(5, 4, 2, 3, dtype=torch.float64)
    for batch in batches:
        layer(batch)
    moments = batches.square().mean((1, 2))
    weights = 0.4 * 0.6 ** torch.arange(4, -1, -1, dtype=torch.float64)
    expected = 0.6**5 + (weights[:, None] * moments).sum(0)
    torch.testing.assert_close(layer.running_phi, expected, rtol=0, atol=EXACT)
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(layer.eval()(x), x / (expected + layer.eps).sqrt(), rtol=0, atol=EXACT)


def test_power_norm_unit_moment_gives_affine_part():
    layer = PowerNorm(4, group_num=None, warmup_iters=2).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(8, 6, 4, dtype=torch.float64).sign()
    for _ in range(4):
        y = layer(x)
        # eps = 1e-5 under the root changes the result by half of it.
        torch.testing.assert_close(y, x * layer.weight + layer.bias, rtol=0, atol=2e-5)


def test_power_norm_group_scaling_ignores_scale_of_tokens():
    layer = PowerNorm(8, group_num=2, eps=0.0).double().eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    scaled = x * torch.tensor([3.0] * 4 + [0.2] * 4, dtype=torch.float64)
    torch.testing.assert_close(layer(scaled), layer(x), rtol=0, atol=EXACT)


@pytest.mark.parametrize('exact_padding', [False, True])
def test_power_norm_padding_does_not_change_valid_tokens(exact_padding):
    plain = PowerNorm(4, group_num=2, warmup_iters=2, exact_padding=exact_padding).double()
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
    torch.testing.assert_close(padded.running_phi, plain.running_phi, rtol=0, atol=EXACT)
    # The published code also averages the gradient's statistic over padding, so the results differ by design.
    same = torch.allclose(padded.ema_gz, plain.ema_gz, rtol=0, atol=EXACT)
    assert same is exact_padding
    if exact_padding:
        torch.testing.assert_close(junk.grad[:, :5], x.grad, rtol=0, atol=EXACT)
        assert not junk.grad[:, 5:].any()


def test_power_norm_ignores_content_of_padding():
    layer = PowerNorm(2, group_num=None)
    x = torch.randn(1, 3, 2)
    x[0, 2] = float('nan')
    y = layer(x, torch.tensor([[False, False, True]]))
    assert y[0, :2].isfinite().all()
    assert layer.running_phi.isfinite().all()


def test_power_norm_max_moment_ratio_prevents_divergence():
    """With batches 40 times above the running moment, e grows by a factor |1 - (1 - a) 40| = 3 per step."""

    def last_state(bound):
        layer = PowerNorm(2, alpha_fwd=1.0, warmup_iters=0, group_num=None, max_moment_ratio=bound).double()
        for _ in range(60):
            x = torch.randn(4, 6, 2, dtype=torch.float64).sign() * 40**0.5
            layer(x.requires_grad_()).backward(torch.randn(4, 6, 2, dtype=torch.float64))
        return layer.ema_gz.abs().max()

    assert last_state(None) > 1e15
    assert last_state(10.0) < 1e3


def test_power_norm_loads_shapes_of_published_checkpoints():
    layer = PowerNorm(3)
    state = layer.state_dict()
    state['running_phi'] = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    state['ema_gz'] = torch.tensor([4.0, 5.0, 6.0]).view(1, 3, 1, 1)
    layer.load_state_dict(state)
    assert layer.running_phi.tolist() == [1, 2, 3]
    assert layer.ema_gz.tolist() == [4, 5, 6]
    with pytest.raises(RuntimeError, match='running_phi'):
        layer.load_state_dict({**state, 'running_phi': torch.ones(1, 4, 1, 1)})


def test_power_norm_channels_first_equals_channels_last():
    last = PowerNorm(6, group_num=3, warmup_iters=1).double()
    first = PowerNorm(6, group_num=3, warmup_iters=1, channel_dim=1).double()
    for _ in range(3):
        x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
        moved = x.detach().permute(0, 3, 1, 2).clone().requires_grad_()
        grad = torch.randn(2, 3, 4, 6, dtype=torch.float64)
        last(x).backward(grad)
        y = first(moved)
        y.backward(grad.permute(0, 3, 1, 2))
        torch.testing.assert_close(moved.grad.permute(0, 2, 3, 1), x.grad, rtol=0, atol=EXACT)
    torch.testing.assert_close(first.running_phi, last.running_phi, rtol=0, atol=EXACT)


def test_power_norm_bad_arguments_raise():
    with pytest.raises(ValueError, match='group_num 3 does not divide 8 channels'):
        PowerNorm(8, group_num=3)
    layer = PowerNorm(8)
    with pytest.raises(ValueError, match=r'axis -1, got shape \(2, 8, 5, 5\); for channels on axis 1 build it with'):
        layer(torch.randn(2, 8, 5, 5))
    with pytest.raises(ValueError, match='at least 2 axes'):
        layer(torch.randn(8))
    with pytest.raises(ValueError, match=r'pad_mask must be \(2, 5\) for an input \(2, 5, 8\), got \(2, 4\)'):
        layer(torch.randn(2, 5, 8), torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match='pad_mask must be boolean'):
        layer(torch.randn(2, 5, 8), torch.zeros(2, 5))
