"""SGDP against the authors' package and its stored numbers, against torch's SGD, and against closed forms."""

import math

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD

from dinor1.blocks.adamp import SGDP
from tests.blocks.adamp.conftest import (
    assert_close,
    check_batches,
    check_channels_last,
    check_resumed,
    clone,
    equal,
    half_and_full,
    host_reads,
    interchange,
    make_params,
    norm_from_tangents,
    run,
    states,
    two_dimensional,
)

SETTINGS = ('sgdp_plain', 'sgdp_mom', 'sgdp_nesterov', 'sgdp_dampening')
VARIANTS = dict(
    plain=dict(lr=0.1),
    momentum=dict(lr=0.05, momentum=0.9, weight_decay=0.01),
    nesterov=dict(lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    dampening=dict(lr=0.05, momentum=0.8, dampening=0.3, delta=0.5, wd_ratio=0.2, eps=1e-4),
    unprojected=dict(lr=0.05, momentum=0.9, weight_decay=0.01, delta=0),
)
OWN = dict(
    paper=dict(lr=0.05, momentum=0.9, weight_decay=0.01, project_buffer=False),
    maximize=dict(lr=0.05, momentum=0.9, maximize=True),
)


@pytest.mark.shared
@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('precision', ['f64', 'f32'])
@pytest.mark.parametrize('setting', SETTINGS)
def test_sgdp_stored_trajectories_are_reproduced(oracle, setting, precision, foreach):
    kwargs = oracle.settings[setting]['kwargs']
    # Tensor by tensor, the order of operations is that of the reference.
    oracle.check(lambda p: SGDP(p, **kwargs, foreach=foreach), setting, precision, exact=not foreach)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('kwargs', VARIANTS.values(), ids=VARIANTS)
def test_sgdp_one_by_one_equals_published_package_bitwise(published, kwargs, dtype):
    # The package fails on empty tensors.
    params = make_params(dtype, [p.shape for p in make_params() if p.numel()])
    optimizers = [SGDP(clone(params), **kwargs, foreach=False), published.SGDP(clone(params), **kwargs)]
    ours, theirs = run(optimizers, 40)
    assert equal(ours, theirs)
    assert equal(*states(optimizers, (ours, theirs), 'momentum'))


# Rounding over 40 steps; gradients use the first optimizer's weights and so do not amplify it.
@pytest.mark.parametrize(('dtype', 'relative'), [(torch.float64, 1e-12), (torch.float32, 4e-6)])
@pytest.mark.parametrize('kwargs', (VARIANTS | OWN).values(), ids=VARIANTS | OWN)
def test_sgdp_batches_equal_one_by_one(as_on, kwargs, dtype, relative):
    check_batches(
        lambda p, foreach: SGDP(p, **kwargs, foreach=foreach),
        ('momentum',),
        dtype,
        relative,
        projects=kwargs.get('delta', 1) > 0,
    )


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('switch', ['to theirs', 'to ours'])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgdp_state_dict_loads_into_published_package_and_back(published, switch, nesterov, foreach):
    kwargs = dict(lr=0.02, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    shapes = [p.shape for p in make_params() if p.numel()]
    _, resumed = interchange(
        lambda p: SGDP(p, **kwargs, foreach=foreach), lambda p: published.SGDP(p, **kwargs), switch, shapes=shapes
    )
    assert next(iter(resumed.state_dict()['state'].values())).keys() == {'momentum'}
    if isinstance(resumed, SGDP):
        added = {key: resumed.param_groups[0][key] for key in ('foreach', 'maximize', 'project_buffer')}
        assert added == dict(foreach=None, maximize=False, project_buffer=True)


@pytest.mark.parametrize('foreach', [False, True])
def test_sgdp_resumed_training_equals_uninterrupted(foreach):
    kwargs = dict(lr=0.05, momentum=0.9, weight_decay=0.01, foreach=foreach)
    check_resumed(lambda p: SGDP(p, **kwargs), lambda p: SGDP(p, lr=1))


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('kwargs', [dict(), dict(momentum=0.9), dict(momentum=0.9, nesterov=True)])
def test_sgdp_without_projection_and_decay_equals_sgd(kwargs, foreach):
    ours = SGDP(make_params(), lr=0.1, **kwargs, delta=0, foreach=foreach)
    assert_close(*run([ours, SGD(make_params(), lr=0.1, **kwargs, foreach=False)], 40), 1e-12)


@pytest.mark.parametrize('foreach', [False, True])
def test_sgdp_first_step_is_dampened(foreach):
    """Unlike in torch, whose buffer starts as the gradient."""
    param = Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = SGDP([param], lr=1.0, momentum=0.9, dampening=0.25, foreach=foreach)
    param.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(param, torch.full((3,), -0.75, dtype=torch.float64))


@pytest.mark.parametrize('foreach', [False, True])
def test_sgdp_decay_is_divided_by_one_minus_momentum_outside_buffer(foreach):
    params = [Parameter(torch.ones(2, 3, dtype=torch.float64)), Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = SGDP(params, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=foreach)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    # A zero gradient passes the test: 1 - 0.1 * 0.1 * 0.1 / 0.1; the vector is never tested: 1 - 0.1 * 0.1 / 0.1.
    for param, factor in zip(params, (0.99, 0.9), strict=True):
        torch.testing.assert_close(param.detach(), torch.full_like(param, factor), rtol=1e-15, atol=0)
        assert not optimizer.state[param]['momentum'].any()


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('project_buffer', [False, True])
def test_sgdp_project_buffer_selects_stored_momentum(project_buffer, nesterov, foreach):
    """Two weights of equal shape, which are stacked, and a single one."""
    params = make_params(shapes=[(2, 4), (2, 4), (3, 4)])
    optimizer = SGDP(
        params, lr=0.1, momentum=0.9, nesterov=nesterov, project_buffer=project_buffer, foreach=foreach, delta=100
    )  # delta=100: everything passes
    grads = [torch.randn_like(p) for p in params]
    before = clone(params)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer.step()
    assert optimizer.projection_stats()['channel'] == 3
    # Compare buffer and weights with the closed form.
    for param, old, grad in zip(params, before, grads, strict=True):
        hat = old.detach() / old.detach().norm(dim=1, keepdim=True)
        tangent = grad - hat * (hat * grad).sum(1, keepdim=True)
        kept = tangent if project_buffer and not nesterov else grad
        torch.testing.assert_close(optimizer.state[param]['momentum'], kept, rtol=0, atol=1e-7)
        step = (1.9 if nesterov else 1.0) * 0.1 * tangent
        torch.testing.assert_close(param.detach(), old.detach() - step, rtol=0, atol=1e-7)


# -------------------------------------------------------------------------------------------- the paper's example

# Final norm, and the first step with cosine > 0.999, of the specification's protocol.
NORMS = {
    'SGD': {0: 1.089652, 0.9: 6.045458, 0.95: 12.116771, 0.99: 52.030333},
    'official': {0: 1.089652, 0.9: 1.571716, 0.95: 1.848814, 0.99: 2.705347},
    'paper': {0: 1.089652, 0.9: 1.312940, 0.95: 1.322819, 0.99: 1.328872},
    'nesterov': {0: 1.089652, 0.9: 1.340134, 0.95: 1.358369, 0.99: 1.370974},
}
ARRIVALS = {
    'SGD': {0.9: 58, 0.95: 78, 0.99: 163},
    'official': {0.9: 27, 0.95: 45, 0.99: 10},
    'paper': {0.9: 15, 0.95: 16, 0.99: 17},
}
FORMS = dict(official={}, paper=dict(project_buffer=False), nesterov=dict(nesterov=True))


@pytest.mark.parametrize('momentum', [0, 0.9, 0.95, 0.99])
@pytest.mark.parametrize('form', ['SGD', *FORMS])
def test_sgdp_norm_growth_in_two_dimensions(form, momentum):
    def make(params):
        if form == 'SGD':
            return SGD(params, lr=0.1, momentum=momentum)
        return SGDP(params, lr=0.1, momentum=momentum, foreach=momentum != 0.95, **FORMS[form])

    weights, cosine = two_dimensional(make)
    last = float(weights[-1].norm())
    assert last == pytest.approx(NORMS[form][momentum], abs=1e-6)
    if momentum in ARRIVALS.get(form, ()):
        assert int((cosine > 0.999).nonzero()[0]) == ARRIVALS[form][momentum]
    if form == 'SGD' and momentum:
        assert last > 2 * norm_from_tangents(weights)
    else:
        # eps leaves 2 eps / |w| of the radial part in every step; without it (next test) the two are equal.
        assert last == pytest.approx(norm_from_tangents(weights), abs=1e-6)
    if (form, momentum) == ('official', 0.99):  # overshoots
        assert float(cosine[-1]) == pytest.approx(0.981436, abs=1e-6)


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('form', FORMS)
def test_sgdp_projected_steps_are_tangents(form, foreach):
    """|w_T|^2 = 1 + sum of the squared lengths of the steps."""
    weights, _ = two_dimensional(lambda p: SGDP(p, lr=0.1, momentum=0.95, eps=1e-15, foreach=foreach, **FORMS[form]))
    assert float(weights[-1].norm()) == pytest.approx(norm_from_tangents(weights), abs=1e-12)


@pytest.mark.parametrize('momentum', [0.5, 0.9, 0.99])
def test_sgdp_momentum_adds_all_steps_to_norm(momentum):
    """|w_T|^2 - 1 = lr^2 (sum_t |p_t|^2 + 2 sum_t sum_{k<t} momentum^(t-k) |p_k|^2), without projection."""
    weights, _ = two_dimensional(lambda p: SGDP(p, lr=0.1, momentum=momentum, delta=0))
    squares = weights.diff(dim=0).square().sum(1)
    total = sum(
        float(squares[t]) + 2 * sum(momentum ** (t - k) * float(squares[k]) for k in range(t))
        for t in range(len(squares))
    )
    assert float(weights[-1].norm()) == pytest.approx(math.sqrt(1 + total), rel=1e-12)


@pytest.mark.parametrize(
    ('make', 'growth', 'loss'),
    [
        (lambda p: SGD(p, lr=0.1), 0.131, 9.8e-4),
        (lambda p: SGD(p, lr=0.1, momentum=0.9), 23.45, 6.5e-3),
        (lambda p: SGDP(p, lr=0.1, momentum=0.9), 1.037, 1.5e-5),
    ],
    ids=['GD', 'momentum', 'SGDP'],
)
def test_sgdp_rayleigh_quotient_in_64_dimensions(make, growth, loss):
    """Minimise w A w / |w|^2; the specification gives three digits of the growth, two of the last loss."""
    root = torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = root @ root.T / 64
    start = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = Parameter(start / start.norm())
    optimizer = make([weight])
    for _ in range(500):
        optimizer.zero_grad()
        value = (weight @ matrix @ weight.T).sum() / weight.square().sum()
        value.backward()
        optimizer.step()
    assert float(weight.detach().square().sum()) - 1 == pytest.approx(growth, rel=5e-3)
    assert float(value.detach()) == pytest.approx(loss, rel=0.035)


# ------------------------------------------------------------------------------------------------- kinds of tensors


@pytest.mark.parametrize('nesterov', [False, True])
def test_sgdp_channels_last_equals_contiguous(nesterov):
    kwargs = dict(lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    check_channels_last(lambda p, foreach: SGDP(p, **kwargs, foreach=foreach))


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('project_buffer', [False, True])
def test_sgdp_bfloat16_stays_near_float32(project_buffer, foreach):
    kwargs = dict(lr=0.01, momentum=0.9, project_buffer=project_buffer)
    half, full = half_and_full(lambda p, foreach: SGDP(p, **kwargs, foreach=foreach), torch.bfloat16, foreach)
    for a, b in zip(half, full, strict=True):
        assert a.dtype == torch.bfloat16
        # Five roundings of weight and buffer to 8 bits; a buffer of up to 10 is stepped with 0.01.
        torch.testing.assert_close(a.float(), b.detach(), rtol=5 * 2**-8, atol=5 * 0.1 * 2**-8)


@pytest.mark.parametrize('kwargs', [dict(), dict(nesterov=True), dict(project_buffer=False)])
def test_sgdp_batches_never_wait_for_device(never_wait, kwargs):
    kwargs = dict(lr=0.1, momentum=0.9, weight_decay=0.1) | kwargs
    assert host_reads(lambda p: SGDP(p, **kwargs, foreach=True)) == 0
    assert host_reads(lambda p: SGDP(p, **kwargs, foreach=False)) > 0


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(), 'lr must be a number, or a tensor of one, got None'),
        (dict(lr=0.1, momentum=-0.1), r'momentum must be in \[0, 1\], got -0.1'),
        (dict(lr=0.1, momentum=1.1), r'momentum must be in \[0, 1\]'),
        (dict(lr=0.1, momentum=1, weight_decay=0.1), 'weight decay is divided by 1 - momentum'),
        (dict(lr=0.1, delta=-1), 'delta must be >= 0'),
    ],
)
def test_sgdp_bad_settings_raise(kwargs, message):
    with pytest.raises(ValueError, match=f'SGDP: {message}'):
        SGDP(make_params(), **kwargs)


def test_sgdp_learning_rate_may_be_given_in_groups():
    params = make_params(shapes=[(2, 3), (2, 3)])
    optimizer = SGDP([dict(params=params[0], lr=0.1), dict(params=params[1], lr=0.2)])
    assert [group['lr'] for group in optimizer.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize('foreach', [False, True])
def test_sgdp_momentum_one_without_decay_sums_gradients(foreach):
    # A vector is never projected: steps of 0.1 and, with both gradients in the buffer, 0.2.
    param = Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = SGDP([param], lr=0.1, momentum=1, foreach=foreach)
    for _ in range(2):
        param.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), -0.3, dtype=torch.float64), rtol=1e-15, atol=0)
