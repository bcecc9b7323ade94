"""Two processes with gloo whose generators differ: replicas draw the same samples, in training and evaluation."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dinor1.lie import AffineEquivariantNet, resample


def draws(rank: int, port: int, queue) -> None:
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
    torch.manual_seed(rank)
    net = AffineEquivariantNet('gl2', width=2, n_samples=3, hidden=4)
    sets = [net.train(mode).draw() for mode in (True, False)]
    resample(net, 7)
    sets.append(net.draw())
    queue.put((rank, [samples.g.tolist() for pair in sets for samples in pair], torch.rand(1).item()))
    dist.barrier()
    dist.destroy_process_group()


def test_replicas_without_a_seed_agree():
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = mp.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=draws, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    first, second = sorted(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    # The generators themselves stay apart, as data loaders and dropout want it.
    assert first[1] == second[1] and first[2] != second[2]
