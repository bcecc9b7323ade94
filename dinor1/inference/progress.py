"""A progress bar on standard error with the remaining time, also for work of unknown length."""

import sys
import time
from typing import Any

from mmengine.utils import ProgressBar


class Progress:
    """A progress bar; a context manager that ends its line.

    Args:
        total: Number of items; None: unknown, so that only their number and the elapsed time are shown. It may be too
            small.
        delay: Seconds before the bar appears; it does not appear at all in work that is done sooner.
    """

    def __init__(self, total: int | None, delay: float = 0.0) -> None:
        self._total, self._delay, self._done, self._begin = total, delay, 0, time.monotonic()
        self._bar: Any = None
        self._shown = False

    def __enter__(self) -> 'Progress':
        if self._delay <= 0 and self._total != 0:
            self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def update(self, count: int = 1) -> None:
        """Count further items, at least one."""
        # Show the bar only after a delay.
        self._done += count
        if not self._shown:
            if time.monotonic() - self._begin < self._delay:
                return
            self._show()
            count = self._done
        # Without a known total, print the count. A total that is too small grows.
        if self._bar is None:
            seconds = round(time.monotonic() - self._begin)
            print(f'\r{self._done} done, elapsed: {seconds}s', end='', file=sys.stderr, flush=True)
        else:
            self._bar.task_num = max(self._bar.task_num, self._done)
            self._bar.update(count)

    def _show(self) -> None:
        self._shown = True
        if self._total is not None:
            self._bar = ProgressBar(max(self._total, 1), file=sys.stderr)
