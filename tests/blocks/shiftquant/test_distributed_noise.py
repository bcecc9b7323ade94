"""Two processes with gloo: each draws its own noise, and distributed wrappers take integer layers."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import always_wrap_policy
from torch.nn.parallel import DistributedDataParallel

from dinor1.blocks.shiftquant import count_macs, noise_state, quantize_model
from tests.two_processes import join, leave, run


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))


def step(rank: int, port: int, first: str, queue) -> None:
    """A step in which both processes have the same data: local gradients differ by noise only."""
    join(rank, port)
    model = network()
    if first == 'convert':
        quantize_model(model, skip=())
    wrapped = DistributedDataParallel(model)
    if first == 'wrap':
        quantize_model(model, skip=())
    x = torch.randn(4, 1, 8, 8)
    with wrapped.no_sync():
        wrapped(x).square().sum().backward()
    local = model[3].weight.grad.tolist()
    wrapped.zero_grad()
    wrapped(x).square().sum().backward()
    queue.put((rank, local, model[3].weight.grad.tolist(), noise_state(model)))
    leave()


@pytest.mark.parametrize('first', ['convert', 'wrap'])
def test_noise_differs_by_rank_and_reduced_gradients_agree(first):
    one, two = run(step, first)
    assert one[1] != two[1]
    assert one[2] == two[2]
    assert one[3] == two[3] == {'0': 2, '3': 2}


def losses(model: nn.Module, whole: nn.Module) -> list[float]:
    """Three steps of ``whole``, which is ``model`` or a wrapper of it."""
    optimizer, x, found = torch.optim.SGD(whole.parameters(), lr=0.01), torch.randn(4, 1, 8, 8), []
    for _ in range(3):
        loss = whole(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if whole is model:
            for parameter in model.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= 2
        optimizer.step()
        found.append(loss.item())
    return found


def sharded(rank: int, port: int, nested: bool, queue) -> None:
    """The same training without and with FSDP, sharded on CPU."""
    join(rank, port)
    found, shares = [], []
    for is_sharded in (False, True):
        model = whole = network()
        quantize_model(model, skip=['3'], norm='l1')
        if is_sharded:
            policy = always_wrap_policy if nested else None
            whole = FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device('cpu'))
        shares.append(count_macs(whole, torch.zeros(1, 1, 8, 8)).share)
        torch.manual_seed(1)
        found.append(losses(model, whole))
    queue.put((rank, found, shares))
    leave()


@pytest.mark.parametrize('nested', [False, True])
def test_integer_layers_with_fsdp_equal_plain_model(nested):
    for _, found, shares in run(sharded, nested):
        assert found[0] == found[1]
        assert len(set(found[0])) == 3
        assert shares[0] == shares[1] > 0
