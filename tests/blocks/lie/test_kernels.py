"""Kernels: published initial values, properties of the spline, equivariance with both kinds."""

import math

import pytest
import torch
import torch.nn.functional as F

from dinor1.blocks.lie import GLp2, GroupConv2d, LiftingConv2d, SirenKernel, SplineKernel, window
from dinor1.blocks.lie.kernels import cubic_spline


def test_siren_kernel_initial_values():
    torch.manual_seed(0)
    kernel = SirenKernel(6, 3, 50, 5, hidden=60, w0=10.0)
    first, second, third = kernel.sines
    bounds = {
        first.weight: 1 / 6,
        first.bias: 1 / math.sqrt(6),
        second.weight: math.sqrt(6 / 60) / 10,
        third.weight: math.sqrt(6 / 60) / 10,
        kernel.final.weight: math.sqrt(6 / 60) / math.sqrt(3 * 25),
    }
    for parameter, bound in bounds.items():
        # The largest of at least 60 uniform numbers.
        assert 0.8 * bound < parameter.abs().max() <= bound
    for zero in (second.bias, third.bias, kernel.final.bias):
        assert not zero.any()


def test_siren_kernel_equals_formula():
    kernel = SirenKernel(2, 2, 3, 3, hidden=4, n_hidden=1, w0=7.0).double()
    z = torch.randn(5, 2, dtype=torch.float64)
    first, second = kernel.sines
    h = torch.sin(7 * F.linear(z, first.weight, first.bias))
    h = torch.sin(7 * F.linear(h, second.weight, second.bias))
    torch.testing.assert_close(kernel(z), F.linear(h, kernel.final.weight, kernel.final.bias))


def test_cubic_spline_properties():
    t = torch.linspace(-2.5, 2.5, 501, dtype=torch.float64)
    # Values at the knots, partition of unity, support.
    at_knots = cubic_spline(torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(at_knots, torch.tensor([2 / 3, 1 / 6, 1 / 6, 0], dtype=torch.float64))
    total = sum(cubic_spline(t + shift) for shift in range(-5, 6))
    torch.testing.assert_close(total, torch.ones_like(t))
    assert not cubic_spline(t)[t.abs() >= 2].any()
    # The second derivative is continuous: differences of neighbours stay of the order of the step, 0.01.
    second = cubic_spline(t).diff(n=2) / 0.01**2
    assert second.diff().abs().max() < 0.05


def test_spline_kernel_is_linear_and_equals_formula():
    kernel = SplineKernel(4, 2, 3, knots=3, width=0.7).double()
    z = torch.randn(5, 4, dtype=torch.float64)
    knots = window(3, torch.float64)
    expected = torch.zeros(5, 6, dtype=torch.float64)
    weight = kernel.weight.view(6, 3, 3, 3)
    bell = (-(z[:, 2:] / 0.7).square().sum(1) / 2).exp()
    group = [bell, bell * z[:, 2] / 0.7, bell * z[:, 3] / 0.7]
    for iy in range(3):
        for ix in range(3):
            at = (z[:, :2] - knots[iy, ix]) * 1.5
            value = cubic_spline(at[:, 0]) * cubic_spline(at[:, 1])
            for m in range(3):
                expected += (value * group[m])[:, None] * weight[:, iy, ix, m]
    torch.testing.assert_close(kernel(z), expected)


def test_spline_kernel_interpolates_ordinary_kernel():
    """At its own knots, with weights of the interpolating spline, it reproduces any 3 x 3 kernel."""
    kernel = SplineKernel(2, 1, 1, knots=3).double()
    target = torch.randn(9, dtype=torch.float64)
    grid = window(3, torch.float64).flatten(0, 1)
    with torch.no_grad():
        columns = []
        for i in range(9):
            kernel.weight.zero_()
            kernel.weight[0, i] = 1
            columns.append(kernel(grid)[:, 0])
        kernel.weight[0] = torch.linalg.solve(torch.stack(columns, 1), target)
    torch.testing.assert_close(kernel(grid)[:, 0], target)


@pytest.mark.parametrize('kind', [LiftingConv2d, GroupConv2d])
def test_conv_with_spline_kernel_is_equivariant(kind):
    torch.manual_seed(0)
    kernel = dict(kind='spline', mask='bump', support_radius=0.8)
    layer = kind(GLp2(angle='cos_sin'), 1, 2, 7, kernel=kernel)
    # Interpolation of the images has errors of 1 to 2 %.
    assert max(layer.check_equivariance(num_images=1, num_samples=4).values()) < 0.03


def test_spline_kernel_is_centred_at_identity_for_every_angle_encoding():
    """A network reads raw coordinates; a spline reads offsets, so that its Gaussian is centred at the identity of H."""
    for angle in ('minus_pi_pi', 'cos_sin'):
        layer = GroupConv2d(GLp2(angle=angle), 1, 1, 1, kernel=dict(kind='spline', mask=None))
        layer.net.weight.data.zero_()
        layer.net.weight.data[0, 0 :: layer.net.num_group] = 1
        g, g_inv, _ = GLp2().sample(5, torch.Generator().manual_seed(0), rot='cyclic')
        kernel = layer.kernel(g, g_inv)[0, :, 0, :, 0, 0]
        assert torch.equal(kernel.argmax(1), torch.arange(5))


def test_kernels_bad_arguments_raise():
    with pytest.raises(ValueError, match='knots must be at least 1 and width positive, got 0 and 0.5'):
        SplineKernel(2, 1, 1, knots=0)
    with pytest.raises(ValueError, match="kind of kernel must be 'siren' or 'spline', got 'wire'"):
        LiftingConv2d(GLp2(), 1, 1, kind='wire')
