"""RMSNorm and CRMSNorm: reference numbers, torch, formulas of the gradients, and LayerNorm."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinor1.blocks.normalization import CRMSNorm, RMSNorm
from tests.blocks.normalization.conftest import relative_error

# float64 throughout, and sums of at most 9 terms; the reference states a relative tolerance of 1e-12.
EXACT = 1e-12


def zero_mean(*shape):
    x = torch.randn(*shape, dtype=torch.float64)
    return x - x.mean(-1, keepdim=True)


@pytest.mark.shared
def test_rms_norm_equals_reference(oracle):
    layer = RMSNorm(9, affine=False)
    x = oracle['rms/x_zero_mean'].requires_grad_()
    y = layer(x)
    y.backward(oracle['rms/grad_out'])
    assert relative_error(y, oracle['rms/rms_norm/y']) < EXACT
    assert relative_error(x.grad, oracle['rms/rms_norm/grad_x']) < EXACT


@pytest.mark.shared
def test_rms_norm_with_weight_equals_reference(oracle):
    layer = RMSNorm(9).double()
    layer.load_state_dict({'weight': oracle['rms/torch_rms/weight']})
    x = oracle['rms/torch_rms/x'].requires_grad_()
    y = layer(x)
    y.backward(oracle['rms/grad_out'])
    assert relative_error(y, oracle['rms/torch_rms/y']) < EXACT
    assert relative_error(x.grad, oracle['rms/torch_rms/grad_x']) < EXACT
    assert relative_error(layer.weight.grad, oracle['rms/torch_rms/grad_weight']) < EXACT


@pytest.mark.shared
def test_crms_norm_equals_reference(oracle):
    layer = CRMSNorm(8)
    x = oracle['rms/crms_norm/x'].requires_grad_()
    y = layer(x)
    y.backward(oracle['rms/grad_out'][..., :-1])
    assert relative_error(y, oracle['rms/crms_norm/y']) < EXACT
    assert relative_error(x.grad, oracle['rms/crms_norm/grad_x']) < EXACT


def test_rms_norm_equals_torch():
    layer, theirs = RMSNorm(6, eps=1e-3), nn.RMSNorm(6, eps=1e-3)
    nn.init.normal_(layer.weight)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 6)
    assert torch.equal(layer(x), theirs(x))


def test_rms_norm_adds_bias_last():
    layer = RMSNorm(6, bias=True).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=EXACT)


def test_rms_norm_of_centred_input_equals_layer_norm():
    x = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(4, 3, 7, dtype=torch.float64)
    expected = F.layer_norm(x, (7,))
    (expected_grad,) = torch.autograd.grad(expected, x, grad)
    centred = (x - x.mean(-1, keepdim=True)).detach().requires_grad_()
    y = RMSNorm(7, affine=False)(centred)
    (grad_centred,) = torch.autograd.grad(y, centred, grad)
    torch.testing.assert_close(y, expected, rtol=0, atol=EXACT)
    # The projection P = I - 11^T / d is symmetric: the gradient is centred too.
    torch.testing.assert_close(grad_centred - grad_centred.mean(-1, keepdim=True), expected_grad, rtol=0, atol=EXACT)


def test_crms_norm_equals_rms_norm_without_last_channel():
    x = zero_mean(4, 3, 7)
    full = RMSNorm(7, affine=False)(x)
    torch.testing.assert_close(CRMSNorm(6)(x[..., :-1]), full[..., :-1], rtol=0, atol=EXACT)


@pytest.mark.parametrize('layer', [RMSNorm(5, bias=True), RMSNorm(5), CRMSNorm(5)], ids=['bias', 'weight', 'crms'])
def test_rms_norms_gradcheck(layer):
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_crms_norm_gradient_equals_formula():
    """Dx = rho q - rho^3 sum(q x) (x + S) / d, arXiv 2305.14858, appendix."""
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    q = torch.randn(4, 6, dtype=torch.float64)
    CRMSNorm(6)(x).backward(q)
    with torch.no_grad():
        total = x.sum(-1, keepdim=True)
        rho = ((x.square().sum(-1, keepdim=True) + total**2) / 7 + 1e-5) ** -0.5
        expected = rho * q - rho**3 * (q * x).sum(-1, keepdim=True) * (x + total) / 7
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('build', [lambda: RMSNorm(8), lambda: RMSNorm(8, bias=True), lambda: CRMSNorm(8)])
def test_rms_norms_half_input_has_float32_statistics(build, dtype):
    layer = build()
    x = (torch.randn(4, 8) * 300).to(dtype)  # squares overflow a float16
    y = layer(x)
    assert y.dtype == dtype
    # Equal to rounding the float32 result once: half of the last bit, 2^-11 or 2^-8 of the value.
    torch.testing.assert_close(y.float(), layer(x.float()), rtol=2.0 ** (-10 if dtype == torch.float16 else -7), atol=0)


def test_rms_norms_half_weights_stay_half():
    layer = RMSNorm(8).to(torch.bfloat16)
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), F.rms_norm(x.float(), (8,), eps=1e-5), rtol=2.0**-7, atol=0)


@pytest.mark.parametrize('build', [RMSNorm, CRMSNorm])
def test_rms_norms_wrong_input_raises(build):
    with pytest.raises(ValueError, match=r'normalises 32 channels on axis -1, got shape \(2, 32, 8, 8\); it works on'):
        build(32)(torch.randn(2, 32, 8, 8))
    with pytest.raises(ValueError, match='floating point input, got torch.int64'):
        build(4)(torch.ones(2, 4, dtype=torch.int64))


def test_rms_norm_bias_without_affine_raises():
    with pytest.raises(ValueError, match='bias=True needs affine=True'):
        RMSNorm(4, affine=False, bias=True)
