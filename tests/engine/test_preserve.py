"""``preserved`` restores the state of a model after forward and backward passes."""

import copy

import pytest
import torch
from torch import nn

from dinor1.blocks.lie import SL2, GroupSampler
from dinor1.blocks.normalization import FixedStdLayerNorm, PowerNorm
from dinor1.blocks.shiftquant import GradientStats, IntLinear, L1LayerNorm, noise_state
from dinor1.engine.preserve import preserved


class Net(nn.Module):
    """Model with every kind of state: buffers, one of which is replaced in every pass, noise, counters, statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = IntLinear(4, 4, seed=0)
        self.norms = nn.Sequential(
            nn.BatchNorm1d(4), PowerNorm(4, warmup_iters=1), FixedStdLayerNorm(4), L1LayerNorm(4, seed=0)
        )
        self.sampler = GroupSampler(SL2(), 2, seed=0)

    def forward(self, x):
        return self.norms(self.linear(x)) * self.sampler().g.sum()


def host(model):
    return noise_state(model), model.sampler.host_state(), model.norms[1].host_state(), model.linear.stats


def measure(model, x):
    """Run passes that change every state, and raise an error at the end."""
    before = host(model)
    with preserved(model):
        model(x).sum().backward()
        assert host(model)[0] != before[0]
        assert host(model)[1] != before[1]
        raise ZeroDivisionError


def test_preserved_restores_state_after_exception():
    # Run passes in a model and not in its copy.
    model = Net()
    x = torch.randn(6, 4)
    model(x).sum().backward()
    model.linear.stats = stats = GradientStats()
    other = copy.deepcopy(model)
    before, state = host(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ZeroDivisionError):
        measure(model, x)
    # The state has not changed.
    after = host(model)
    assert after[:2] == before[:2]
    assert after[3] is stats
    assert not stats.group_shares()
    assert len(after[2]) == len(before[2])
    assert all(a is b for a, b in zip(after[2], before[2], strict=True))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    # The next pass of the model equals that of its copy.
    for net in (model, other):
        net.zero_grad()
        net(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
