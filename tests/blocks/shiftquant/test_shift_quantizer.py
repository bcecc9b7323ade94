"""ShiftQuantizer: the definition in float64, unbiasedness, variance of the specification, unusual numbers."""

import math

import numpy as np
import pytest
import torch

from dinor1.blocks.shiftquant import ShiftQuantizer
from dinor1.utils.errors import InputError


def heavy_tailed():
    """Tensor of the specification: 1024 x 256, Student's t with log-normal ranges of channels."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(3, size=(1024, 256)) * np.exp(1.5 * rng.standard_normal(256)) * 1e-4
    return torch.from_numpy(x)


def definition(x, bits, groups):
    """Shifts and steps from exact comparisons in numpy, channel by channel."""
    top = 2 ** (bits - 1) - 1
    ranges = x.abs().amax(0).numpy()
    peak = ranges.max()
    group = np.array([sum(r <= np.ldexp(peak, -k) for k in range(1, groups)) for r in ranges])
    return groups - 1 - group, peak / top * np.ldexp(1.0, -group)


def variance(x, step):
    """Variance of stochastic rounding: d^2 f (1 - f)."""
    fraction = (x / step) % 1
    return (step**2 * fraction * (1 - fraction)).sum().item()


# Definition ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('groups', [None, 1])
@pytest.mark.parametrize('shape', [(0, 3), (3, 0), (0,)])
def test_shift_quantizer_empty_tensors(shape, groups):
    result = ShiftQuantizer(4, groups)(torch.zeros(shape))
    assert result.q.shape == shape
    assert result.shift.shape == shape[-1:]
    assert result.dequantize().shape == shape
    assert ShiftQuantizer(4, 'channel').fake(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize(('bits', 'groups'), [(4, 4), (6, 3), (8, 1), (3, 6), (2, 7), (4, 12)])
def test_shift_quantizer_equals_definition(bits, groups):
    x = heavy_tailed()
    result = ShiftQuantizer(bits, groups, rounding='nearest')(x)
    shift, step = definition(x, bits, groups)
    assert result.q.dtype == torch.int8
    assert result.shift.dtype == torch.uint8
    assert result.scale.shape == ()
    assert (result.shift.numpy() == shift).all()
    assert len(set(shift)) == min(groups, len(set(shift)))
    # One product in float64.
    torch.testing.assert_close(result.factor(), torch.from_numpy(step), rtol=1e-15, atol=0)
    # The reciprocal of a step has one rounding more than a division: one tie in a million differs.
    assert (result.q != (x / torch.from_numpy(step)).round()).float().mean() < 1e-5
    assert result.q.abs().max() == result.top == 2 ** (bits - 1) - 1
    torch.testing.assert_close(result.dequantize(), result.q * torch.from_numpy(step), rtol=1e-15, atol=0)
    if result.fits_int8:
        assert (result.preshifted() == result.q.int() << result.shift.int()).all()
    else:
        with pytest.raises(ValueError, match='do not fit int8'):
            result.preshifted()


def test_shift_quantizer_groups_of_powers_of_two():
    """R is in group 0, R / 2 in group 1, anything above R / 2 in group 0; a zero channel is in the last group."""
    x = torch.tensor([[3.0, 1.5, math.nextafter(1.5, 2), 0.75, 0.1, 0.0]], dtype=torch.float64)
    assert ShiftQuantizer(4, 4)(x).shift.tolist() == [3, 2, 3, 1, 0, 0]
    assert ShiftQuantizer(4, 4)(x.float()).shift.tolist() == [3, 2, 2, 1, 0, 0]  # nextafter is lost in float32


def test_shift_quantizer_ignores_axis_and_blocks():
    x = torch.randn(5, 7, 300, 40)  # more numbers than one block has
    last = ShiftQuantizer(4, dim=-1, rounding='nearest')(x * torch.logspace(-3, 0, 40))
    first = ShiftQuantizer(4, dim=0, rounding='nearest')((x * torch.logspace(-3, 0, 40)).movedim(-1, 0))
    assert torch.equal(last.q.movedim(-1, 0), first.q)
    assert torch.equal(last.shift, first.shift)


def test_shift_quantizer_keeps_integers():
    """Noise must not change a number that is on the grid."""
    x = torch.arange(-127, 128).float().repeat(2000, 1)
    assert (ShiftQuantizer(8, 1)(x).q == x).all()


def test_shift_quantizer_generator_determines_noise():
    x = torch.randn(50, 20)
    draws = [ShiftQuantizer(4)(x, torch.Generator().manual_seed(seed)).q for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# Statistics ------------------------------------------------------------------------------------------------


def test_shift_quantizer_is_unbiased():
    """4,000 draws: z-scores of 16,384 elements, and the closed-form variance."""
    x = heavy_tailed()[:64].float()
    quantizer = ShiftQuantizer(4, 4, generator=torch.Generator().manual_seed(0))
    # Rows are drawn independently: 4,000 copies in batches are 4,000 draws.
    draws, batch = 4000, 100
    total, squares = torch.zeros(64, 256, dtype=torch.float64), torch.zeros(64, 256, dtype=torch.float64)
    for _ in range(draws // batch):
        result = quantizer(x.repeat(batch, 1))
        assert result.q.abs().max() <= result.top
        error = (result.dequantize() - x.repeat(batch, 1)).double().view(batch, 64, 256)
        total += error.sum(0)
        squares += error.square().sum(0)
    fraction = (x.double() / result.factor().double()) % 1
    expected = result.factor().double() ** 2 * fraction * (1 - fraction)
    # Elements whose rarer outcome is expected fewer than 40 times are not Gaussian.
    usual = (fraction > 0.01) & (fraction < 0.99)
    z = (total / draws / (expected / draws).sqrt())[usual]
    assert z.numel() > 9_000
    assert abs(z.mean()) < 4 / math.sqrt(z.numel())
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * z.numel()) + 0.01
    # 4 standard errors per element, increased to 6 for the maximum of 16,384.
    assert z.abs().max() < 6
    assert (squares / draws).sum() / expected.sum() == pytest.approx(1, abs=0.01)
    # The other elements together: those that are nearly always zero have the right mean too.
    assert abs(total[~usual].sum() / (draws * expected[~usual].sum()).sqrt()) < 4


# Specification 6.2: variance relative to one scale per tensor, and relative to one scale per channel.
RATIOS = {
    4: {1: (1, 8.461), 2: (0.5153, 4.360), 3: (0.2956, 2.501), 4: (0.2095, 1.773), 5: (0.1786, 1.511)},
    6: {1: (1, 25.005), 2: (0.4192, 10.483), 3: (0.1813, 4.533), 4: (0.0983, 2.458), 5: (0.0719, 1.797)},
    8: {1: (1, 57.171), 2: (0.3441, 19.672), 3: (0.1200, 6.862), 4: (0.0519, 2.965), 5: (0.0329, 1.883)},
}
RATIOS[4] |= {6: (0.1694, 1.433), 8: (0.1665, 1.409)}
RATIOS[6] |= {6: (0.0646, 1.615), 8: (0.0625, 1.563)}
RATIOS[8] |= {6: (0.0283, 1.617), 8: (0.0271, 1.549)}
# Sum of step^2 relative to the best grouping into as many groups (dynamic programming).
OVER_OPTIMAL = {1: 1.000, 2: 5.188, 3: 3.688, 4: 1.764, 5: 1.334, 6: 1.249, 8: 1.386}


@pytest.mark.parametrize('bits', RATIOS)
def test_shift_quantizer_variance_equals_specification(bits):
    x = heavy_tailed()
    top = 2 ** (bits - 1) - 1
    ranges = x.abs().amax(0)
    per_tensor, per_channel = variance(x, ranges.max() / top), variance(x, ranges / top)
    last = math.inf
    for groups, (over_tensor, over_channel) in RATIOS[bits].items():
        ours = variance(x, ShiftQuantizer(bits, groups)(x).factor())
        assert ours / per_tensor == pytest.approx(over_tensor, rel=0.01)
        assert ours / per_channel == pytest.approx(over_channel, rel=0.01)
        assert ours < last
        last = ours


def optimal_bound(ranges, groups):
    """Least sum of N_k R_k^2 over contiguous groups of the sorted ranges, by dynamic programming."""
    r = np.sort(ranges)[::-1]
    count = len(r)
    best = np.concatenate([[0.0], np.full(count, np.inf)])
    for _ in range(groups):
        # best[j]: least sum for the first j channels; the next group begins at i and has the range r[i].
        best = np.array([0.0] + [min(best[i] + (j - i) * r[i] ** 2 for i in range(j)) for j in range(1, count + 1)])
    return best[-1]


@pytest.mark.parametrize('groups', OVER_OPTIMAL)
def test_shift_quantizer_bound_against_optimal_grouping(groups):
    x = heavy_tailed()
    ranges = x.abs().amax(0)
    bound = ShiftQuantizer(4, groups)(x).factor().square().sum().item() * 7**2
    assert bound / optimal_bound(ranges.numpy(), groups) == pytest.approx(OVER_OPTIMAL[groups], rel=0.01)
    # Below 4 times the sum for one step per channel, except for channels below the last group's range.
    in_last = (ranges <= ranges.max() * 2.0 ** -(groups - 1)).sum() * (ranges.max() * 2.0 ** -(groups - 1)) ** 2
    assert bound < 4 * ranges.square().sum() + in_last


def test_shift_quantizer_power_of_two_ranges_equal_step_per_channel():
    x = torch.rand(100, 4, dtype=torch.float64) * 2 - 1
    x[0] = 1
    x = x * torch.tensor([1, 0.5, 0.25, 0.125]) * 0.7
    torch.testing.assert_close(ShiftQuantizer(4, 4)(x).factor(), x.abs().amax(0) / 7, rtol=1e-15, atol=0)


def test_shift_quantizer_step_per_channel_has_fake_only():
    x = heavy_tailed()
    fake = ShiftQuantizer(4, 'channel', rounding='nearest').fake(x)
    step = x.abs().amax(0) / 7
    torch.testing.assert_close(fake, (x / step).round() * step, rtol=1e-12, atol=0)
    with pytest.raises(InputError, match='fake'):
        ShiftQuantizer(4, 'channel')(x)


# Unusual numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('rounding', ['stochastic', 'nearest'])
def test_shift_quantizer_keeps_zeros(groups, rounding):
    result = ShiftQuantizer(4, groups, rounding=rounding)(torch.zeros(5, 3))
    assert not result.q.any()
    assert result.scale == 1
    assert not result.dequantize().any()
    x = torch.randn(5, 3)
    x[:, 1] = 0
    assert not ShiftQuantizer(4, groups, rounding=rounding)(x).q[:, 1].any()


@pytest.mark.parametrize('groups', [1, 4, 'channel'])
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_shift_quantizer_propagates_nan_and_infinity(groups, bad):
    x = torch.ones(5, 3)
    x[2, 1] = bad
    fake = ShiftQuantizer(4, groups).fake(x)
    assert fake[2, 1].isnan()
    assert groups == 'channel' or fake.isnan().all()


@pytest.mark.parametrize(('dtype', 'tiny'), [(torch.float32, 1e-45), (torch.float32, 1e-39), (torch.float64, 5e-324)])
@pytest.mark.parametrize('groups', [1, 4])
def test_shift_quantizer_denormal_tensors_are_finite_and_unbiased(dtype, tiny, groups):
    x = torch.full((20_000, 2), tiny, dtype=dtype) * torch.tensor([1, 3], dtype=dtype)
    fake = ShiftQuantizer(4, groups).fake(x)
    assert fake.isfinite().all()
    assert (fake >= 0).all()
    if tiny == 1e-39:  # smaller numbers are below the resolution of 16 bits of noise
        mean, error = fake.double().mean(0), fake.double().std(0) / math.sqrt(20_000)
        assert ((mean - x[0].double()).abs() < 4 * error).all()


def test_shift_quantizer_denormal_channel_beside_others():
    x = torch.randn(100, 2)
    x[:, 1] = 1e-44
    result = ShiftQuantizer(4)(x)
    assert result.dequantize().isfinite().all()
    assert result.shift.tolist() == [3, 0]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_shift_quantizer_computes_halves_in_float32(dtype):
    x = (torch.randn(30, 8) * 1e-4).to(dtype)
    result, same = (ShiftQuantizer(4, rounding='nearest')(values) for values in (x, x.float()))
    assert result.scale.dtype == torch.float32
    assert torch.equal(result.q, same.q)


@pytest.mark.parametrize('peak', [3e38, 65504.0, 1.7e-35])
def test_shift_quantizer_codes_never_exceed_top(peak):
    for bits in range(2, 9):
        x = torch.full((4000, 3), peak)
        assert ShiftQuantizer(bits, 1)(x).q.abs().max() == 2 ** (bits - 1) - 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(bits=1), 'bits must be a whole number from 2 to 8, got 1'),
        (dict(bits=9), 'got 9'),
        (dict(bits=4.0), 'got 4.0'),
        (dict(groups=0), 'groups must be'),
        (dict(groups='row'), "got 'row'"),
        (dict(rounding='up'), "rounding must be 'stochastic' or 'nearest'"),
    ],
)
def test_shift_quantizer_bad_settings_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        ShiftQuantizer(**arguments)


@pytest.mark.parametrize(
    ('x', 'dim'), [(torch.zeros(3, dtype=torch.int32), -1), (torch.zeros(3), 1), (torch.tensor(1.0), 0)]
)
def test_shift_quantizer_bad_tensors_raise(x, dim):
    with pytest.raises(InputError, match='floating-point tensor with an axis'):
        ShiftQuantizer(dim=dim)(x)
