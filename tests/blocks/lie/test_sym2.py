"""Closed forms for 2 x 2 matrices and their n x n counterparts: identities, other algorithms, gradients, errors.

Tolerances are relative to each matrix's largest entry. At condition number 1e3 a logarithm can lose three of 16 digits.
"""

import math

import pytest
import torch

from dinor1.blocks.lie import polar2, spd_invsqrt, spd_log, spd_sqrt, sym2, sym_exp, symn
from tests.blocks.lie.conftest import random_matrices

EYE = torch.eye(2, dtype=torch.float64)


def off(got, expected):
    """Largest deviation of a batch of matrices, each relative to its own largest entry."""
    scale = expected.abs().amax((-2, -1)).clamp(min=1e-300)
    return ((got - expected).abs().amax((-2, -1)) / scale).max().item()


def test_polar2_factors_are_symmetric_and_rotation(matrices):
    log_p, rotation, theta = polar2(matrices)
    p = sym_exp(log_p)
    assert off(p @ rotation, matrices) < 1e-13
    assert off(rotation @ rotation.mT, EYE.expand_as(rotation)) < 1e-13
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(len(rotation), dtype=torch.float64))
    assert torch.equal(p, p.mT)
    assert (torch.linalg.eigvalsh(p) > 0).all()
    determinant = torch.linalg.det(matrices)
    torch.testing.assert_close(torch.linalg.det(p), determinant, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_p.diagonal(dim1=-2, dim2=-1).sum(-1), determinant.log(), rtol=0, atol=1e-12)
    assert (theta.abs() <= math.pi).all()
    torch.testing.assert_close(rotation[:, 1, 0], theta.sin(), rtol=0, atol=1e-15)


def test_polar2_log_trace_is_zero_at_determinant_one():
    log_p, _, _ = polar2(random_matrices(determinant=1.0))
    assert log_p.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-12


def test_sym_exp_and_spd_log_are_inverse(matrices):
    log_p, _, _ = polar2(matrices)
    p = sym_exp(log_p)
    assert off(sym_exp(spd_log(p)), p) < 1e-11
    nontrivial = log_p.abs().amax((-2, -1)) > 1e-3
    assert off(spd_log(p)[nontrivial], log_p[nontrivial]) < 1e-11


@pytest.mark.parametrize('scale', [1e-9, 1e-4, 0.03, 0.0999, 0.1001, 1.0, 3.0])
def test_sym2_equals_general_algorithms(scale):
    """Includes the switches between power series and closed form (rho^2 = 0.01, and rho^2 / m^2 = 0.001)."""
    x = torch.randn(200, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x + x.mT
    x = x * (scale / (x[:, 0, 0] - x[:, 1, 1]).hypot(2 * x[:, 0, 1]) * 2)[:, None, None]
    p = sym_exp(x)
    # A few eps times the condition number, exp(2 scale).
    tolerance = 1e-14 * math.exp(2 * scale)
    assert off(p, torch.linalg.matrix_exp(x)) < tolerance
    assert off(p, symn.sym_exp(x)) < tolerance
    assert off(spd_sqrt(p), torch.linalg.matrix_exp(x / 2)) < tolerance
    assert off(spd_invsqrt(p), torch.linalg.matrix_exp(-x / 2)) < tolerance
    assert (spd_log(p) - x).abs().max() < tolerance
    sinhc = sym2.sinhc(torch.tensor(scale**2, dtype=torch.float64)).item()
    assert sinhc == pytest.approx(math.sinh(scale) / scale, rel=1e-14)


def test_symn_polar_equals_polar2(matrices):
    log_p, rotation, _ = polar2(matrices)
    log_n, rotation_n = symn.polar(matrices)
    assert off(rotation_n, rotation) < 1e-12
    torch.testing.assert_close(log_n, log_p, rtol=0, atol=1e-11)


def test_symn_in_three_dimensions():
    a = random_matrices(n=3)
    log_p, rotation = symn.polar(a)
    p = symn.sym_exp(log_p)
    assert off(p @ rotation, a) < 1e-12
    assert off(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand_as(rotation)) < 1e-13
    assert (torch.linalg.det(rotation) > 0).all()
    assert off(symn.spd_log(p), log_p) < 1e-11
    assert off(symn.spd_sqrt(p) @ symn.spd_sqrt(p), p) < 1e-12
    assert off(symn.spd_invsqrt(p) @ symn.spd_sqrt(p), torch.eye(3, dtype=torch.float64).expand_as(p)) < 1e-11


@pytest.mark.parametrize('size', [0.0, 1e-6, 0.09, 0.11, 1.0])
def test_sym2_gradients_at_equal_eigenvalues(size):
    """Those of an eigenvalue solver are NaN there."""
    direction = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)

    def symmetric(function):
        return lambda x: function((x + x.mT) / 2)

    x = (0.2 * EYE + size * direction).requires_grad_()
    assert torch.autograd.gradcheck(symmetric(sym_exp), x, atol=1e-7)
    p = sym_exp(x.detach()).requires_grad_()
    for function in (spd_log, spd_sqrt, spd_invsqrt):
        assert torch.autograd.gradcheck(symmetric(function), p, atol=1e-7)
    turned = (sym_exp(x.detach()) @ torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: polar2(a), turned, atol=1e-7)


def test_general_exp_equals_matrix_exp():
    x = torch.randn(500, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x[:50] *= 1e-4
    # One of each kind: real, repeated and complex eigenvalues.
    x[50:53] = torch.tensor([[[1, 0], [0, -1]], [[0, 1], [0, 0]], [[0, -1], [1, 0]]], dtype=torch.float64)
    assert off(sym2.general_exp(x), torch.linalg.matrix_exp(x)) < 1e-12


def test_general_log_inverts_general_exp():
    # If the rotation is below pi, the principal logarithm is the original matrix.
    x = torch.randn(500, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[:50] *= 1e-5
    assert off(sym2.general_log(sym2.general_exp(x)), x) < 1e-10
    half_turn = sym2.general_log(-2 * EYE)
    assert off(sym2.general_exp(half_turn), -2 * EYE) < 1e-15


def test_polar2_float32_accuracy(matrices):
    mild = matrices[torch.linalg.cond(matrices) < 30]
    log_p, rotation, _ = polar2(mild.float())
    # eps times the condition number, 1.2e-7 * 30.
    assert off((sym_exp(log_p) @ rotation).double(), mild) < 4e-6


@pytest.mark.parametrize(
    ('a', 'message'),
    [
        ([[1.0, 2.0], [2.0, 4.0]], 'is singular'),
        ([[0.0, 0.0], [0.0, 0.0]], 'is singular'),
        ([[0.0, 1.0], [1.0, 0.0]], 'has -1 and reflects'),
        ([[math.nan, 0.0], [0.0, 1.0]], 'NaN or infinity at index'),
        ([[math.inf, 0.0], [0.0, 1.0]], 'NaN or infinity at index'),
    ],
)
def test_polar2_invalid_matrices_raise(a, message):
    bad = torch.stack([torch.eye(2), torch.tensor(a)])
    for polar in (polar2, symn.polar, sym2.general_log):
        with pytest.raises(ValueError, match=message):
            polar(bad)


@pytest.mark.parametrize('function', [spd_log, spd_sqrt, spd_invsqrt, symn.spd_log])
def test_spd_functions_not_positive_definite_raises(function):
    with pytest.raises(ValueError, match=r'positive definite; the matrix at index \(1,\)'):
        function(torch.stack([torch.eye(2), -torch.eye(2)]))
    with pytest.raises(ValueError, match='must be symmetric'):
        function(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))


def test_sym2_bad_shapes_and_types_raise():
    with pytest.raises(ValueError, match=r'x must be \(..., 2, 2\), got \(3, 3\)'):
        sym_exp(torch.eye(3))
    with pytest.raises(TypeError, match='a must be a floating-point tensor, got torch.int64'):
        polar2(torch.eye(2).long())
    with pytest.raises(TypeError, match='got list'):
        polar2([[1.0, 0.0], [0.0, 1.0]])
    assert polar2(torch.empty(0, 2, 2))[0].shape == (0, 2, 2)


@pytest.mark.parametrize('a', [[[-2.0, 0.0], [0.0, -0.5]], [[-1.0, 1.0], [0.0, -1.0]]])
def test_general_log_without_real_logarithm_raises(a):
    with pytest.raises(ValueError, match='no real logarithm'):
        sym2.general_log(torch.tensor(a))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('module', [sym2, symn])
def test_symmetric_functions_compute_half_precision_in_float32(module, dtype):
    """The result is that of float32, rounded once."""
    p = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[9.0, -2.7], [-2.7, 0.9]]])
    polar = polar2 if module is sym2 else symn.polar
    for function in (module.sym_exp, module.spd_log, module.spd_sqrt, module.spd_invsqrt):
        assert function(p.to(dtype)).dtype == dtype
        assert torch.equal(function(p.to(dtype)), function(p.to(dtype).float()).to(dtype))
    for got, expected in zip(polar(p.to(dtype)), polar(p.to(dtype).float()), strict=True):
        assert torch.equal(got, expected.to(dtype))
