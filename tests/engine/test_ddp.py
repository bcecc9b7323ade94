"""Two processes with gloo: what DDP asks of the losses, and what the reference must keep out of its buckets."""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel

COUNTS = {0: (3, 1), 1: (0, 0)}  # the second process sees no box at all


def step(rank: int, port: int, model, batches, queue) -> None:
    """One GRQO step of one process; reports its gradients."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    from dinor1.models import GRQOSettings

    model.set_grqo(GRQOSettings())
    model.reference = copy.deepcopy(model).eval().requires_grad_(False).objectness
    # Without find_unused_parameters, DDP stops at the second step if a parameter got no gradient in the first.
    wrapped = MMDistributedDataParallel(model)
    inputs, samples = batches[rank]
    for _ in range(2):
        torch.manual_seed(rank)
        wrapped.zero_grad()
        loss, _ = model.parse_losses(wrapped(inputs, samples, mode='loss'))
        loss.backward()
    queue.put((rank, loss.item(), {n: p.grad.numpy() for n, p in model.named_parameters()}))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.filterwarnings('ignore')
def test_two_processes_agree_though_one_has_no_box(build_tiny, make_batch):
    model = build_tiny(**{'model.data_preprocessor.bgr_to_rgb': False})
    batches = {rank: make_batch(counts, seed=rank) for rank, counts in COUNTS.items()}
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = mp.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=step, args=(rank, port, model, batches, queue)) for rank in COUNTS]
    for process in processes:
        process.start()
    results = {rank: (loss, grads) for rank, loss, grads in (queue.get(timeout=120) for _ in processes)}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert all(loss == loss for loss, _ in results.values())
    for name, gradient in results[0][1].items():
        assert (gradient == results[1][1][name]).all(), name
