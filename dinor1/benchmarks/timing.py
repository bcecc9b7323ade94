"""Timing on ``torch.utils.benchmark``: its timer, clock and measurements, and turns of several implementations.

:func:`timed` is torch's own ``Timer``. :func:`take_turns` compares: the implementations take turns, round after round,
so that other load on the machine affects all of them alike, and a ratio is the median over the rounds of the ratio
within a round. Torch has no such thing. Its ``Timer`` finishes with one implementation before the next, and calls it
twice before every measurement, which would triple the cost of a training step that is timed once per round. Its
``Compare`` has neither ratios within a round nor quartiles; a ``Measurement`` tells how far these are apart, and not
where they are.
"""

import contextlib
import logging
import statistics
import time
import timeit
from collections.abc import Callable

import torch

# Torch's builder of extensions, which comes with the timer, tells where CUDA's toolkit is but no GPU.
logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
from torch.utils import benchmark  # noqa: E402


def wall_clock() -> float:
    """Torch's clock in seconds, which waits for an accelerator before it is read."""
    return benchmark.timer()


# Processor time is that of this process.
CLOCKS: dict[str, Callable[[], float]] = {'wall': wall_clock, 'cpu': time.process_time}


def timed(
    function: Callable[[], object], device: str = 'cpu', clock: str = 'wall', seconds: float = 0.2
) -> benchmark.Measurement:
    """Time a single function, in as many calls as torch finds necessary.

    Args:
        function: What to run.
        device: ``cpu`` or a CUDA device.
        clock: A key of :data:`CLOCKS`.
        seconds: How long to measure, at least.
    """
    timer = benchmark.Timer(
        'function()', globals={'function': function}, timer=CLOCKS[clock], num_threads=torch.get_num_threads()
    )
    with _current(device):
        return timer.blocked_autorange(min_run_time=seconds)


def take_turns(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    device: str = 'cpu',
    clock: str = 'wall',
    warmup: int = 1,
    deadline: float = float('inf'),
    calls: int = 1,
) -> dict[str, benchmark.Measurement]:
    """Time every function in every round; ``times`` of a result are seconds per call, one for each round.

    Args:
        functions: Name -> function.
        rounds: Timed rounds.
        device: See :func:`timed`.
        clock: See :func:`timed`.
        warmup: Calls of each before the first round.
        deadline: Value of ``time.monotonic()`` after which no round but the first is begun.
        calls: Calls of a function between two readings of the clock, so that the launch on a GPU does not count.
    """
    # Torch's Timer is this timer of Python's with torch's clock.
    timers = {name: timeit.Timer(function, timer=CLOCKS[clock]) for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with _current(device):
        for function in functions.values():
            for _ in range(warmup):
                function()
        for i in range(rounds):
            if i and time.monotonic() > deadline:
                break
            for name, timer in timers.items():
                seconds[name].append(timer.timeit(calls))
    threads = torch.get_num_threads()
    return {
        name: benchmark.Measurement(calls, times, benchmark.TaskSpec(name, setup='', num_threads=threads))
        for name, times in seconds.items()
    }


def ratio(seconds: list[float], base: list[float]) -> float:
    """Median over the rounds of the time relative to the time of the base in the same round."""
    return statistics.median(own / other for own, other in zip(seconds, base, strict=True))


def _current(device: str) -> contextlib.AbstractContextManager[object]:
    """Torch's clock waits for the current device alone."""
    return contextlib.nullcontext() if device == 'cpu' else torch.cuda.device(device)
