"""Two processes with gloo: each draws its own noise, and layers may be replaced inside of a DDP wrapper."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dinor1.blocks.shiftquant import noise_state, quantize_model
from tests.two_processes import join, leave, run


def step(rank: int, port: int, queue) -> None:
    """A step of one process with the data of the other: their local gradients differ by noise alone."""
    join(rank, port)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    wrapped = DistributedDataParallel(model)
    quantize_model(model, skip=())
    x = torch.randn(4, 1, 8, 8)
    with wrapped.no_sync():
        wrapped(x).square().sum().backward()
    local = model[2].weight.grad.tolist()
    wrapped.zero_grad()
    wrapped(x).square().sum().backward()
    queue.put((rank, local, model[2].weight.grad.tolist(), noise_state(model)))
    leave()


def test_noise_differs_by_rank_and_reduced_gradients_agree():
    first, second = run(step)
    assert first[1] != second[1]
    assert first[2] == second[2]
    assert first[3] == second[3] == {'0': 2, '2': 2}
