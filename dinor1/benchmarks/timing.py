"""Time functions with ``torch.utils.benchmark``, a single one or several alternately.

:func:`timed` calls torch's ``Timer``. :func:`take_turns` compares several functions, which alternate, round after
round, so that other load on the machine affects all of them alike; a ratio is the median over the rounds of the ratio
within a round. Torch does not offer this. Its ``Timer`` measures one function completely before the next, and calls it
twice before every measurement, which would triple the cost of a training step that is timed once per round. Its
``Compare`` reports neither ratios within a round nor quartiles; a ``Measurement`` reports only the distance of the
quartiles.
"""

import contextlib
import logging
import statistics
import time
import timeit
from collections.abc import Callable

import torch

# The timer imports torch's extension builder, which logs a warning on a machine with the CUDA toolkit and without GPU.
logging.getLogger('torch.utils.cpp_extension').setLevel(logging.ERROR)
from torch.utils import benchmark  # noqa: E402


def wall_clock() -> float:
    """Time in seconds by torch's clock, which waits for the accelerator."""
    return benchmark.timer()


# Name -> clock; 'cpu' is the processor time of this process.
CLOCKS: dict[str, Callable[[], float]] = {'wall': wall_clock, 'cpu': time.process_time}


def timed(
    function: Callable[[], object], device: str = 'cpu', clock: str = 'wall', seconds: float = 0.2
) -> benchmark.Measurement:
    """Time a single function; torch chooses the number of calls.

    Args:
        function: The function.
        device: ``cpu`` or a CUDA device.
        clock: A key of :data:`CLOCKS`.
        seconds: Minimum duration of the measurement in seconds.
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
    """Time every function once per round.

    Args:
        functions: Name -> function.
        rounds: Timed rounds.
        device: See :func:`timed`.
        clock: See :func:`timed`.
        warmup: Calls of each function before the first round.
        deadline: Value of ``time.monotonic()`` after which no round except the first begins.
        calls: Calls of a function between two readings of the clock, so that the launch overhead on a GPU does not
            count.

    Returns:
        Name -> measurement, whose ``times`` are seconds per call, one for each round.
    """
    # Use Python's timer with the chosen clock, as torch's Timer does.
    timers = {name: timeit.Timer(function, timer=CLOCKS[clock]) for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    with _current(device):
        # Warm up.
        for function in functions.values():
            for _ in range(warmup):
                function()
        # Time the rounds.
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
    """Median over the rounds of ``seconds`` relative to ``base`` in the same round."""
    return statistics.median(own / other for own, other in zip(seconds, base, strict=True))


def _current(device: str) -> contextlib.AbstractContextManager[object]:
    """Context that makes ``device`` the current device, because torch's clock waits only for that."""
    return contextlib.nullcontext() if device == 'cpu' else torch.cuda.device(device)
