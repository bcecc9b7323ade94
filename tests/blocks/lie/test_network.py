"""The classifier: size, exact equivariance, Monte Carlo error, options, errors, and training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dinor1.blocks.lie import (
    SL2,
    AffineEquivariantNet,
    GroupSamples,
    NetworkSamples,
    PlainConvNet,
    make_group,
    smooth_images,
    standard_elements,
)
from dinor1.utils.errors import InputError

QUARTER = torch.tensor([[0.0, -1.0], [1.0, 0.0]])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def small(group='sl2', **options):
    torch.manual_seed(0)
    options = dict(width=4, n_samples=4, head=16, seed=0) | options
    options['kernel'] = dict(hidden=8) | options.get('kernel', {})
    return AffineEquivariantNet(group, **options).eval()


def test_network_default_sizes_are_published():
    sl2, gl2 = AffineEquivariantNet('sl2'), AffineEquivariantNet('gl2')
    assert (parameters(sl2), parameters(gl2)) == (339_102, 339_282)
    assert parameters(sl2.stem) == 9_940
    assert parameters(sl2.head) == 13_322
    # The plain network has nearly the same size: 0.3 % away, and no other width is closer.
    sizes = {width: abs(parameters(PlainConvNet(width=width)) - 339_102) for width in (64, 65, 66)}
    assert min(sizes, key=sizes.get) == 65
    assert sizes[65] < 0.003 * 339_102


@pytest.mark.parametrize(
    ('group', 'options'),
    [
        ('sl2', {}),
        ('gl2', {}),
        ('gl2', dict(sampling=dict(mixing='none'))),
        ('gl2', dict(sampling=dict(mixing='last'), pool='mean')),
    ],
)
def test_network_quarter_turns_are_exact_with_transported_samples(group, options):
    """All layers before pooling in float32; measured errors are 3e-7 to 7e-6."""
    net = small(group, **options)
    x, samples = torch.randn(2, 1, 40, 40), net.draw()
    moved = samples.transport(QUARTER)
    with torch.no_grad():
        expected, got = net.features(x, samples), net.features(x.rot90(-1, (2, 3)), moved)
        assert (got - expected.rot90(-1, (3, 4))).norm() < 1e-4 * expected.norm()
        pooled = net.pooled(x, samples)
        assert (net.pooled(x.rot90(-1, (2, 3)), moved) - pooled).norm() < 1e-5 * pooled.norm()
        # Turned the other way it fails, so the test also covers the sign conventions.
        wrong = net.features(x.rot90(1, (2, 3)), moved)
        assert (wrong - expected.rot90(1, (3, 4))).norm() > 0.3 * expected.norm()


def test_network_error_falls_with_number_of_samples():
    """Independent samples on both sides; 20 repetitions determine a mean to about 10 %."""
    rows = {}
    elements = {'identity': torch.eye(2), 'rotation 20': standard_elements(SL2())['rotation 20']}
    for n_samples in (5, 40):
        net = small(layers=dict(k=3), stem=dict(k=5), n_samples=n_samples)
        rows[n_samples] = net.check_equivariance(elements, transport=False, size=18, num_images=1, repeats=20)
    assert rows[5]['rotation 20'] > 1.5 * rows[40]['rotation 20']
    assert rows[5]['identity'] > 1.5 * rows[40]['identity']
    assert rows[40]['identity'] > 0.5 * rows[40]['rotation 20']


def test_network_transported_samples_give_smaller_error():
    kernel = dict(w0=3.0, mask='bump', support_radius=0.7)
    net = small('gl2', stem=dict(k=9), layers=dict(k=3, norm='batch'), kernel=kernel)
    moved = net.check_equivariance(size=32, num_images=1)
    apart = net.check_equivariance(size=32, num_images=1, transport=False)
    assert moved['rotation 90'] < 1e-5
    assert all(moved[name] < apart[name] for name in moved)


@pytest.mark.parametrize(
    'options',
    [
        dict(width=(3, 4), depth=2),
        dict(depth=3),
        dict(group=dict(name='sl2', angle='cos_sin'), layers=dict(norm='batch'), sampling=dict(shared=True)),
        dict(stem=dict(k=9, stride=2, padding=1), layers=dict(k=3, padding_mode='replicate')),
        dict(kernel=dict(group_width=0.4), sampling=dict(importance=True, spd_var=0.1)),
        dict(kernel=dict(mask=None), sampling=dict(rot='cyclic')),
        dict(group=dict(name='gl2', angle='minus_pi_pi'), kernel=dict(kind='spline', knots=3)),
        dict(num_classes=None),
        dict(kernel=dict(group_width=0.5), sampling=dict(mixing='last'), width=(3, 4)),
        dict(
            group='gl2',
            layers=dict(norm='batch'),
            kernel=dict(kind='spline'),
            sampling=dict(mixing='none'),
            pool='mean',
        ),
        dict(group='so2', in_channels=3),
        dict(group='scale2'),
        dict(group='sim2', resample='never'),
    ],
)
def test_network_options_give_finite_logits_and_gradients(options):
    net = small(**options).train()
    x = torch.randn(2, net.stem.in_channels, 40, 40)
    out = net(x)
    assert out.shape == (2, 4 if options.get('num_classes', 10) is None else 10)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_network_resample_sets_when_samples_change():
    x = torch.randn(1, 1, 32, 32)
    for mode, changes in (('always', True), ('never', False), ('train', False)):
        net = small(resample=mode, layers=dict(k=3))
        with torch.no_grad():
            assert torch.equal(net(x), net(x)) != changes
    given = net.draw()
    assert isinstance(given, NetworkSamples)
    assert not torch.equal(given.first.g, given.last.g)
    shared = small(sampling=dict(shared=True)).draw()
    assert shared.first is shared.last


def test_network_without_mixing_treats_samples_independently():
    """Features of a set of samples equal those of its members, and the pooled features those of pooled members."""
    apart, batch_norm = dict(mixing='none'), dict(norm='batch')
    net = small(sampling=apart, layers=batch_norm, n_samples=5)
    x, (samples, _) = torch.randn(2, 1, 32, 32), net.draw()
    with torch.no_grad():
        together = net.features(x, NetworkSamples(samples, samples))
        for i in range(5):
            one = GroupSamples(*(tensor[i : i + 1] for tensor in samples))
            alone = net.features(x, NetworkSamples(one, one))
            torch.testing.assert_close(together[:, :, i : i + 1], alone, rtol=1e-4, atol=1e-5)
        mixed = small(layers=batch_norm, n_samples=5)
        one = GroupSamples(*(tensor[:1] for tensor in samples))
        part = mixed.features(x, NetworkSamples(one, one))
        assert not torch.allclose(mixed.features(x, NetworkSamples(samples, samples))[:, :, :1], part, atol=1e-2)
    pooled = small(sampling=apart, layers=batch_norm, n_samples=5, pool='mean').pooled(x)
    torch.testing.assert_close(pooled, together.amax((3, 4)).mean(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['siren', 'spline', 'plain'])
def test_network_learns_patterns(kind):
    """Four patterns with noise: the loss falls by half within 30 steps."""
    # Four patterns, repeated with noise.
    labels = torch.arange(4).repeat(4)
    x = smooth_images(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    x = x + 0.1 * torch.randn(16, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    net = (
        PlainConvNet(width=4, layers=dict(k=3), num_classes=4, dropout=0.0)
        if kind == 'plain'
        else small(
            dict(name='sl2', angle='cos_sin'),
            resample='never',
            num_classes=4,
            layers=dict(k=3, norm='batch'),
            kernel=dict(kind=kind),
            dropout=0.0,
        )
    )
    optimizer = torch.optim.Adam(net.train().parameters(), lr=5e-3)
    # Train for 30 steps.
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(layers=dict(norm='batch'), depth=3),
        dict(stem=dict(stride=2, padding=2), layers=dict(padding_mode='replicate')),
    ],
)
def test_plain_network_is_shift_equivariant(options):
    layers = dict(k=3) | options.get('layers', {})
    net = PlainConvNet(**dict(width=4, head=8) | options | dict(layers=layers))
    assert net(torch.randn(2, 1, 24, 24)).shape == (2, 10)
    # Without a border, features are equivariant under shifts, and so the logits do not change.
    blank = torch.zeros(1, 1, 40, 40)
    moved = blank.clone()
    blank[..., 16:20, 16:20] = 1
    moved[..., 20:24, 12:16] = 1
    if not options:
        torch.testing.assert_close(net.eval()(blank), net(moved), rtol=1e-4, atol=1e-4)


def test_network_bad_arguments_raise():
    net = small()
    with pytest.raises(ValueError, match='images must be at least 14 pixels on either side, got 13 x 40'):
        net(torch.zeros(1, 1, 13, 40))
    assert net(torch.zeros(1, 1, 14, 14)).shape == (1, 10)
    with pytest.raises(ValueError, match=r'LiftingConv2d takes \(B, C, H, W\)'):
        net(torch.zeros(1, 40, 40))
    with pytest.raises(ValueError, match='images need a group of the plane, one of so2, scale2, sim2, gl2, sl2; got'):
        AffineEquivariantNet('sl3')
    with pytest.raises(ValueError, match='images need a group of the plane, got SL3'):
        AffineEquivariantNet(make_group('sl3'))
    with pytest.raises(ValueError, match='width must be one number or 3, one per depth'):
        AffineEquivariantNet(width=(4, 4), depth=3)
    with pytest.raises(ValueError, match='importance needs group_width below'):
        AffineEquivariantNet(sampling=dict(importance=True))
    with pytest.raises(ValueError, match="norm must be 'layer' or 'batch', got 'group'"):
        AffineEquivariantNet(layers=dict(norm='group'))
    with pytest.raises(ValueError, match="mixing must be 'all', 'last' or 'none', got 'first'"):
        AffineEquivariantNet(sampling=dict(mixing='first'))
    with pytest.raises(ValueError, match="mixing='none' has no sums over samples"):
        AffineEquivariantNet(kernel=dict(group_width=0.5), sampling=dict(mixing='none'))
    with pytest.raises(ValueError, match="n_test needs mixing='none'"):
        AffineEquivariantNet(sampling=dict(n_test=16))
    with pytest.raises(ValueError, match="pool must be 'max' or 'mean', got 'sum'"):
        AffineEquivariantNet(pool='sum')
    with pytest.raises(ValueError, match="norm must be 'layer' or 'batch', got 'group'"):
        PlainConvNet(layers=dict(norm='group'))
    with pytest.raises(ValueError, match='odd window'):
        PlainConvNet(layers=dict(k=4))
    with pytest.raises(InputError, match="layers: unknown key 'kk'; did you mean 'k'"):
        PlainConvNet(layers=dict(kk=3))
    with pytest.raises(InputError, match="sampling: unknown key 'rotation_bound'; did you mean 'rot_bound'"):
        AffineEquivariantNet(sampling=dict(rotation_bound=0.2))
    with pytest.raises(ValueError, match='images need a group of the plane, .*got None'):
        AffineEquivariantNet(dict(angle='cos_sin'))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize(
    'options',
    [
        dict(group='gl2', kernel=dict(group_width=0.4), sampling=dict(importance=True)),
        dict(group='sl2', sampling=dict(mixing='none')),
        dict(kernel=dict(kind='spline')),
    ],
)
def test_network_other_number_formats(options, dtype, tolerance):
    """Samples are the same float32 numbers, so that only the rounding of ten layers remains."""
    net = small(n_samples=3, **options)
    x = torch.randn(2, 1, 24, 24)
    with torch.no_grad():
        expected = net(x)
        net.first_sampler.reseed(0)
        if not net.share_samples:
            net.last_sampler.reseed(0)
        y = net.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert (y.double() - expected).abs().max() < tolerance * expected.abs().max()
    assert net.first_sampler().g.dtype == torch.float32


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_network_trains_in_other_number_formats(dtype):
    net = AffineEquivariantNet('gl2', width=4, n_samples=2, seed=0, dropout=0.0, kernel=dict(hidden=8)).to(dtype)
    net(torch.randn(2, 1, 24, 24, dtype=dtype)).square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_check_equivariance_rejects_half_precision(dtype):
    net = AffineEquivariantNet('gl2', width=4, n_samples=2, seed=0, kernel=dict(hidden=8)).to(dtype)
    for module in (net, net.stem):
        with pytest.raises(TypeError, match=f'must be float32 or float64, got {dtype}'):
            module.check_equivariance(size=24)
