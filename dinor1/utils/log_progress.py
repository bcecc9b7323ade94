"""Read the progress of a training or a test from the log that MMEngine writes."""

import re
from typing import NamedTuple

# "Epoch(train)  [2][ 50/250]", "Epoch(val) [2][10/75]", "Epoch(test) [10/75]", "Iter(train) [ 50/1500]"
_LINE = re.compile(r'(?:Epoch|Iter)\((train|val|test)\)\s+(?:\[(\d+)\]\s*)?\[\s*(\d+)/\s*(\d+)\]')
# A line of the config, which MMEngine writes at the beginning of the log.
_EPOCHS = re.compile(r'^train_cfg = dict\([^)]*?max_epochs=(\d+)', re.MULTILINE)


class Progress(NamedTuple):
    """Position of a run.

    Attributes:
        stage: ``'train'``, ``'val'`` or ``'test'``.
        epoch: Current epoch, from 1; None if the run does not count epochs.
        epochs: Number of epochs; None if the log does not contain it.
        done: Finished iterations of this epoch, validation or test.
        total: All iterations of this epoch, validation or test.
    """

    stage: str
    epoch: int | None
    epochs: int | None
    done: int
    total: int

    @property
    def fraction(self) -> float | None:
        """Finished part of the training or test, 0 to 1; None if unknown. In a validation, its epoch counts as done."""
        part = self.done / self.total if self.total else 1.0
        if self.epoch is None:
            return part
        if self.epochs is None:
            return None
        before = self.epoch - 1 + (1.0 if self.stage == 'val' else part)
        return min(before / self.epochs, 1.0)

    def __str__(self) -> str:
        name = {'train': '', 'val': 'validation, ', 'test': ''}[self.stage]
        epoch = f'epoch {self.epoch}/{self.epochs or "?"}' if self.epoch is not None else ''
        share = '' if self.fraction is None else f'{100 * self.fraction:.0f} %'
        return name + ', '.join(filter(None, (epoch, share)))


def read_progress(text: str) -> Progress | None:
    """Return the progress from the last line of a log that contains it; None if there is none yet."""
    found = None
    # Keep the last match.
    for found in _LINE.finditer(text):  # noqa: B007
        pass
    if found is None:
        return None
    epochs = _EPOCHS.search(text)
    return Progress(
        found[1],
        None if found[2] is None else int(found[2]),
        None if epochs is None else int(epochs[1]),
        int(found[3]),
        int(found[4]),
    )


class RemainingTime:
    """Estimates the remaining seconds from the speed since the first observation.

    Progress before the first observation does not count, because a resumed run starts in the middle.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._last: tuple[float, float] | None = None

    def observe(self, fraction: float | None, now: float) -> None:
        """Add an observation.

        Args:
            fraction: Finished part of the run, 0 to 1; None: ignored.
            now: Time in seconds.
        """
        if fraction is None:
            return
        if self._first is None:
            self._first = (now, fraction)
        if self._last is None or fraction != self._last[1]:
            self._last = (now, fraction)

    def seconds(self, now: float) -> float | None:
        """Return the remaining seconds; None until progress was observed twice."""
        if self._first is None or self._last is None or self._last[1] <= self._first[1]:
            return None
        pace = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        return max(0.0, (1 - self._last[1]) * pace - (now - self._last[0]))
