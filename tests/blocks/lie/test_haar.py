"""Haar measure: invariant integrals, densities, and distributions of the samplers."""

import math

import pytest
import torch
from scipy import integrate

from dinor1.blocks.lie import GROUPS, SO2, SO3, SPD2, GLp2, make_group, polar2
from dinor1.blocks.lie.rotations import angle2, sample_angles, sample_haar

TURN_25 = math.radians(25)
ELEMENTS = {
    'turn, scale, shear': 1.2
    * torch.tensor([[math.cos(TURN_25), -math.sin(TURN_25)], [math.sin(TURN_25), math.cos(TURN_25)]])
    @ torch.tensor([[1.0, 0.3], [0.0, 1.0]]),
    'unit shear': torch.tensor([[1.0, 1.0], [0.0, 1.0]]),
    'stretch': torch.diag(torch.tensor([1.5, 1 / 1.5])),
}


def bump(group, a, width=0.5):
    """``exp(-|log A A^T|^2 / (2 width^2)) (1 + cos(theta) / 2 + 0.3 sin(2 theta))``, localised on the group."""
    c = group.coords(a, check=False)
    value = (-group.log_spd_norm(c).square() / (2 * width**2)).exp()
    if group.n == 2 and group.rotations:
        theta = polar2(a)[2]
        value = value * (1 + 0.5 * theta.cos() + 0.3 * (2 * theta).sin())
    elif group.rotations:
        value = value * (2 + a[..., 0, 1] + a[..., 2, 2])
    return value


def change(group, h, weight, g):
    """Relative change of the integral of the bump under a shift by h."""
    before = (weight * bump(group, g)).sum()
    after = (weight * bump(group, h.to(g) @ g)).sum()
    return ((after - before) / before).abs().item()


@pytest.fixture(scope='module', params=['gl2', 'sl2'])
def draw(request):
    """200,000 elements with weights, drawn once."""
    group = make_group(request.param)
    samples = group.sample(
        200_000, torch.Generator().manual_seed(0), rot='uniform', spd_var=0.5, importance=True, dtype=torch.float64
    )
    return group, samples


@pytest.mark.parametrize('name', ELEMENTS)
def test_haar_weighted_integrals_are_invariant(draw, name):
    group, samples = draw
    h = ELEMENTS[name].double()
    if group.unimodular_on_R2:
        h = h / torch.linalg.det(h).sqrt()
    assert change(group, h, samples.weight, samples.g) < 0.04
    # The same sum without weights is not invariant, so the test can fail.
    assert change(group, h, torch.ones_like(samples.weight), samples.g) > 0.08
    if name != 'turn, scale, shear':
        # Neither is Lebesgue measure of log S, without the factor sinh(rho) / rho.
        v = samples.weight / group.haar_density(group.coords(samples.g))
        assert change(group, h, v, samples.g) > 0.04


@pytest.mark.parametrize('name', sorted(set(GROUPS) - {'gl2', 'sl2', 'so2', 'so3'}))
def test_haar_weighted_integrals_of_other_groups(name):
    group = make_group(name)
    options = {} if group.n == 3 or not group.rotations else dict(rot='uniform')
    samples = group.sample(
        20_000, torch.Generator().manual_seed(1), spd_var=0.5, importance=True, dtype=torch.float64, **options
    )
    v = torch.full((group.tangent_dim,), 0.25, dtype=torch.float64)
    h = group.exp(group.hat(v))
    assert change(group, h, samples.weight, samples.g) < 0.04
    assert change(group, h, torch.ones_like(samples.weight), samples.g) > 0.08


def test_haar_weights_give_value_of_integral():
    """``int exp(-|X|^2 / (2 t^2)) sinh(rho) / rho dX`` in polar coordinates of the traceless part, and a Gaussian."""
    width = 0.5
    # X = [[a, b], [b, -a]]: |X|^2 = 2 rho^2, and orthonormal coordinates are sqrt 2 (a, b), hence dX = 2 rho drho dphi.
    traceless, _ = integrate.quad(lambda r: 4 * math.pi * math.sinh(r) * math.exp(-(r**2) / width**2), 0, 20)
    for name, expected in (('sl2', traceless), ('gl2', traceless * math.sqrt(2 * math.pi) * width)):
        group = make_group(name)
        g, _, weight = group.sample(
            200_000, torch.Generator().manual_seed(2), spd_var=0.4, importance=True, dtype=torch.float64
        )
        value = (weight * (-group.log_spd_norm(group.coords(g)).square() / (2 * width**2)).exp()).sum().item()
        # The standard deviation of this estimate is below 0.3 %.
        assert value == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(('rot', 'bound'), [('equidistant', 1.0), ('equidistant', 0.5), ('cyclic', 1.0)])
def test_haar_weights_of_fixed_angles_give_integral(rot, bound):
    """``(1 / 2 pi) int (1 + cos t) dt`` over [-bound pi, bound pi]: ``bound + sin(bound pi) / pi``, with ten angles."""
    g, _, weight = SO2().sample(10, rot=rot, rot_bound=bound, importance=True, dtype=torch.float64)
    expected = bound + math.sin(bound * math.pi) / math.pi
    # The trapezoid rule is exact over the whole turn; over a part its error is (pi / 9)^2 / 12 of the integral
    # of cos, 0.32 %. Equal weights are off by 10 % and by 3.5 %.
    value = (weight * (1 + angle2(g).cos())).sum().item()
    assert value == pytest.approx(expected, rel=1e-12 if bound == 1 else 4e-3)
    assert weight.sum().item() == pytest.approx(bound, rel=1e-12)


def test_haar_weights_count_half_turn_once():
    """In the trapezoid rule over the whole turn all nine rotations have equal weights; scalings have no ends."""
    g, _, weight = SO2().sample(10, importance=True, dtype=torch.float64)
    half = g[:, 0, 0] < -1 + 1e-9
    assert half.sum() == 2
    assert weight[half].sum().item() == pytest.approx(1 / 9, rel=1e-12)
    torch.testing.assert_close(weight[~half], torch.full((8,), 1 / 9, dtype=torch.float64))
    scale = make_group('scale2')
    weights = [
        scale.sample(4, torch.Generator().manual_seed(0), rot=rot, importance=True).weight for rot in (None, 'uniform')
    ]
    assert torch.equal(*weights)


def test_haar_weighted_sum_error_falls_as_root_of_samples():
    group = GLp2()
    generator = torch.Generator().manual_seed(3)

    def spread(n, repeats=200):
        g, _, weight = group.sample(
            n * repeats, generator, rot='uniform', spd_var=0.3, importance=True, dtype=torch.float64
        )
        sums = (weight * bump(group, g, 0.4)).view(repeats, n).sum(1) * repeats
        return (sums.std() / sums.mean()).item()

    # 200 repetitions determine a standard deviation to 5 %; sqrt(16) = 4.
    assert spread(100) / spread(1600) == pytest.approx(4.0, rel=0.2)


def test_spd_density_is_invariant_in_three_dimensions():
    """For the map S -> h S h^T in the chart log S: density times Jacobian, by finite differences."""
    spd = make_group('gl3').spd
    generator = torch.Generator().manual_seed(4)
    v = 0.7 * torch.randn(6, generator=generator, dtype=torch.float64)
    h = torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=generator, dtype=torch.float64)

    def move(v):
        return spd.vee(spd.log(h @ spd.exp(spd.hat(v)) @ h.mT))

    steps = 1e-5 * torch.eye(6, dtype=torch.float64)
    jacobian = torch.stack([(move(v + s) - move(v - s)) / 2e-5 for s in steps])
    ratio = spd.haar_density(v) / (spd.haar_density(move(v)) * torch.linalg.det(jacobian).abs())
    assert ratio.item() == pytest.approx(1.0, abs=1e-7)


def test_spd_tangent_draws_have_given_variance():
    spd = SPD2()
    v = spd.sample_tangent(50_000, 0.1, torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(v.var(0), torch.full((3,), 0.1, dtype=torch.float64), rtol=0.03, atol=0)
    # The variance is that of log S; log P has a quarter of it.
    g = GLp2().sample(50_000, torch.Generator().manual_seed(5), dtype=torch.float64).g
    assert GLp2().coords(g)[:, 0].var().item() == pytest.approx(0.025, rel=0.03)
    # The density in the weights has integral 1 over a grid.
    axis = torch.linspace(-2, 2, 41, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing='ij'), -1)
    assert spd.normal_density(grid, 0.1).sum().item() * 0.1**3 == pytest.approx(1.0, abs=1e-4)


def test_sample_angles_spreads():
    published = sample_angles(5, 'equidistant', 1.0, None, dtype=torch.float64)
    torch.testing.assert_close(published, math.pi * torch.tensor([-1, -0.5, 0, 0.5, 1], dtype=torch.float64))
    cyclic = sample_angles(4, 'cyclic', 1.0, None, dtype=torch.float64)
    torch.testing.assert_close(cyclic, math.pi * torch.tensor([0, 0.5, 1, 1.5], dtype=torch.float64))
    assert sample_angles(7, 'equidistant', 0.1, None).abs().max().item() == pytest.approx(0.1 * math.pi)
    drawn = sample_angles(10_000, 'uniform', 0.5, torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 0.5 * math.pi
    assert drawn.var().item() == pytest.approx((0.5 * math.pi) ** 2 / 3, rel=0.05)


@pytest.mark.parametrize('dim', [2, 3])
def test_sample_haar_is_uniform(dim):
    r = sample_haar(40_000, dim, torch.Generator().manual_seed(6), dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(40_000, dtype=torch.float64))
    # Schur's orthogonality relations: mean 0, and entries with covariance I / dim. The standard error of the means is 1
    # / 200.
    flat = r.flatten(1)
    assert flat.mean(0).abs().max() < 0.02
    covariance = flat.T @ flat / len(flat)
    expected = torch.eye(dim * dim, dtype=torch.float64) / dim
    if dim == 2:  # entries in the plane are pairs: R00 = R11, R01 = -R10
        expected = torch.tensor([[1, 0, 0, 1], [0, 1, -1, 0], [0, -1, 1, 0], [1, 0, 0, 1]], dtype=torch.float64) / 2
        histogram = angle2(r).histc(8, -math.pi, math.pi) / len(r)
        assert (histogram - 1 / 8).abs().max() < 0.01
    assert (covariance - expected).abs().max() < 0.02
    if dim == 3:
        SO3().validate(r)


@pytest.mark.parametrize('name', ['gl2', 'sl2', 'so2', 'sim2', 'scale2'])
def test_sobol_samples_have_same_distribution_and_less_noise(name):
    """Compare means of smooth functions over 64 samples (50 draws) with those over 100,000 independent samples."""
    group = make_group(name)
    options = dict(rot_bound=0.5, spd_var=0.1, dtype=torch.float64) if group.rotations else dict(dtype=torch.float64)

    def mean(rot, n, seed):
        c = group.coords(group.sample(n, torch.Generator().manual_seed(seed), rot=rot, **options).g, check=False)
        return (c + 0.3).cos().mean(0)

    exact = mean('uniform', 100_000, 0)
    errors = {rot: torch.stack([mean(rot, 64, seed) for seed in range(50)]) - exact for rot in ('uniform', 'sobol')}
    # Coordinates in [0, 2 pi) have a standard deviation of about 0.7, so means over 100,000 have 0.002.
    assert errors['sobol'].mean(0).abs().max() < 0.01
    assert (errors['sobol'].square().mean(0) < 0.3 * errors['uniform'].square().mean(0)).all()
