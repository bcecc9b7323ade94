"""Common behaviour of all registered norms; a new norm in the registry is tested too."""

import copy
import functools
import inspect
import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dinor1.blocks.normalization import NORMS, L1BatchNorm, PowerNorm, UnifiedNorm, is_norm
from dinor1.blocks.normalization.register import register
from dinor1.blocks.normalization.registry import BASELINES
from dinor1.utils.errors import InputError

C = 32
TOKENS, FLAT, MAPS_LAST, MAPS = (2, 5, C), (6, C), (2, 3, 4, C), (2, C, 3, 4)
LAST_AXIS = [({}, shape) for shape in (TOKENS, FLAT, MAPS_LAST)]
ANY_AXIS = [*LAST_AXIS, (dict(channel_dim=1), MAPS)]
IMAGES = [({}, MAPS), (dict(apply_act=False), MAPS)]
SHAPES = {
    'RMSNorm': [*LAST_AXIS, (dict(bias=True), TOKENS), (dict(affine=False), TOKENS)],
    'CRMSNorm': LAST_AXIS,
    'PN': [*ANY_AXIS, (dict(group_num=None), TOKENS), (dict(affine=False), TOKENS), (dict(warmup_iters=2), TOKENS)],
    'UN': [
        *ANY_AXIS,
        (dict(warmup_iters=2, window_size=2, outlier_filtration=True, renorm_after=3), TOKENS),
        (dict(window_size=1), TOKENS),
    ],
    'EvoNormB0': IMAGES,
    'EvoNormB1': IMAGES,
    'EvoNormB2': IMAGES,
    'EvoNormS0': [*IMAGES, (dict(group_size=4), MAPS)],
    'EvoNormS1': IMAGES,
    'EvoNormS2': IMAGES,
    'L1LN': [*ANY_AXIS, (dict(scale='gauss'), TOKENS), (dict(affine=False), TOKENS)],
    'L1BN': [*ANY_AXIS, (dict(scale='gauss'), TOKENS), (dict(affine=False), TOKENS)],
    'FixedStdLN': [*LAST_AXIS, (dict(per_position=8), TOKENS), (dict(affine=False), TOKENS)],
}
ABBREVIATIONS = dict(
    RMSNorm='rms', CRMSNorm='crms', PN='pn', UN='un', L1LN='l1', L1BN='l1', FixedStdLN='fln', TokenBN='tbn'
)
CASES = [
    pytest.param(name, arguments, shape, id=f'{name}-{arguments}-{len(shape)}d')
    for name, cases in SHAPES.items()
    for arguments, shape in cases
]
every_case = pytest.mark.parametrize(('name', 'arguments', 'shape'), CASES)


def build(name, arguments):
    layer = NORMS[name](C, **arguments)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=1.0, std=0.2)
    return layer


def draw(shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def step(layer, x):
    """One forward and backward pass; output and gradient."""
    y = layer(x)
    y.backward(torch.cos(7 * y.detach()))
    return y.detach(), x.grad


def test_norm_registry_names():
    assert set(NORMS) == set(SHAPES)
    for name in NORMS:
        assert MODELS.module_dict[name] is NORMS[name]


@pytest.mark.parametrize('scope', ['dinor1', 'mmdet', 'mmengine'])
@pytest.mark.parametrize('name', NORMS)
def test_norm_builds_through_norm_cfg(name, scope):
    with DefaultScope.overwrite_default_scope(scope):
        label, layer = build_norm_layer(dict(type=name, requires_grad=False), C, postfix=1)
    assert type(layer) is NORMS[name]
    assert label == ABBREVIATIONS.get(name, 'evo') + '1'
    assert layer.eps == 1e-5
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    _, layer = build_norm_layer(dict(type=name, eps=0.25), C)
    assert layer.eps == 0.25
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert is_norm(layer)


def test_register_twice_is_idempotent_and_other_class_raises(monkeypatch):
    register()
    monkeypatch.setitem(MODELS.module_dict, 'UN', nn.LayerNorm)
    with pytest.raises(KeyError, match='UN is already registered'):
        register()


def test_normalization_import_needs_torch_only():
    frameworks = '"mmengine", "mmcv", "mmdet"'
    code = f'import dinor1.blocks.normalization, sys; sys.exit(any(m in sys.modules for m in ({frameworks})))'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@every_case
def test_norm_training_and_evaluation(name, arguments, shape):
    layer = build(name, arguments)
    for training in (True, False):
        layer.train(training)
        x = draw(shape)
        y, grad = step(layer, x)
        assert y.shape == grad.shape == shape
        assert y.dtype == torch.float32
        assert y.isfinite().all()
        assert grad.isfinite().all()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@every_case
def test_norm_float32_equals_float64(name, arguments, shape):
    """No statistic has a lower precision than the input."""
    single = build(name, arguments)
    double = copy.deepcopy(single).double()
    for seed in range(4):
        y, grad = step(single, draw(shape, seed))
        y64, grad64 = step(double, draw(shape, seed, torch.float64))
        # A few dozen float32 operations; values of order 1.
        torch.testing.assert_close(y.double(), y64, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(grad.double(), grad64, rtol=1e-3, atol=1e-4)
    assert {b.dtype for b in double.buffers() if b.is_floating_point()} <= {torch.float64}


@every_case
def test_norm_loaded_layer_takes_same_next_step(name, arguments, shape):
    layer = build(name, arguments)
    for seed in range(5):
        step(layer, draw(shape, seed))
    loaded = NORMS[name](C, **arguments)
    loaded.load_state_dict(copy.deepcopy(layer.state_dict()))
    for seed in range(5, 8):
        torch.testing.assert_close(step(loaded, draw(shape, seed)), step(layer, draw(shape, seed)), rtol=0, atol=0)
    assert_same_state(loaded, layer)
    torch.testing.assert_close(loaded.eval()(draw(shape)), layer.eval()(draw(shape)), rtol=0, atol=0)


def assert_same_state(one, other):
    for (key, value), expected in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, expected), key


@every_case
def test_norm_autocast_is_finite_and_keeps_dtype(name, arguments, shape):
    layer = build(name, arguments)
    # Squares and their sums overflow and underflow in float16.
    for dtype, scale in itertools.product((torch.float16, torch.bfloat16), (1e-4, 1.0, 3e3)):
        x = draw(shape).detach().mul(scale).to(dtype).requires_grad_()
        with torch.autocast('cpu', dtype=dtype):
            y = layer(x)
        y.float().square().mean().backward()
        if name.startswith('EvoNorm') and not layer.apply_act:
            continue  # affine only: the dtype of the input is kept
        assert y.dtype == dtype
        assert y.isfinite().all()
        assert x.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in layer.buffers())


@every_case
def test_norm_statistics_of_half_model_stay_in_float32(name, arguments, shape):
    layer = build(name, arguments).to(torch.bfloat16)
    y = layer(draw(shape, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()
    assert {parameter.dtype for parameter in layer.parameters()} <= {torch.bfloat16}
    assert {buffer.dtype for buffer in layer.buffers() if buffer.is_floating_point()} <= {torch.float32}


@every_case
def test_norm_empty_batch(name, arguments, shape):
    layer = build(name, arguments)
    step(layer, draw(shape))
    before = copy.deepcopy(layer)
    for training in (True, False):
        layer.train(training).zero_grad()
        y, _ = step(layer, draw((0, *shape[1:])))
        assert y.shape == (0, *shape[1:])
        assert_same_state(layer, before)
        # DistributedDataParallel waits for a gradient of every parameter, which may be zero.
        assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@every_case
def test_norm_two_calls_before_backward(name, arguments, shape):
    """As for the decoder's final norm, which all layers share. Forward state changes in the order of calls."""
    layer = build(name, arguments)
    for seed in range(3):
        step(layer, draw(shape, seed))
    other = copy.deepcopy(layer)
    x, x2 = draw(shape, 10), draw(shape, 11)
    y, y2 = layer(x), layer(x2)
    (torch.cos(y).sum() + torch.sin(y2).sum()).backward()
    assert x.grad.isfinite().all()
    assert x2.grad.isfinite().all()
    torch.testing.assert_close(other(draw(shape, 10)), y, rtol=0, atol=0)
    torch.testing.assert_close(other(draw(shape, 11)), y2, rtol=0, atol=0)
    forward_state = [key for key in layer.state_dict() if 'gz' not in key]
    assert all(torch.equal(layer.state_dict()[key], other.state_dict()[key]) for key in forward_state)


@every_case
def test_norm_activation_checkpointing_changes_nothing(name, arguments, shape):
    """A forward pass repeated in the backward pass gives the same result and counts once; three calls per step."""

    def train(wrap):
        torch.manual_seed(0)
        layer, gradients = build(name, arguments), []
        for seed in range(2):
            inputs = [draw(shape, 10 * seed + call) for call in range(3)]
            outputs = [wrap(lambda x: layer(x.sin() * 2).sin(), x) for x in inputs]
            sum((call + 1) * torch.cos(y).sum() for call, y in enumerate(outputs)).backward()
            gradients += [x.grad for x in inputs]
        return layer, gradients

    plain, expected = train(lambda function, x: function(x))
    for use_reentrant in (True, False):
        repeated, gradients = train(functools.partial(checkpoint, use_reentrant=use_reentrant))
        assert_same_state(repeated, plain)
        torch.testing.assert_close(gradients, expected, rtol=0, atol=0)


class NoHostReads(TorchDispatchMode):
    """Fails if the host reads a number from a tensor, which waits for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f'{func} reads a tensor on the host')
        return func(*args, **(kwargs or {}))


@every_case
def test_norm_no_host_synchronisation(name, arguments, shape):
    layer = build(name, arguments)
    if name == 'FixedStdLN':
        step(layer, draw(shape))
        layer.fix(values=False)
    inputs = [draw(shape, seed) for seed in range(6)]
    with NoHostReads():
        for x in inputs:
            step(layer, x)
        layer.eval()(inputs[0])
        with pytest.raises(AssertionError, match='reads a tensor on the host'):
            inputs[0].sum().item()


@pytest.mark.parametrize('name', ['PN', 'UN', 'L1BN'])
def test_norm_all_padding_keeps_state(name):
    layer = build(name, {})
    step(layer, draw(TOKENS))
    before = copy.deepcopy(layer)
    x = draw(TOKENS, 1)
    y = layer(x, torch.ones(TOKENS[:2], dtype=torch.bool))
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert_same_state(layer, before)
    torch.testing.assert_close(y, before.eval()(draw(TOKENS, 1)))


@pytest.mark.parametrize('name', ['PN', 'UN', 'L1BN'])
def test_norm_one_image_of_padding_is_finite(name):
    layer = build(name, {})
    mask = torch.tensor([[True] * 5, [False] * 5])
    reference = copy.deepcopy(layer)
    y = layer(draw(TOKENS), mask)
    torch.testing.assert_close(y[1:], reference(draw(TOKENS)[1:]))
    assert_same_state(layer, reference)
    # A mask may have one axis for all positions of a map.
    maps = draw((2, 1, 5, C))
    torch.testing.assert_close(reference(maps, mask), copy.deepcopy(layer)(maps, mask[:, None]))


@pytest.mark.parametrize('arguments', [dict(warmup_iters=2), dict(warmup_iters=100)])
@pytest.mark.parametrize('norm', [PowerNorm, UnifiedNorm])
@pytest.mark.parametrize('value', [float('inf'), float('nan')])
def test_norm_overflow_keeps_state(norm, arguments, value):
    """Infinite gradients are normal with a dynamic loss scale, which only skips the optimizer's step."""
    layer = norm(C, **arguments)
    for seed in range(5):
        step(layer, draw(TOKENS, seed))
    running, ema = layer.running_moment().clone(), layer.ema_gz.clone()
    y = layer(draw(TOKENS, 5))
    y.backward(torch.full_like(y, value))
    assert torch.equal(layer.ema_gz, ema)
    broken = draw(TOKENS, 6).detach()
    broken[0, 0, 0] = value
    layer(broken)
    assert all(buffer.isfinite().all() for buffer in layer.buffers())
    # The batch counts like one with the running moment, so the state changes little.
    torch.testing.assert_close(layer.running_moment(), running, rtol=0.5, atol=0)
    y, grad = step(layer, draw(TOKENS, 7))
    assert y.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize('norm', [PowerNorm, UnifiedNorm])
def test_norm_step_number_follows_its_buffer(norm):
    layer = norm(C, warmup_iters=3)
    for seed in range(4):
        step(layer, draw(TOKENS, seed))
    assert layer.iters.item() == 4
    for write in (
        lambda: layer.iters.zero_(),
        lambda: layer.load_state_dict({**layer.state_dict(), 'iters': torch.tensor([0])}),
        lambda: setattr(layer, 'iters', torch.tensor([0])),
    ):
        write()
        assert layer(draw(TOKENS)).isfinite().all()
        assert layer.iters.item() == 1
    # The reset restarts warm-up, in which the batch's own moment divides.
    y = layer(draw(TOKENS, 3))
    torch.testing.assert_close(y.square().mean((0, 1)), torch.ones(C), rtol=1e-3, atol=0)
    assert copy.deepcopy(layer).iters.item() == 2


@every_case
def test_norm_made_in_inference_mode_is_ordinary(name, arguments, shape):
    x = torch.randn(shape)
    ordinary = build(name, arguments)
    with torch.inference_mode():
        made = build(name, arguments)
        made.load_state_dict(ordinary.state_dict())
        for training in (True, True, False):
            assert torch.equal(made.train(training)(x), ordinary.train(training)(x))
        # An externally written step number is read even though torch counts no writes here.
        made.load_state_dict(ordinary.state_dict())
        for steps in (5, 9):
            if 'iters' in made.state_dict():
                made.iters.fill_(steps)
                made.train()(x)
                assert made.iters.item() == steps + 1


@pytest.mark.parametrize('name', ['PN', 'UN', 'L1BN'])
def test_norm_gradient_accumulation_counts_every_micro_batch(name):
    layer = build(name, {})
    before = [layer.state_dict()[key].clone() for key in layer.state_dict()]
    for seed in range(2):
        step(layer, draw(TOKENS, seed))
    if name != 'L1BN':
        assert layer.iters.item() == 2
    moved = [not torch.equal(a, b) for a, b in zip(before, layer.state_dict().values(), strict=True)]
    assert any(moved)


NUMBERS = {
    'num_features': (0, -1, 2.0, True, None),
    'eps': (-1e-5, float('nan'), float('inf'), '1e-5', None),
    'momentum': (-0.1, 1.5, float('nan')),
    'alpha_fwd': (-0.1, 1.5, float('nan')),
    'alpha_bkw': (-0.1, 1.5, float('nan')),
    'warmup_iters': (-1, 2.5),
    'renorm_after': (-1, 2.5),
    'renorm_clip': (0.5, float('nan')),
    'max_moment_ratio': (-1.0, float('nan')),
    'per_position': (0, 2.5),
    'group_num': (0, 2.0),
}


@pytest.mark.parametrize('name', NORMS | BASELINES)
def test_norm_numbers_out_of_range_raise_one_line(name):
    norm = (NORMS | BASELINES)[name]
    known = inspect.signature(norm).parameters
    for argument, values in NUMBERS.items():
        for value in values if argument in known else ():
            line = rf'^{norm.__name__}: {argument} must be a (whole )?number .*\d, got {re.escape(repr(value))}$'
            with pytest.raises(InputError, match=line):
                norm(**{'num_features': 8, argument: value})
    assert set(NUMBERS) & set(known) >= {'num_features', 'eps'}


@pytest.mark.parametrize('new_share', [0, 1, np.float32(0.5)])
def test_norm_momentum_0_and_1_keep_or_replace_statistics(new_share):
    kept = 1 - new_share
    x = 3 * torch.randn(6, 8)
    deviation, moment = (x - x.mean(0)).abs().mean(0), x.square().mean(0)
    for norm, name, statistic in (
        (L1BatchNorm(np.int64(8), eps=0, momentum=new_share), 'running_mad', deviation),
        (PowerNorm(8, alpha_fwd=kept, alpha_bkw=kept, warmup_iters=0, group_num=None), 'running_phi', moment),
        (UnifiedNorm(8, momentum=kept, warmup_iters=0, renorm_after=0, renorm_clip=1), 'running_var', moment),
    ):
        old = getattr(norm, name).clone()
        assert norm.train()(x).isfinite().all()
        expected = float(kept) * old + float(new_share) * statistic
        torch.testing.assert_close(getattr(norm, name), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ('infinite', 'large'),
    [
        # Iterations are often written as 1e4; infinity disables a setting.
        (
            lambda: PowerNorm(8, warmup_iters=0, max_moment_ratio=math.inf),
            lambda: PowerNorm(8, warmup_iters=0.0, max_moment_ratio=None),
        ),
        (
            lambda: UnifiedNorm(8, window_size=np.int64(2), warmup_iters=2.0, renorm_after=math.inf),
            lambda: UnifiedNorm(8, window_size=2, warmup_iters=2, renorm_after=1e4),
        ),
        (
            lambda: UnifiedNorm(8, window_size=2, warmup_iters=2, renorm_after=2, renorm_clip=math.inf),
            lambda: UnifiedNorm(8, window_size=2, warmup_iters=2, renorm_after=2, renorm_clip=1e4),
        ),
    ],
    ids=['PN', 'UN never', 'UN unbounded'],
)
def test_norm_infinity_disables_setting(infinite, large):
    first, second = infinite().train(), large().train()
    for step in range(1, 7):
        x = (step * torch.randn(6, 8)).requires_grad_()
        y = x.detach().clone().requires_grad_()
        ours, theirs = first(x), second(y)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        for output in (ours, theirs):
            output.square().sum().backward()
        assert x.grad.isfinite().all()
        torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=0)


def test_norm_one_dimension_is_one_token():
    for name in ('RMSNorm', 'CRMSNorm', 'L1LN', 'FixedStdLN'):
        layer = build(name, {}).eval()
        x = draw((C,)).detach()
        torch.testing.assert_close(layer(x), layer(x[None])[0], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='L1BatchNorm needs channels on axis -1 of at least 2 axes'):
        L1BatchNorm(C)(torch.randn(C))
