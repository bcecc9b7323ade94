"""Two processes with gloo, for tests of what replicas have to agree in."""

import os
import queue
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def environment(rank: int, port: int) -> dict[str, str]:
    """The environment variables that torchrun sets for a process."""
    variables = dict(MASTER_ADDR='localhost', MASTER_PORT=port, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2)
    return {name: str(value) for name, value in variables.items()}


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port: int = free.getsockname()[1]
    return port


def join(rank: int, port: int) -> None:
    """Join the process group; every target calls this first, and :func:`leave` at the end."""
    os.environ.update(environment(rank, port))
    torch.set_num_threads(1)
    dist.init_process_group('gloo')


def leave() -> None:
    """Wait for the other process, and close the group."""
    dist.barrier()
    dist.destroy_process_group()


def run(target: Callable[..., None], *arguments: Any, timeout: float = 300) -> list[tuple]:
    """Start ``target(rank, port, *arguments, queue)`` twice.

    Args:
        target: A function of a module, which a new process can import.
        *arguments: Passed on, pickled.
        timeout: Seconds until the results are expected.

    Returns:
        What each puts into the queue, a tuple that begins with its rank, in the order of ranks.

    Raises:
        RuntimeError: a process ended without a result, or took too long.
    """
    port = free_port()
    context = mp.get_context('spawn')
    answers = context.Queue()
    processes = [context.Process(target=target, args=(rank, port, *arguments, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        results = _collect(answers, processes, time.monotonic() + timeout)
        for process in processes:
            process.join(timeout=60)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return sorted(results, key=lambda result: result[0])


def _collect(answers: Any, processes: list, deadline: float) -> list[tuple]:
    results: list[tuple] = []
    while len(results) < len(processes):
        try:
            results.append(answers.get(timeout=1))
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError('a process ended with an error; its traceback is above') from None
            if time.monotonic() > deadline:
                raise RuntimeError('no result in time') from None
    return results
