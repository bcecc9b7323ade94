"""Run the phases of a long job one after the other: each has a line of progress, and its output goes to a log file."""

import dataclasses
import datetime
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from dinor1.utils.command import last_lines, read_log, run_logged
from dinor1.utils.io import read_json, write_json
from dinor1.utils.log_progress import RemainingTime, read_progress


@dataclasses.dataclass(frozen=True)
class Phase:
    """A command of a job.

    Attributes:
        name: Name of the log file, and of the phase in the record of times.
        title: Title that is shown to the user.
        command: Arguments of Python: a tool and its options.
        done: A file; if it exists, the phase is not run again. None: the phase always runs.
    """

    name: str
    title: str
    command: Sequence[str]
    done: Path | None = None


class Line:
    """A line that is rewritten in place on a terminal; elsewhere only the last text is printed."""

    def __init__(self) -> None:
        self.in_place = sys.stdout.isatty()

    def show(self, text: str) -> None:
        """Replace the text; without a terminal, do nothing."""
        if self.in_place:
            width = shutil.get_terminal_size().columns - 1
            print(f'\r\x1b[2K{text[:width]}', end='', flush=True)

    def finish(self, text: str) -> None:
        """Write the last text and end the line."""
        print(f'\r\x1b[2K{text}' if self.in_place else text, flush=True)


def run_phases(phases: Sequence[Phase], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run the phases that are not done yet, and print a table of all durations.

    The log of a phase is ``folder/logs/NAME.log``; ``folder/phases.json`` holds the seconds of each phase, added up
    over interrupted attempts.

    Args:
        phases: The phases, in the order in which they run.
        folder: Folder for logs and times.
        environment: Environment variables of the commands. Default: those of this process.

    Raises:
        SystemExit: a phase failed; the exit status is that of the phase, and the end of its log was printed.
        KeyboardInterrupt: the phase was interrupted, and has ended.
    """
    # Read the durations of earlier runs.
    times = folder / 'phases.json'
    seconds: dict[str, float] = read_json(times) if times.is_file() else {}
    for i, phase in enumerate(phases):
        label = f'[{i + 1}/{len(phases)}] {phase.title}'
        if phase.done is not None and phase.done.exists():
            print(f'{label}: done before ({duration(seconds.get(phase.name))})', flush=True)
            continue
        # Add to the time of an earlier attempt if the phase continues it; replace the time if the phase runs again.
        start = time.monotonic()
        earlier = seconds.get(phase.name, 0.0) if phase.done is not None else 0.0
        try:
            _run(phase, label, folder / f'logs/{phase.name}.log', environment)
        finally:
            seconds[phase.name] = round(earlier + time.monotonic() - start, 1)
            write_json(seconds, times, indent=1)
    print('\n' + table(phases, seconds))


def _run(phase: Phase, label: str, log: Path, environment: Mapping[str, str] | None) -> None:
    """Run one phase; see :func:`run_phases`."""
    line, remaining, start = Line(), RemainingTime(), time.monotonic()
    # The log of an earlier run is continued, but not reported again.
    offset = log.stat().st_size if log.is_file() else 0

    def tick() -> None:
        # Estimate the remaining time from the progress in the log.
        now = time.monotonic()
        progress = read_progress(read_log(log, offset))
        remaining.observe(progress.fraction if progress else None, now)
        left = remaining.seconds(now)
        # Show both.
        parts = [str(progress) if progress else '', f'{duration(now - start)} so far']
        parts += [f'ETA {duration(left)}'] if left is not None else []
        line.show(f'{label} ... {", ".join(filter(None, parts))}')

    # Run the command, and show its progress.
    if not line.in_place:
        print(f'{label} ...', flush=True)
    try:
        status = run_logged([sys.executable, *phase.command], log, tick, environment=environment)
    except BaseException:
        line.finish(f'{label}: stopped after {duration(time.monotonic() - start)}; the same command continues it')
        raise
    # Report success, or the end of the log.
    took = duration(time.monotonic() - start)
    if not status:
        line.finish(f'{label}: {took}')
        return
    line.finish(f'{label}: FAILED after {took}')
    print('\n'.join(last_lines(log, offset=offset)), file=sys.stderr)
    print(
        f'error: {shlex.join(["python", *phase.command])} ended with status {status}; its output: {log}',
        file=sys.stderr,
    )
    sys.exit(status if status > 0 else 128 - status)


def table(phases: Sequence[Phase], seconds: Mapping[str, float]) -> str:
    """Table of the phases and their durations, with the sum."""
    rows = [(phase.title, duration(seconds.get(phase.name))) for phase in phases]
    rows.append(('Total', duration(sum(seconds.get(phase.name, 0.0) for phase in phases))))
    width = max(len(title) for title, _ in rows)
    return '\n'.join(f'{title:{width}}  {took:>8}' for title, took in rows)


def duration(seconds: float | None) -> str:
    """Format seconds as ``3:10`` or ``1:03:10``."""
    if seconds is None:
        return 'time unknown'
    text = str(datetime.timedelta(seconds=round(seconds)))
    return text.removeprefix('0:').removeprefix('0') if seconds < 3600 else text


def with_variables(**variables: str) -> dict[str, str]:
    """Return the environment of this process, with ``variables`` as defaults of those that are not set."""
    return {**variables, **os.environ}
