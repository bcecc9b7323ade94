"""The projection: its definition in loops, its geometry, and networks with scale-invariant weights."""

import math

import numpy as np
import pytest
import torch
from scipy.special import betainc
from torch import nn

from dinor1.blocks.adamp import SGDP, AdamP
from dinor1.blocks.adamp.projection import project_, radial_coefficients, which_pass

EPS = 1e-8


def by_definition(weight, grad, update, delta, eps=EPS):
    """The specification in numpy loops; returns the view and the projected update."""
    rows, flat = weight.reshape(len(weight), -1), (1, weight.size)
    for view, size in (('channel', rows.shape), ('layer', flat)):
        w, g, u = (x.reshape(size) for x in (weight, grad, update))
        cosines = [
            abs(float(g[r] @ w[r])) / (max(np.sqrt(g[r] @ g[r]), eps) * max(np.sqrt(w[r] @ w[r]), eps))
            for r in range(size[0])
        ]
        if max(cosines) < delta / math.sqrt(size[1]):
            hats = [w[r] / (np.sqrt(w[r] @ w[r]) + eps) for r in range(size[0])]
            return view, np.stack([u[r] - hats[r] * (hats[r] @ u[r]) for r in range(size[0])]).reshape(weight.shape)
    return 'none', update


def cases(shape=(4, 3, 2), count=12, seed=0):
    """Weights, gradients and updates, (count, *shape): tangent by rows, tangent as a whole, all but one row, random."""
    generator = torch.Generator().manual_seed(seed)
    weights, grads, updates = torch.randn(3, count, *shape, generator=generator, dtype=torch.float64)
    for i in range(count):
        if i % 4 == 3:
            continue
        size = (1, -1) if i % 4 == 1 else (shape[0], -1)
        w, g = weights[i].reshape(size), grads[i].reshape(size)
        tangent = g - w * ((w * g).sum(1) / w.square().sum(1))[:, None]
        if i % 4 == 2:
            tangent[0] = w[0]
        grads[i] = tangent.reshape(shape)
    return weights, grads, updates


def batched(weights, grads, updates, delta=0.1):
    """Views and projected updates of the batched form, as in :func:`by_definition`."""
    w, g, u = (x.reshape(x.shape[0], x.shape[1], -1) for x in (weights, grads, updates))
    found = which_pass(w, g, delta, EPS)
    views = ['channel' if c else 'layer' if a else 'none' for c, a in zip(found.channel, found.layer, strict=True)]
    return views, (u - radial_coefficients(found, w, u, EPS) * w).reshape(updates.shape)


@pytest.mark.parametrize('delta', [0.1, 0.5, 3.0])
@pytest.mark.parametrize('shape', [(4, 3, 2), (1, 7), (5, 1), (3, 2, 3, 3)])
def test_projection_both_forms_equal_definition(shape, delta):
    weights, grads, updates = cases(shape)
    views, projected = batched(weights, grads, updates, delta)
    seen = set()
    for i in range(len(weights)):
        view, expected = by_definition(*(x[i].numpy() for x in (weights, grads, updates)), delta)
        seen.add(view)
        assert views[i] == view
        # Sums of at most 54 numbers of size 1 in float64.
        np.testing.assert_allclose(projected[i], expected, rtol=0, atol=1e-13)
        one = updates[i].clone()
        assert project_(weights[i], grads[i], one, delta, EPS) == view
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-13)
    if shape == (4, 3, 2) and delta == 0.1:
        assert seen == {'channel', 'layer', 'none'}


def test_projection_update_is_tangent_up_to_eps():
    weights, grads, updates = cases()
    views, projected = batched(weights, grads, updates)
    for i, view in enumerate(views):
        size = dict(channel=(4, -1), layer=(1, -1), none=None)[view]
        if size is None:
            assert torch.equal(projected[i], updates[i])
            continue
        w, u, raw = (x[i].reshape(size) for x in (weights, projected, updates))
        norm = w.norm(dim=1)
        left, before = (w * u).sum(1) / norm, (w * raw).sum(1) / norm
        # Dividing by |w| + eps leaves 1 - (|w| / (|w| + eps))^2, which is 2 eps / |w|, of the radial part.
        torch.testing.assert_close(left, 2 * EPS / norm * before, rtol=1e-5, atol=1e-14)


def test_projection_prefers_channel_view_and_needs_every_row():
    weight = torch.eye(3, 4, dtype=torch.float64)
    grad = torch.zeros_like(weight)
    grad[:, 3] = 1
    assert project_(weight, grad, torch.ones_like(weight), 0.1, EPS) == 'channel'
    grad[0, 0], grad[1, 1] = 1, -1  # two rows are parallel; in the whole tensor they cancel
    update = torch.ones_like(weight)
    assert project_(weight, grad, update, 0.1, EPS) == 'layer'
    assert (weight * update).sum().abs() < 1e-7
    assert (weight * update).sum(1).abs().max() < 1e-7
    assert batched(weight[None], grad[None], update[None])[0] == ['layer']


def test_projection_negative_cosine_does_not_pass():
    """The paper's algorithm boxes lack the absolute value, a misprint according to the authors."""
    weight = torch.randn(2, 6, dtype=torch.float64)
    assert project_(weight, -weight, torch.ones_like(weight), 0.1, EPS) == 'none'
    assert batched(weight[None], -weight[None], weight[None])[0] == ['none']


def test_projection_threshold_is_strict():
    weight, grad = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert project_(weight, grad, grad.clone(), 0.0, EPS) == 'none'  # cosine 0 is not below 0
    assert batched(weight[None], grad[None], grad[None], delta=0.0)[0] == ['none']
    assert project_(weight, grad, grad.clone(), 1e-30, EPS) == 'channel'


@pytest.mark.parametrize('size', [(1, 16), (3, 8)])
def test_projection_pass_rate_for_random_gradients(size):
    """The squared cosine of two random directions is Beta(1/2, (n-1)/2) distributed; about 8 % pass at delta 0.1."""
    count, delta = 20_000, 0.1
    draws = torch.randn(3, count, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    views = batched(*draws, delta)[0]

    def chance(n):
        return betainc(0.5, (n - 1) / 2, delta**2 / n)

    all_rows, whole = chance(size[1]) ** size[0], chance(size[0] * size[1])
    assert 0.07 < whole < 0.083
    passed = len(views) - views.count('none')
    # Four standard deviations; a tensor of several rows may also pass in the channel view only.
    slack = all_rows if size[0] > 1 else 0
    assert passed / count == pytest.approx(whole, abs=4 * math.sqrt(whole / count) + slack)
    assert views.count('channel') / count == pytest.approx(all_rows, abs=4 * math.sqrt(all_rows / count))


@pytest.mark.parametrize('scale', [2.0**-20, 2.0**12])
@pytest.mark.parametrize('scaled', ['weight', 'grad'])
def test_projection_decision_ignores_lengths(scale, scaled):
    weights, grads, updates = cases(count=40)
    views = batched(weights, grads, updates, 0.5)[0]
    if scaled == 'weight':
        weights = weights * scale
    else:
        grads = grads * scale
    assert batched(weights, grads, updates, 0.5)[0] == views
    assert [project_(*three, 0.5, EPS) for three in zip(weights, grads, updates, strict=True)] == views


def test_projection_zero_gradient_and_zero_weight_are_harmless():
    weight, update = torch.randn(1, 2, 3, dtype=torch.float64), torch.ones(1, 2, 3, dtype=torch.float64)
    zero = torch.zeros_like(weight)
    for w, g in ((weight, zero), (zero, weight), (zero, zero)):
        views, projected = batched(w, g, update)
        one = update[0].clone()
        assert [project_(w[0], g[0], one, 0.1, EPS)] == views == ['channel']
        torch.testing.assert_close(projected[0], one, rtol=1e-12, atol=0)
        if w is zero:
            assert torch.equal(one, update[0])


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_projection_nonfinite_gradient_is_not_projected(value):
    weight, grad = torch.randn(2, 3), torch.randn(2, 3)
    grad[0, 0] = value
    assert project_(weight, grad, torch.ones(2, 3), 0.1, EPS) == 'none'
    assert batched(weight[None], grad[None], torch.ones(1, 2, 3))[0] == ['none']


def test_projection_ignores_layout():
    weights, grads, updates = cases((4, 3, 2, 2))
    for weight, grad, update in zip(weights, grads, updates, strict=True):
        plain = update.clone()
        w, g, other = (x.clone(memory_format=torch.channels_last) for x in (weight, grad, update))
        assert not other.is_contiguous()
        assert project_(w, g, other, 0.1, EPS) == project_(weight, grad, plain, 0.1, EPS)
        torch.testing.assert_close(other, plain, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize('shape', [(), (5,), (0, 3), (3, 0)])
def test_projection_skips_tensors_without_rows(shape):
    update = torch.ones(shape)
    assert project_(torch.ones(shape), torch.zeros(shape), update, 0.1, EPS) == 'skipped'
    assert torch.equal(update, torch.ones(shape))


def scale_invariant_network(kind):
    """A network in float64, and the weight that its normalisation makes scale-invariant."""
    if kind == 'channel':
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-12), nn.Flatten(), nn.Linear(64, 2)
        )
        return net.double(), net[0], torch.randn(8, 3, 6, 6, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.LayerNorm(5, eps=1e-12), nn.Tanh(), nn.Linear(5, 2))
    return net.double(), net[0], torch.randn(8, 6, dtype=torch.float64)


@pytest.mark.parametrize('optimizer', [AdamP, SGDP])
@pytest.mark.parametrize('kind', ['channel', 'layer'])
def test_projection_finds_normalised_weights_at_every_step(kind, optimizer):
    """BatchNorm makes every filter scale-invariant, LayerNorm only the whole matrix."""
    net, layer, inputs = scale_invariant_network(kind)
    made = optimizer([layer.weight], lr=0.01)
    lengths, steps = [float(layer.weight.detach().norm())], []
    for _ in range(20):
        net.zero_grad()
        net(inputs).square().sum().backward()
        before = layer.weight.detach().clone()
        made.step()
        assert made.projection_stats() == {'channel': 0, 'layer': 0, 'none': 0, 'skipped': 0} | {kind: 1}
        lengths.append(float(layer.weight.detach().norm()))
        steps.append(float((layer.weight.detach() - before).norm()))
    # Only the growth of tangent steps remains: eps leaves 2e-8 / |w| of each step along the weight.
    expected = math.sqrt(lengths[0] ** 2 + sum(step**2 for step in steps))
    assert lengths[-1] == pytest.approx(expected, rel=1e-6)
    assert lengths == sorted(lengths)
