"""Weights, gradients and checks shared by the tests of the optimizers."""

import copy
import importlib
import io
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

# One of each kind: matrices of equal and of different shape, a convolution, a vector, a scalar, an empty tensor.
SHAPES = ((6, 5), (6, 5), (3, 8), (4, 3, 3, 3), (1, 9), (5,), (), (0, 4))


class Oracle:
    """The reference's trajectories: ten steps per setting."""

    def __init__(self, path):
        with np.load(path) as file:
            self.data = {key: file[key] for key in file.files}
        self.settings = json.loads(str(self.data['settings_json']))
        self.names = [key.removeprefix('init/') for key in self.data if key.startswith('init/')]

    def check(self, make, setting, precision, exact):
        """Run ``make(params)`` with the stored gradients; ``exact`` requires equality up to the last bits."""
        dtype = dict(f64=torch.float64, f32=torch.float32)[precision]
        params = {name: Parameter(torch.tensor(self.data[f'init/{name}'], dtype=dtype)) for name in self.names}
        optimizer = make(list(params.values()))
        for step in range(10):
            for name, param in params.items():
                param.grad = torch.tensor(self.data[f'grad/{name}'][step], dtype=dtype)
            optimizer.step()
            for name, param in params.items():
                expected = self.data[f'{setting}/{precision}/param/{name}'][step]
                # Tolerances from the description of the oracle.
                atol = 1e-12 if precision == 'f64' else 2e-6 * np.abs(expected).max()
                if exact:
                    # Bitwise equal with the torch release that made the oracle; other releases sum in another order.
                    atol = 4 * np.finfo(expected.dtype).eps * np.abs(expected).max()
                np.testing.assert_allclose(param.detach(), expected, rtol=0, atol=atol, err_msg=f'{name} {step}')
            fired = [int(self.data[f'{setting}/fired/{name}'][step]) for name in self.names]
            expected = {view: fired.count(code) for view, code in VIEW_CODES.items()}
            assert optimizer.projection_stats() == expected
        if precision == 'f64':
            for name, param in params.items():
                state = optimizer.state[param]
                prefix = f'{setting}/f64/state/{name}/'
                assert set(state) == {key.removeprefix(prefix) for key in self.data if key.startswith(prefix)}
                for key, value in state.items():
                    np.testing.assert_allclose(value, self.data[prefix + key], rtol=0, atol=1e-12)


VIEW_CODES = dict(channel=1, layer=2, none=0, skipped=-1)


@pytest.fixture(scope='session')
def oracle(shared_dir):
    return Oracle(shared_dir / 'oracles/adamp_public.npz')


def make_params(dtype=torch.float64, shapes=SHAPES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def clone(params):
    return [Parameter(param.detach().clone()) for param in params]


def gradients(params, step, seed=1):
    """Gradients of one step: a third tangent to the rows, a third to the whole, a third random. Every view occurs."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    grads = []
    for number, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        kind = (number + step) % 3
        if param.dim() > 1 and param.numel() and kind < 2:
            size = (param.shape[0], -1) if kind == 0 else (1, -1)
            rows, weight = grad.reshape(size), param.detach().double().reshape(size)
            share = (rows * weight).sum(1, keepdim=True) / weight.square().sum(1, keepdim=True)
            grad = (rows - share * weight).reshape(param.shape)
        grads.append(grad.to(param.dtype))
    return grads


def run(optimizers, steps, first=0):
    """Step several optimizers, each on its own copy of the weights, with the gradients of the first one's weights."""
    lists = [[p for group in optimizer.param_groups for p in group['params']] for optimizer in optimizers]
    for step in range(first, first + steps):
        grads = gradients(lists[0], step)
        for params, optimizer in zip(lists, optimizers, strict=True):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            optimizer.step()
    return lists


def assert_close(actual, expected, relative):
    """Largest difference of every tensor, relative to its largest element."""
    for a, b in zip(actual, expected, strict=True):
        if b.numel():
            error = float((a.detach() - b.detach()).abs().max() / b.detach().abs().max())
            assert error <= relative, tuple(b.shape)


def equal(actual, expected):
    """Whether two lists of tensors are bitwise equal."""
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def states(optimizers, lists, name):
    """The entry ``name`` of every parameter's state, one list per optimizer."""
    return [[o.state[p][name] for p in params] for o, params in zip(optimizers, lists, strict=True)]


def check_batches(make, names, dtype, relative, projects):
    """Check that ``make(params, foreach)`` gives the same weights and ``names`` states with and without batches.

    Each of the four outcomes of the projection occurs if ``projects``.
    """
    optimizers = [make(make_params(dtype), foreach) for foreach in (False, True)]
    seen = dict.fromkeys(VIEW_CODES, 0)
    for step in range(40):
        one, many = run(optimizers, 1, first=step)
        stats = optimizers[0].projection_stats()
        assert optimizers[1].projection_stats() == stats
        assert sum(stats.values()) == len(one)
        seen = {view: count + stats[view] for view, count in seen.items()}
    assert_close(many, one, relative)
    for name in names:
        first, second = states(optimizers, (one, many), name)
        assert_close(second, first, relative)
    assert all(seen.values()) == projects


def check_channels_last(make):
    """Check that ``make(params, foreach)`` takes the same steps for channels-last weights, and keeps their layout."""
    plain = make_params(shapes=[(4, 3, 3, 3), (4, 3, 3, 3), (2, 3, 1, 1)])
    for foreach in (False, True):
        last = [Parameter(p.detach().clone(memory_format=torch.channels_last)) for p in plain]
        assert not last[0].is_contiguous()
        assert_close(*run([make(last, foreach), make(clone(plain), None)], 6), 1e-12)
        assert last[0].is_contiguous(memory_format=torch.channels_last)


def half_and_full(make, dtype, foreach):
    """Weights after five steps of ``make(params, foreach)`` in ``dtype`` and in float32 with the same gradients.

    In tensors with several elements, the gradient of the first one is 0.
    """
    half = make_params(dtype)
    full = [Parameter(p.detach().float()) for p in half]
    optimizers = make(half, foreach), make(full, None)
    for step in range(5):
        for a, b, grad in zip(half, full, gradients(half, step), strict=True):
            if grad.numel() > 1:
                grad.view(-1)[0] = 0
            a.grad, b.grad = grad, grad.float()
        for optimizer in optimizers:
            optimizer.step()
    return half, full


def check_resumed(make, other):
    """Check that ``make(params)``, saved and loaded into ``other(params)`` in mid-training, continues unchanged."""
    whole, params = make(make_params()), make_params()
    run([whole], 10)
    first = make(params)
    run([first], 5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = other(clone(params))
    second.load_state_dict(torch.load(file, weights_only=True))
    (weights,) = run([second], 5, first=5)
    assert equal(weights, whole.param_groups[0]['params'])


def two_dimensional(make, steps=200, angle=150):
    """Minimise -cos(w, w*) from (1, 0); the weights after every step, (steps + 1, 2), and the cosines."""
    goal = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
    weight = Parameter(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    optimizer, weights = make([weight]), [weight.detach()[0].clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        (-(weight[0] @ goal) / weight.norm()).backward()
        optimizer.step()
        weights.append(weight.detach()[0].clone())
    weights = torch.stack(weights)
    return weights, weights @ goal / weights.norm(dim=1)


def norm_from_tangents(weights):
    """Norm |w_T| if every step is a tangent: |w_0|^2 plus the squared lengths of the steps."""
    return float((weights[0].square().sum() + weights.diff(dim=0).square().sum()).sqrt())


class CountReads(TorchDispatchMode):
    """Counts reads of tensor values by the host."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope='session')
def published():
    """The authors' package; import its submodule, since pytest may put this folder, of the same name, on the path."""
    pytest.importorskip('adamp.adamp')
    return importlib.import_module('adamp')


@pytest.fixture
def never_wait(monkeypatch):
    """Batches that read no values, as on a GPU."""
    monkeypatch.setattr('dinor1.blocks.adamp.base.FREE_READS', ())


@pytest.fixture(params=['cpu', 'gpu'])
def as_on(request):
    """Batches that read whether a tensor passed, and batches that do not."""
    if request.param == 'gpu':
        request.getfixturevalue('never_wait')


def host_reads(make):
    """Host reads in the second of two steps."""
    params = make_params(torch.float32)
    optimizer = make(params)
    with CountReads() as counter:
        for step in range(2):
            for param, grad in zip(params, gradients(params, step), strict=True):
                param.grad = grad
            before = counter.reads
            optimizer.step()
    return counter.reads - before


def interchange(ours, theirs, switch, shapes, steps=12):
    """Move a state dict from one optimizer to the other in mid-training; compare with the other alone."""
    params = make_params(shapes=shapes)
    whole = theirs(clone(params))
    run([whole], steps)
    first, second = (ours, theirs) if switch == 'to theirs' else (theirs, ours)
    start = first(clone(params))
    (weights,) = run([start], steps // 2)
    resumed = second(clone(weights))
    resumed.load_state_dict(copy.deepcopy(start.state_dict()))
    (weights,) = run([resumed], steps - steps // 2, first=steps // 2)
    # Gradients depend on the weights, which amplifies rounding slightly.
    assert_close(weights, whole.param_groups[0]['params'], 1e-12)
    return start, resumed
