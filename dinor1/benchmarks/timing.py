"""Timing of several implementations of the same computation.

The implementations take turns, round after round, so that other load on the machine affects all of them alike. A ratio
is the median over the rounds of the ratio within a round.
"""

import statistics
import time
from collections.abc import Callable

import torch

CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}


def timed(function: Callable[[], object], device: str = 'cpu', clock: str = 'wall') -> float:
    """Seconds of a call, on a CUDA device with synchronisation before and after.

    Args:
        function: What to run.
        device: ``cpu`` or a CUDA device.
        clock: ``wall``, or ``cpu``: processor time of this process.
    """
    now = CLOCKS[clock]
    if device != 'cpu':
        torch.cuda.synchronize(device)
    start = now()
    function()
    if device != 'cpu':
        torch.cuda.synchronize(device)
    return now() - start


def take_turns(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    device: str = 'cpu',
    clock: str = 'wall',
    warmup: int = 1,
    deadline: float = float('inf'),
) -> dict[str, list[float]]:
    """Seconds of every function in every round.

    Args:
        functions: Name -> function.
        rounds: Timed calls of each.
        device: See :func:`timed`.
        clock: See :func:`timed`.
        warmup: Calls of each before the first round.
        deadline: Value of ``time.monotonic()`` after which no round but the first is begun.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds):
        if i and time.monotonic() > deadline:
            break
        for name, function in functions.items():
            seconds[name].append(timed(function, device, clock))
    return seconds


def ratio(seconds: list[float], base: list[float]) -> float:
    """Median over the rounds of the time relative to the time of the base in the same round."""
    return statistics.median(own / other for own, other in zip(seconds, base, strict=True))
