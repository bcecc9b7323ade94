"""Two processes with gloo: each draws its own noise, and layers may be replaced inside of a DDP wrapper."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dinor1.quant import noise_state, quantize_model


def step(rank: int, port: int, queue) -> None:
    """A step of one process with the data of the other: their local gradients differ by noise alone."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
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
    dist.barrier()
    dist.destroy_process_group()


def test_noise_differs_by_rank_and_reduced_gradients_agree():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = mp.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=step, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    first, second = sorted(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert first[1] != second[1] and first[2] == second[2] and first[3] == second[3] == {'0': 2, '2': 2}
