"""Jobs of the page: long operations that run one after the other in one thread, with progress and cancellation."""

import itertools
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmengine.logging import MMLogger

from dinor1.annotate.records import UnknownIdError
from dinor1.utils.errors import InputError

QUEUED, RUNNING, DONE, CANCELLED, FAILED = 'queued', 'running', 'done', 'cancelled', 'failed'
FINISHED = (DONE, CANCELLED, FAILED)
_MAX_KEPT, _MAX_QUEUED = 50, 100


@dataclass
class Job:
    """A job and its progress.

    Attributes:
        id: Number, in the order of submission.
        kind: Name of the operation, such as ``find``.
        total: Number of parts of the job.
        state: ``queued``, ``running``, ``done``, ``cancelled`` or ``failed``.
        done: Number of parts that are finished.
        found: Number of results so far.
        message: The result, or the reason of a failure, in one line.
        problems: One line for each part that failed, at most 20.
        can_cancel: Whether the job can be cancelled while it runs.
    """

    id: int
    kind: str
    total: int
    state: str = QUEUED
    done: int = 0
    found: int = 0
    message: str = ''
    problems: list[str] = field(default_factory=list)
    can_cancel: bool = True
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _finished: threading.Event = field(default_factory=threading.Event)

    @property
    def is_cancelled(self) -> bool:
        """Whether the job was cancelled; its function checks this between two parts."""
        return self._cancelled.is_set()

    def add_problem(self, message: str) -> None:
        """Record that a part failed."""
        if len(self.problems) < 20:
            self.problems.append(message)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job is finished, at most ``timeout`` seconds; returns whether it is."""
        return self._finished.wait(timeout)

    def to_json(self) -> dict[str, Any]:
        """The public fields of the job as a dict for JSON."""
        names = ('id', 'kind', 'total', 'state', 'done', 'found', 'message', 'problems', 'can_cancel')
        return {name: getattr(self, name) for name in names}


class JobRunner:
    """Runs jobs in one thread, in the order of submission, and keeps the last 50 jobs.

    Attributes:
        is_closing: Whether :meth:`close` was called.
    """

    def __init__(self) -> None:
        self.is_closing = False
        # Keep the jobs that the page can show, and a queue of those that wait.
        self._numbers = itertools.count(1)
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._queue: queue.Queue[tuple[Job, Callable[[Job], str]] | None] = queue.Queue()
        self._lock = threading.Lock()
        # One thread runs the jobs, one after another.
        self._thread = threading.Thread(target=self._work, name='annotate jobs', daemon=True)
        self._thread.start()

    def submit(self, kind: str, total: int, work: Callable[[Job], str], can_cancel: bool = True) -> Job:
        """Queue a job.

        Args:
            kind: Name of the operation.
            total: Number of parts of the job.
            work: Function that does the work. It updates ``done`` and ``found`` of the job, returns early if the job is
                cancelled, and returns the result in one line.
            can_cancel: Whether ``work`` checks for cancellation.

        Raises:
            InputError: 100 jobs are already waiting.
        """
        with self._lock:
            # Queue the job, unless too many are waiting.
            if self._queue.qsize() >= _MAX_QUEUED:
                raise InputError(f'{_MAX_QUEUED} jobs are already waiting; try again when some are done')
            job = Job(next(self._numbers), kind, total, can_cancel=can_cancel)
            self._jobs[job.id] = job
            # Forget the oldest finished jobs.
            finished = [number for number, old in self._jobs.items() if old.state in FINISHED]
            for number in finished[: max(0, len(self._jobs) - _MAX_KEPT)]:
                del self._jobs[number]
            self._queue.put((job, work))
        return job

    def get(self, number: int) -> Job:
        """A job by its number.

        Raises:
            UnknownIdError: there is no such job, or it is not kept any more.
        """
        with self._lock:
            try:
                return self._jobs[number]
            except KeyError:
                raise UnknownIdError(number) from None

    def cancel(self, number: int) -> Job:
        """Cancel a job; a job that is waiting does not start.

        Raises:
            UnknownIdError: there is no such job.
        """
        job = self.get(number)
        job._cancelled.set()
        return job

    def recent(self) -> list[Job]:
        """The last finished job, and all jobs that are not finished."""
        with self._lock:
            jobs = list(self._jobs.values())
        finished = [job for job in jobs if job.state in FINISHED]
        return [*finished[-1:], *(job for job in jobs if job.state not in FINISHED)]

    def close(self, timeout: float = 30) -> None:
        """Cancel all jobs, and wait for the thread.

        Args:
            timeout: Seconds to wait for the part that is running.
        """
        self.is_closing = True
        with self._lock:
            for job in self._jobs.values():
                job._cancelled.set()
        self._queue.put(None)
        self._thread.join(timeout)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            job, work = item
            if job.is_cancelled:
                job.state = CANCELLED
            else:
                self._run(job, work)
            job._finished.set()

    def _run(self, job: Job, work: Callable[[Job], str]) -> None:
        job.state = RUNNING
        try:
            message = work(job)
        except InputError as error:
            job.message, job.state = str(error), FAILED
        except Exception as error:  # the thread must continue, and the page must report the error
            MMLogger.get_current_instance().exception('a job of the page failed')
            job.message = f'unexpected error: {type(error).__name__}: {error}'.splitlines()[0]
            job.state = FAILED
        else:
            job.message = message
            # A job that was cancelled after its last image is complete.
            job.state = CANCELLED if job.is_cancelled and job.done < job.total else DONE
