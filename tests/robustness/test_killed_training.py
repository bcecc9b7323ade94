"""Trainings that end at any moment, and continue: killed processes, a full disk, a half-written pointer."""

import errno
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from mmengine.fileio import LocalBackend

EPOCHS, ITERS = 3, 6
FINAL = f'epoch_{EPOCHS}.pth'

# Train the config of argv[1] and resume it where the work directory has a checkpoint; but end the process by signal
# argv[2] in iteration argv[3], or in the middle of writing checkpoint number -argv[3].
CODE = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import dinor1
dinor1.register_all()
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from dinor1.engine import Runner
from dinor1.engine.training import latest_checkpoint

cfg, number, at = Config.fromfile(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
latest = latest_checkpoint(cfg.work_dir)
if latest is not None:
    cfg.load_from, cfg.resume = latest, True
runner = Runner.from_cfg(cfg)


class Kill(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if at >= 0 and runner.iter == at:
            os.kill(os.getpid(), number)


class DyingBackend(LocalBackend):
    written = 0

    def put(self, obj, filepath):
        DyingBackend.written += str(filepath).endswith('.pth')
        if DyingBackend.written == -at:
            with open(filepath, 'wb') as file:
                file.write(obj[: len(obj) // 2])
            os.kill(os.getpid(), number)
        super().put(obj, filepath)


if at < 0:
    from mmengine.fileio import register_backend
    register_backend('local', DyingBackend, force=True, prefixes='')
runner.register_hook(Kill())
runner.train()
"""


@pytest.fixture
def run(tiny_run_config, tmp_path):
    """``run(NAME, signal, moment)`` trains in a new process; returns its exit status."""

    def start(name, number=0, moment=10**6):
        path = tmp_path / f'{name}.py'
        if not path.exists():
            cfg = tiny_run_config.copy()
            cfg.work_dir, cfg.experiment_name = str(tmp_path / name), name
            cfg.dump(path)
        command = [sys.executable, '-c', CODE, str(path), str(int(number)), str(moment)]
        environment = os.environ | dict(OMP_NUM_THREADS='1')
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).returncode

    return start


def weights(folder):
    """Weights at the end of a training."""
    return torch.load(folder / FINAL, map_location='cpu', weights_only=False)['state_dict']


def assert_same_weights(folder, expected):
    found = weights(folder)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def moments(count):
    """Seeded signals, and moments: an iteration, or minus the number of the checkpoint that is being written."""
    generator = random.Random(0)
    drawn = [(signal.SIGKILL, -2), (signal.SIGTERM, 8), (signal.SIGKILL, 9)]
    while len(drawn) < count:
        writing = generator.random() < 0.3
        moment = -generator.randint(1, EPOCHS) if writing else generator.randint(0, EPOCHS * ITERS - 1)
        drawn.append((signal.SIGKILL if writing else generator.choice([signal.SIGKILL, signal.SIGTERM]), moment))
    return drawn[:count]


def check_kills(run, tmp_path, count):
    """Kill ``count`` trainings and resume them."""
    assert run('whole') == 0
    expected = weights(tmp_path / 'whole')
    for index, (number, moment) in enumerate(moments(count)):
        name = f'killed_{index}'
        # GracefulStopHook turns SIGTERM into a checkpoint and the status of an ended program.
        assert run(name, number, moment) in (-number, 128 + number)
        assert run(name) == 0
        assert_same_weights(tmp_path / name, expected)


def test_killed_training_continues_to_equal_weights(run, tmp_path):
    check_kills(run, tmp_path, 3)


@pytest.mark.slow
def test_twenty_killed_trainings_continue_to_equal_weights(run, tmp_path):
    check_kills(run, tmp_path, 20)


def test_full_disk_leaves_the_last_checkpoint(train, tmp_path, monkeypatch):
    """The second checkpoint does not fit: nothing of it stays, and the run continues from the first one."""
    _, whole = train('whole')
    put, written = LocalBackend.put, []

    def fill(self, obj, filepath):
        written.append(filepath)
        if len(written) == 2:
            put(self, obj[:1000], filepath)
            raise OSError(errno.ENOSPC, 'No space left on device')
        put(self, obj, filepath)

    monkeypatch.setattr(LocalBackend, 'put', fill)
    with pytest.raises(OSError, match='epoch_2.pth') as error:
        train('run')
    assert error.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / 'run').rglob('*.pth')] == ['epoch_1.pth']
    _, rest = train('run', resume=True)
    assert rest.history == whole.history[ITERS:]
    assert_same_weights(tmp_path / 'run', weights(tmp_path / 'whole'))


def test_empty_last_checkpoint_is_that_of_the_newest_file(tmp_path):
    """As after a kill while ``last_checkpoint`` was written."""
    from dinor1.engine.training import latest_checkpoint

    (tmp_path / 'last_checkpoint').write_text('')
    for number, name in enumerate(['epoch_1.pth', 'iter_9.pth', '.epoch_2-5d.pth']):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ns=(number * 10**9, number * 10**9))
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_9.pth')
