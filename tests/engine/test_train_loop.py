"""Resuming a training: numbers of batches, and a schedule of another length."""

import os
import signal

import pytest

from dinor1.engine import ResumableTrainLoop
from dinor1.utils.errors import InputError

ITERS = 6  # iterations of an epoch


def test_batches_are_counted_on_after_a_resume(train):
    def stop(runner):
        if runner.iter == ITERS + 1:
            os.kill(os.getpid(), signal.SIGTERM)

    runner, first = train('run', stop)
    assert isinstance(runner.train_loop, ResumableTrainLoop)
    assert first.batches == [0, 1, 2, 3, 4, 5, 0, 1]
    _, rest = train('run', resume=True)
    assert rest.batches == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]


def test_resume_with_a_schedule_of_another_length_is_rejected(train):
    """MMEngine would take the schedule of the checkpoint, and fail at its end."""
    train('run', **{'train_cfg.max_epochs': 1, 'param_scheduler.0.total_steps': 1})
    with pytest.raises(InputError, match=r'epoch_1.pth: its schedule has (\d+) steps, .* config has \d+; resume with'):
        train('run', resume=True, **{'train_cfg.max_epochs': 2, 'param_scheduler.0.total_steps': 2})
