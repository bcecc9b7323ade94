"""Two processes with gloo, for tests of what replicas have to agree in."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def join(rank: int, port: int) -> None:
    """What a target does first; it leaves by :func:`leave`."""
    os.environ.update(MASTER_ADDR='localhost', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)
    dist.init_process_group('gloo')


def leave() -> None:
    """Wait for the other process, and close the group."""
    dist.barrier()
    dist.destroy_process_group()


def run(target: Callable[..., None], *arguments: Any) -> list[tuple]:
    """Start ``target(rank, port, *arguments, queue)`` twice.

    Returns:
        What each puts into the queue, a tuple that begins with its rank, in the order of ranks.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    context = mp.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=target, args=(rank, port, *arguments, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = sorted((queue.get(timeout=120) for _ in processes), key=lambda result: result[0])
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    return results
