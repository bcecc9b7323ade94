"""GroupSampler: seeds, steps, modes, checkpoints."""

import copy
import itertools

import pytest
import torch
from torch import nn

from dinor1.blocks.lie import SL2, GLp2, GroupSampler, GroupSamples, resample


def draws(sampler, count=3):
    return [sampler().g for _ in range(count)]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_sampler_seed_determines_every_step():
    assert same(draws(GroupSampler(SL2(), 4, seed=3)), draws(GroupSampler(SL2(), 4, seed=3)))
    sampler = GroupSampler(SL2(), 4, seed=3)
    assert same(draws(sampler), [sampler.draw(step).g for step in range(3)])


def test_sampler_seeds_layers_steps_and_modes_are_unrelated():
    sets = [
        GroupSampler(SL2(), 4, seed=seed, layer=layer).draw(step, mode).g
        for seed, layer, step, mode in itertools.product((0, 1), repeat=4)
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(sets, 2))


def test_sampler_ignores_autocast():
    expected = GroupSampler(GLp2(), 4, seed=3).draw(0)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(GroupSampler(GLp2(), 4, seed=3).draw(0).g, expected.g)


def test_sampler_does_not_change_global_random_state():
    sampler = GroupSampler(SL2(), 4, seed=0)
    before = torch.get_rng_state()
    draws(sampler)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize('mode', ['always', 'train', 'never'])
def test_sampler_resample_modes(mode):
    sampler = GroupSampler(GLp2(), 4, mode, seed=0)
    first, second, _ = draws(sampler.train())
    assert torch.equal(first, second) == (mode == 'never')
    one, two, _ = draws(sampler.eval())
    assert torch.equal(one, two) == (mode != 'always')


def test_sampler_evaluation_may_have_more_samples():
    sampler = GroupSampler(GLp2(), 4, 'train', seed=0, n_test=9)
    assert len(sampler.train()().g) == 4
    assert len(sampler.eval()().g) == 9
    with pytest.raises(ValueError, match="with resample='never' there is one set"):
        GroupSampler(GLp2(), 4, 'never', n_test=9)


def test_sampler_evaluation_does_not_change_training_draws():
    plain, evaluated = (GroupSampler(SL2(), 4, seed=0) for _ in range(2))
    draws(plain), draws(evaluated)
    draws(evaluated.eval())
    assert same(draws(plain), draws(evaluated.train()))


def test_sampler_resumes_where_it_stopped():
    sampler = GroupSampler(SL2(), 4, seed=5)
    draws(sampler)
    # Another seed, as in a new process without a fixed seed.
    resumed = GroupSampler(SL2(), 4, seed=6)
    resumed.load_state_dict(copy.deepcopy(sampler.state_dict()))
    assert same(draws(sampler), draws(resumed))
    fixed, loaded = GroupSampler(SL2(), 4, 'never', seed=5), GroupSampler(SL2(), 4, 'never', seed=6)
    draws(loaded)
    loaded.load_state_dict(fixed.state_dict())
    assert same(draws(fixed), draws(loaded))


def test_resample_gives_all_samplers_new_samples():
    model = nn.ModuleDict(dict(a=GroupSampler(SL2(), 3, 'never', seed=0), b=nn.Linear(1, 1)))
    first = draws(model['a'], 1)
    resample(model, 7)
    second = draws(model['a'], 1)
    assert not same(first, second)
    resample(model, 7)
    assert same(second, draws(model['a'], 1))


def test_sampler_passes_options_to_group():
    sampler = GroupSampler(GLp2(), 5, seed=0, rot='cyclic', spd_var=0.01, importance=True)
    samples = sampler()
    assert isinstance(samples, GroupSamples)
    expected = GLp2().coords(samples.g)[:, -1]
    torch.testing.assert_close(expected, 2 * torch.pi * torch.arange(5) / 5, rtol=0, atol=1e-5)
    assert samples.weight.std() > 0
    moved = samples.to(torch.float64)
    assert all(tensor.dtype == torch.float64 for tensor in moved)


def test_samples_transport_moves_elements():
    group = GLp2()
    samples = group.sample(4, torch.Generator().manual_seed(0), importance=True, dtype=torch.float64)
    h = torch.tensor([[1.0, 0.4], [0.0, 1.3]])
    moved = samples.transport(h)
    torch.testing.assert_close(moved.g_inv[:, None] @ moved.g, samples.g_inv[:, None] @ samples.g)
    torch.testing.assert_close(moved.g, h.double() @ samples.g)
    assert torch.equal(moved.weight, samples.weight)


def test_sampler_bad_arguments_raise():
    with pytest.raises(ValueError, match='resample must be one of always, train, never'):
        GroupSampler(SL2(), 4, 'sometimes')
    with pytest.raises(ValueError, match='number of samples must be at least 1, got 0'):
        GroupSampler(SL2(), 0)
    with pytest.raises(ValueError, match='rot must be one of'):
        GroupSampler(SL2(), 4, rot='spiral')
