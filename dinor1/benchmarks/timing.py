"""Fair timing of contenders that do the same thing in different ways.

Contenders take turns, round after round, so that whatever else the machine does meets all of them. A ratio is the
median over the rounds of the ratio within a round.
"""

import statistics
import time
from collections.abc import Callable

import torch

CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}


def timed(function: Callable[[], object], device: str = 'cpu', clock: str = 'wall') -> float:
    """Seconds from an idle device to an idle device.

    Args:
        function: What to run.
        device: ``cpu``, or a CUDA device, which is waited for.
        clock: ``wall``, or ``cpu``: the time that this process had a processor.
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
    contenders: dict[str, Callable[[], object]],
    rounds: int,
    device: str = 'cpu',
    clock: str = 'wall',
    warmup: int = 1,
    deadline: float = float('inf'),
) -> dict[str, list[float]]:
    """Seconds of every contender in every round.

    Args:
        contenders: Name -> function.
        rounds: Timed calls of each.
        device: See :func:`timed`.
        clock: See :func:`timed`.
        warmup: Calls of each before the first round.
        deadline: ``time.monotonic()`` after which no further round is begun, but the first.
    """
    for function in contenders.values():
        for _ in range(warmup):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(rounds):
        if i and time.monotonic() > deadline:
            break
        for name, function in contenders.items():
            seconds[name].append(timed(function, device, clock))
    return seconds


def ratio(seconds: list[float], base: list[float]) -> float:
    """Median over the rounds of the time relative to that of another contender in the same round."""
    return statistics.median(mine / other for mine, other in zip(seconds, base, strict=True))
