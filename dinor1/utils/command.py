"""Running a command with its output in a log file, a time limit, and signals passed on."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

# The end of a traceback fits.
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
    """Run a command, its output appended to a file; wait until it ends.

    It gets a session of its own, so that it can be ended with all its worker processes. Ctrl-C, SIGTERM and SIGHUP of
    this process are passed on to the command, which may save its state; after it has ended, this process ends, too.

    Args:
        command: Program and arguments.
        log: File for standard output and standard error.
        on_tick: Called about twice per second while the command runs.
        seconds: Time limit; the command then gets SIGTERM and, ``grace`` seconds later, SIGKILL.
        grace: Seconds between the two signals.
        environment: Environment of the command (default: that of this process).

    Returns:
        Exit status; negative: number of the signal that ended the command.

    Raises:
        KeyboardInterrupt: this process got Ctrl-C.
        SystemExit: it got another signal that ends it.
    """
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
        # Its workers, too, whatever happened.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if signal.SIGINT in received:
        raise KeyboardInterrupt
    if received:
        raise SystemExit(128 + received[0])
    return process.returncode


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen) -> Iterator[list[int]]:
    """Pass signals on to a process meanwhile; yields the list of those that came."""
    received: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        # Closing a terminal is a reason to save, too: tools know SIGTERM.
        process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_lines(log: str | os.PathLike, count: int = TAIL_LINES, offset: int = 0) -> list[str]:
    """The last lines of a log that are not empty; a progress bar that overwrites itself is many lines.

    Args:
        log: The file; if there is none, there are no lines.
        count: Number of lines at most.
        offset: Byte from which to read.
    """
    return [line for line in read_log(log, offset).splitlines() if line.strip()][-count:]


def read_log(log: str | os.PathLike, offset: int = 0) -> str:
    """Text of a log from a byte on; empty if there is no file yet."""
    path = Path(log)
    if not path.is_file():
        return ''
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read().decode('utf-8', 'replace')
