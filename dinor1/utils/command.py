"""Run a command with its output in a log file and a time limit, and forward signals to it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

# Enough lines for the end of a traceback.
TAIL_LINES = 15
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else [])]


def run_logged(
    command: Sequence[str],
    log: str | os.PathLike,
    on_tick: Callable[[], None] = lambda: None,
    seconds: float = float('inf'),
    grace: float = 10.0,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command, append its output to a file, and wait until it ends.

    The command runs in its own session, so that it can be ended with all its worker processes. Ctrl-C, SIGTERM and
    SIGHUP are forwarded to the command, which may save its state; this process ends after the command.

    Args:
        command: Program and arguments.
        log: File for standard output and standard error.
        on_tick: Called about twice per second while the command runs.
        seconds: Time limit, after which the command gets SIGTERM and, ``grace`` seconds later, SIGKILL.
        grace: Seconds between the two signals.
        environment: Environment variables of the command. Default: those of this process.

    Returns:
        Exit status; if it is negative, minus the number of the signal that ended the command.

    Raises:
        KeyboardInterrupt: this process got Ctrl-C.
        SystemExit: this process got SIGTERM or SIGHUP.
    """
    # Start the command.
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    with open(log, 'ab') as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    # Wait until the command ends or its time is over.
    try:
        with _passed_on(process) as received:
            while process.poll() is None:
                left = end - time.monotonic()
                if left <= 0:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(grace)
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(0.5, left))
                on_tick()
    finally:
        # End the worker processes, also after an exception.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # End like the command if there was a signal.
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if received:
        raise SystemExit(128 + received[0])
    return process.returncode


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen) -> Iterator[list[int]]:
    """Forward signals to a process within this context; yields the list of the signals received."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        # Send SIGTERM for SIGHUP, because the tools save a checkpoint on SIGTERM.
        process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_lines(log: str | os.PathLike, count: int = TAIL_LINES, offset: int = 0) -> list[str]:
    """The last non-empty lines of a log; every update of a progress bar is a line.

    Args:
        log: The log file; a missing file has no lines.
        count: Maximum number of lines.
        offset: Position to read from, in bytes.
    """
    return [line for line in read_log(log, offset).splitlines() if line.strip()][-count:]


def read_log(log: str | os.PathLike, offset: int = 0) -> str:
    """Text of a log from byte ``offset`` on; empty if there is no file yet."""
    path = Path(log)
    if not path.is_file():
        return ''
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read().decode('utf-8', 'replace')
