"""AdamP against the authors' package and its stored numbers, against torch's AdamW, and against closed forms."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn import Parameter

from dinor1.blocks.adamp import SGDP, AdamP
from tests.blocks.adamp.conftest import (
    assert_close,
    check_batches,
    check_channels_last,
    check_resumed,
    clone,
    equal,
    gradients,
    half_and_full,
    host_reads,
    interchange,
    make_params,
    norm_from_tangents,
    run,
    two_dimensional,
)

SETTINGS = ('adamp_default', 'adamp_wd', 'adamp_nesterov', 'adamp_delta_big', 'adamp_delta_zero')
VARIANTS = dict(
    plain={},
    decay=dict(lr=0.01, weight_decay=0.1),
    nesterov=dict(lr=0.01, weight_decay=0.1, nesterov=True),
    unprojected=dict(lr=0.01, weight_decay=0.1, delta=0),
    maximize=dict(lr=0.01, maximize=True),
    other=dict(lr=0.02, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.01, delta=0.6, wd_ratio=0.5),
)
PUBLISHED = {name: kwargs for name, kwargs in VARIANTS.items() if name != 'maximize'}


@pytest.mark.shared
@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('precision', ['f64', 'f32'])
@pytest.mark.parametrize('setting', SETTINGS)
def test_adamp_stored_trajectories_are_reproduced(oracle, setting, precision, foreach):
    kwargs = oracle.settings[setting]['kwargs']
    # Tensor by tensor, the order of operations is that of the reference.
    oracle.check(lambda p: AdamP(p, **kwargs, foreach=foreach), setting, precision, exact=not foreach)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('kwargs', PUBLISHED.values(), ids=PUBLISHED)
def test_adamp_one_by_one_equals_published_package_bitwise(published, kwargs, dtype):
    # The package fails on empty tensors.
    params = make_params(dtype, [p.shape for p in make_params() if p.numel()])
    ours, theirs = run([AdamP(clone(params), **kwargs, foreach=False), published.AdamP(clone(params), **kwargs)], 40)
    assert equal(ours, theirs)


# Float64: rounding over 40 steps; gradients use the first optimizer's weights and so do not amplify it.
# Float32: the oracle allows 2e-6 for ten steps; rounding adds up like a random walk.
@pytest.mark.parametrize(('dtype', 'relative'), [(torch.float64, 1e-12), (torch.float32, 4e-6)])
@pytest.mark.parametrize('kwargs', VARIANTS.values(), ids=VARIANTS)
def test_adamp_batches_equal_one_by_one(as_on, kwargs, dtype, relative):
    check_batches(
        lambda p, foreach: AdamP(p, **kwargs, foreach=foreach),
        ('exp_avg', 'exp_avg_sq'),
        dtype,
        relative,
        projects=kwargs.get('delta', 1) > 0,
    )


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('switch', ['to theirs', 'to ours'])
@pytest.mark.parametrize('nesterov', [False, True])
def test_adamp_state_dict_loads_into_published_package_and_back(published, switch, nesterov, foreach):
    kwargs = dict(lr=0.01, weight_decay=0.1, nesterov=nesterov)
    shapes = [p.shape for p in make_params() if p.numel()]

    def theirs(params):
        return published.AdamP(params, **kwargs)

    def ours(params):
        return AdamP(params, **kwargs, foreach=foreach)

    start, resumed = interchange(ours, theirs, switch, shapes=shapes)
    # The resumed state has the keys of both packages and all steps.
    state = next(iter(resumed.state_dict()['state'].values()))
    assert state.keys() == {'step', 'exp_avg', 'exp_avg_sq'}
    assert state['step'] == 12
    if isinstance(resumed, AdamP):
        assert resumed.param_groups[0]['foreach'] is None
        assert resumed.param_groups[0]['maximize'] is False


@pytest.mark.parametrize('foreach', [False, True])
def test_adamp_resumed_training_equals_uninterrupted(foreach):
    kwargs = dict(lr=0.01, weight_decay=0.1, foreach=foreach)
    check_resumed(lambda p: AdamP(p, **kwargs), lambda p: AdamP(p, lr=1))


def test_adamp_state_of_torch_adamw_loads():
    """AdamP counts steps in numbers, read without synchronisation; torch counts in tensors."""
    params = make_params()
    adamw = torch.optim.AdamW(clone(params), lr=0.01)
    (weights,) = run([adamw], 3)
    ours = AdamP(clone(weights), lr=0.01, delta=0, weight_decay=0.01)
    state = copy.deepcopy(adamw.state_dict())
    ours.load_state_dict(dict(state, param_groups=ours.state_dict()['param_groups']))
    assert all(type(entry['step']) is int and entry['step'] == 3 for entry in ours.state.values())
    assert_close(*run([ours, adamw], 3, first=3), 1e-12)


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize('amount', [0, 0.1])
def test_adamp_without_projection_equals_adamw(amount, foreach):
    kwargs = dict(lr=0.01, weight_decay=amount)
    ours = AdamP(make_params(), **kwargs, delta=0, foreach=foreach)
    assert_close(*run([ours, torch.optim.AdamW(make_params(), **kwargs, foreach=False)], 40), 1e-12)
    assert ours.projection_stats() == dict(channel=0, layer=0, none=5, skipped=3)


def test_adamp_maximize_equals_minimize_of_negative():
    for foreach in (False, True):
        up, down = make_params(), make_params()
        first, second = AdamP(up, maximize=True, foreach=foreach), AdamP(down, foreach=foreach)
        for step in range(5):
            for a, b, grad in zip(up, down, gradients(up, step), strict=True):
                a.grad, b.grad = grad, -grad
            first.step()
            second.step()
        assert equal(up, down)


# -------------------------------------------------------------------------------------------- the paper's example


@pytest.mark.parametrize('foreach', [False, True])
def test_adamp_norm_growth_in_two_dimensions(foreach):
    """Final norms are given in the specification to six digits."""
    weights, cosine = two_dimensional(lambda p: torch.optim.Adam(p, lr=0.05))
    assert float(weights[-1].norm()) == pytest.approx(1.658860, abs=1e-6)
    assert norm_from_tangents(weights) != pytest.approx(1.658860, abs=1e-2)
    weights, cosine = two_dimensional(lambda p: AdamP(p, lr=0.05, foreach=foreach))
    assert float(weights[-1].norm()) == pytest.approx(1.075160, abs=1e-6)
    # Steps are tangents except for eps, which leaves 2e-8 of the radial part: at most 200 * 0.05 * 2e-8 in total.
    assert float(weights[-1].norm()) == pytest.approx(norm_from_tangents(weights), abs=2e-7)
    assert cosine[-1] > 0.99999999


@pytest.mark.parametrize('foreach', [False, True])
def test_adamp_zero_gradient_decays_by_ratio(foreach):
    """Cosine 0 counts as scale-invariant: the decay is a tenth, 1 - 0.1 * 0.1 * 0.1."""
    params = [Parameter(torch.ones(2, 3, dtype=torch.float64)), Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = AdamP(params, lr=0.1, weight_decay=0.1, foreach=foreach)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    torch.testing.assert_close(params[0].detach(), torch.full((2, 3), 0.999, dtype=torch.float64), rtol=1e-15, atol=0)
    torch.testing.assert_close(params[1].detach(), torch.full((3,), 0.99, dtype=torch.float64), rtol=1e-15, atol=0)


@pytest.mark.parametrize('foreach', [False, True])
def test_adamp_zero_weight_takes_full_first_step(foreach):
    param = Parameter(torch.zeros(2, 3, dtype=torch.float64))
    optimizer = AdamP([param], lr=0.1, foreach=foreach)
    param.grad = torch.full((2, 3), -2.0, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((2, 3), 0.1, dtype=torch.float64), rtol=1e-8, atol=0)


# ------------------------------------------------------------------------------------------------- kinds of tensors


@pytest.mark.parametrize('nesterov', [False, True])
def test_adamp_channels_last_equals_contiguous(nesterov):
    """The published package fails on such weights."""
    kwargs = dict(lr=0.01, weight_decay=0.1, nesterov=nesterov)
    check_channels_last(lambda p, foreach: AdamP(p, **kwargs, foreach=foreach))


@pytest.mark.parametrize('foreach', [False, True])
@pytest.mark.parametrize(('dtype', 'unit'), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_adamp_half_precision_stays_near_float32(dtype, unit, foreach):
    """Norms are summed in float32. A gradient of 0 gives 0 / eps, not 0 / 0, although eps is 0 in float16."""
    half, full = half_and_full(lambda p, foreach: AdamP(p, lr=0.01, foreach=foreach), dtype, foreach)
    assert all(p.dtype == dtype and p.isfinite().all() for p in half)
    # Five steps of 0.01 with moments of a relative error near unit, and five roundings of the weight.
    for a, b in zip(half, full, strict=True):
        torch.testing.assert_close(a.float(), b.detach(), rtol=5 * unit, atol=5 * 0.01 * 4 * unit)


def test_adamp_groups_mix_dtypes_devices_and_steps():
    """Every tensor is stepped as if it were alone in its group."""
    double, single = make_params(), make_params(torch.float32)
    late = Parameter(torch.randn(6, 5, dtype=torch.float64))
    params = [*double, *single, late]
    together = AdamP(params, lr=0.01, weight_decay=0.1)
    alone = [AdamP([Parameter(p.detach().clone())], lr=0.01, weight_decay=0.1) for p in params]
    for step in range(6):
        for param, optimizer, grad in zip(params, alone, gradients(params, step), strict=True):
            other = optimizer.param_groups[0]['params'][0]
            # A parameter without a gradient so far is skipped: its step count differs afterwards.
            param.grad, other.grad = (None, None) if param is late and step < 3 else (grad, grad.clone())
            optimizer.step()
        together.step()
        assert (late in together.state) == (step >= 3)
    for param, optimizer in zip(params, alone, strict=True):
        assert_close([param], optimizer.param_groups[0]['params'], 1e-12 if param.dtype == torch.float64 else 4e-6)


def test_adamp_meta_tensors_beside_real_ones():
    """Two devices in one group; no values are read."""
    real, meta = Parameter(torch.randn(3, 4)), Parameter(torch.empty(3, 4, device='meta'))
    before = real.detach().clone()
    optimizer = AdamP([real, meta], foreach=True)
    real.grad, meta.grad = torch.randn(3, 4), torch.empty(3, 4, device='meta')
    optimizer.step()
    assert optimizer.state[meta]['exp_avg'].device.type == 'meta'
    assert not torch.equal(real, before)


@pytest.mark.parametrize('nesterov', [False, True])
def test_adamp_batches_never_wait_for_device(never_wait, nesterov):
    kwargs = dict(weight_decay=0.1, nesterov=nesterov)
    assert host_reads(lambda p: AdamP(p, **kwargs, foreach=True)) == 0
    assert host_reads(lambda p: AdamP(p, **kwargs, foreach=False)) > 0


def test_adamp_bad_gradients_raise_before_any_change():
    good = Parameter(torch.ones(2, 2))
    good.grad = torch.ones(2, 2)
    sparse = Parameter(torch.ones(3, 2))
    sparse.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match=r'AdamP does not support sparse gradients.*shape \(3, 2\).*sparse=False'):
        AdamP([good, sparse]).step()
    number = Parameter(torch.ones(3, dtype=torch.complex64))
    number.grad = torch.ones(3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r'AdamP does not support complex parameters.*\(3,\).*view_as_real'):
        AdamP([dict(params=[good]), dict(params=[number])]).step()
    assert torch.equal(good, torch.ones(2, 2))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(lr=-1), 'lr must be >= 0, got -1'),
        (dict(lr=torch.ones(2)), 'lr must be a number, or a tensor of one, got tensor'),
        (dict(lr=torch.tensor(-1.0)), 'lr must be >= 0, got -1'),
        (dict(eps=-1e-8), 'eps must be >= 0'),
        (dict(weight_decay=-0.1), 'weight_decay must be >= 0'),
        (dict(delta=float('nan')), 'delta must be >= 0, got nan'),
        (dict(wd_ratio=-1), 'wd_ratio must be >= 0'),
        (dict(betas=(0.9, 1.0)), r'betas must be two numbers in \[0, 1\)'),
        (dict(betas=(0.9,)), 'betas must be two numbers'),
    ],
)
def test_adamp_bad_settings_raise(kwargs, message):
    with pytest.raises(ValueError, match=f'AdamP: {message}'):
        AdamP(make_params(), **kwargs)
    optimizer = AdamP(make_params())
    with pytest.raises(ValueError, match=f'AdamP: {message}'):
        optimizer.add_param_group(dict(params=make_params(), **kwargs))
    assert len(optimizer.param_groups) == 1


def test_adamp_settings_are_per_group():
    params = make_params(shapes=[(3, 4), (3, 4)])
    optimizer = AdamP([dict(params=params[0], lr=0), dict(params=params[1], delta=0)], lr=0.1)
    before = clone(params)
    run([optimizer], 1)
    assert torch.equal(params[0], before[0])
    assert not torch.equal(params[1], before[1])


def test_adamp_closure_has_gradients_inside_no_grad():
    param = Parameter(torch.ones(2, 2))
    optimizer = AdamP([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert float(optimizer.step(closure)) == 4
    assert (param < 1).all()


def test_adamp_copies_continue_independently():
    optimizer = AdamP(make_params(), lr=0.01)
    run([optimizer], 2)
    copied = copy.deepcopy(optimizer)
    assert copied.projection_stats() == dict(channel=0, layer=0, none=0, skipped=0)
    assert_close(*run([optimizer, copied], 3, first=2), 0.0)


def test_adamp_compiled_step_equals_eager():
    """The second compilation, the first with state, makes the step count a variable, so there is no third."""
    import torch._dynamo.testing

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend('eager')
    shapes = [(2, 3), (3,)]
    eager, compiled = (AdamP(make_params(shapes=shapes), lr=0.01, weight_decay=0.1) for _ in range(2))
    step = torch.compile(compiled.step, backend=counter)
    # Step both with the same gradients.
    for number in range(6):
        params = [optimizer.param_groups[0]['params'] for optimizer in (eager, compiled)]
        for a, b, grad in zip(*params, gradients(params[0], number), strict=True):
            a.grad, b.grad = grad, grad.clone()
        eager.step()
        step()
    assert_close(params[1], params[0], 1e-12)
    assert counter.frame_count <= 3
    torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------------- MMEngine


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2))


@pytest.mark.parametrize('name', ['AdamP', 'dinor1.blocks.adamp.AdamP'])
def test_adamp_builds_from_config_with_paramwise_settings(name):
    from mmengine.optim import build_optim_wrapper

    from dinor1.blocks.adamp import register

    register.register()
    # Build with decay and rate per parameter.
    cfg = dict(
        type='OptimWrapper',
        optimizer=dict(type=name, lr=0.1, weight_decay=0.2, delta=0.3),
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'2': dict(lr_mult=0.5)}),
    )
    model = net()
    optimizer = build_optim_wrapper(model, cfg).optimizer
    assert type(optimizer) is AdamP
    # Every parameter has its own settings.
    of = {id(p): group for group in optimizer.param_groups for p in group['params']}
    assert of[id(model[0].weight)]['lr'] == 0.1
    assert of[id(model[0].weight)]['weight_decay'] == 0.2
    assert of[id(model[1].weight)]['weight_decay'] == 0
    assert of[id(model[2].weight)]['lr'] == 0.05
    assert all(group['delta'] == 0.3 for group in optimizer.param_groups)


def test_adamp_gradient_accumulation_changes_nothing():
    from mmengine.optim import OptimWrapper

    whole, split, inputs = net(), net(), torch.randn(8, 6)
    first = OptimWrapper(AdamP(whole.parameters(), lr=0.1))
    second = OptimWrapper(AdamP(split.parameters(), lr=0.1), accumulative_counts=2)
    second.initialize_count_status(split, 0, 4)
    for _ in range(2):
        first.update_params(whole(inputs).square().mean())
        for half in inputs.chunk(2):
            with second.optim_context(split):
                loss = split(half).square().mean()
            second.update_params(loss)
    # Float32 sum of two halves, divided by the root of the second moment.
    assert_close(split.parameters(), whole.parameters(), 1e-5)


@pytest.mark.filterwarnings('ignore:.*GradScaler')
def test_adamp_amp_wrapper_in_bfloat16_on_cpu(monkeypatch):
    from mmengine.optim import AmpOptimWrapper
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    # MMEngine does not build the wrapper without a GPU, although autocast to bfloat16 works without one.
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    model, inputs = net(), torch.randn(8, 6)
    optimizer = AdamP(model.parameters(), lr=0.01)
    wrapper = AmpOptimWrapper(dtype='bfloat16', loss_scale=1.0, optimizer=optimizer)
    losses = []
    for _ in range(10):
        with wrapper.optim_context(model):
            loss = (model(inputs) - 1).square().mean()
        wrapper.update_params(loss)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    # LayerNorm makes the first matrix scale-invariant, which bfloat16 activations blur but do not hide.
    assert optimizer.projection_stats()['layer'] >= 1
    state = copy.deepcopy(wrapper.state_dict())
    wrapper.load_state_dict(state)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_adamp_replaces_optimizer_of_same_name_with_warning(caplog):
    from mmengine.registry import OPTIMIZERS

    from dinor1.blocks.adamp import SGDP, register

    class Stranger:
        pass

    register.register()
    OPTIMIZERS.register_module(name='AdamP', module=Stranger, force=True)
    with caplog.at_level('WARNING'):
        register.register()
    assert OPTIMIZERS.get('AdamP') is AdamP
    assert OPTIMIZERS.get('SGDP') is SGDP
    register.register()


def test_adamp_import_needs_torch_only():
    code = (
        'import sys\n'
        'for name in ("mmengine", "mmcv", "mmdet"): sys.modules[name] = None\n'
        'import dinor1.blocks.adamp\n'
        'import torch\n'
        'p = torch.nn.Parameter(torch.ones(2, 2)); p.grad = torch.ones(2, 2)\n'
        'dinor1.blocks.adamp.AdamP([p]).step()\n'
        'assert (p < 1).all()\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)


@pytest.mark.parametrize('foreach', [None, False, True])
@pytest.mark.parametrize('optimizer', [AdamP, SGDP])
def test_tensor_learning_rate_equals_number(optimizer, foreach):
    """A tensor that changes between steps is read in every step, as torch's optimizers do."""
    rate = torch.tensor(0.05)
    runs = []
    for changing in (rate, None):
        params = make_params(seed=0)
        optim = optimizer(params, lr=rate if changing is not None else float(rate), weight_decay=0.1, foreach=foreach)
        for step in range(4):
            for number, param in enumerate(params):
                param.grad = torch.full_like(param, 0.1 * (number + step + 1)).cos()
            optim.step()
            if changing is not None:
                rate.mul_(0.5)
            else:
                optim.param_groups[0]['lr'] *= 0.5
        rate.fill_(0.05)
        runs.append([param.detach().clone() for param in params])
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize('optimizer', [AdamP, SGDP])
def test_learning_rate_of_several_numbers_is_rejected(optimizer):
    with pytest.raises(ValueError, match='lr must be a number, or a tensor of one'):
        optimizer([Parameter(torch.ones(2))], lr=torch.ones(2))
