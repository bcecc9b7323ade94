"""train.py and test.py on two ranks without a GPU, started by the scripts or by torchrun's variables."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.tools.test_tools_bad_input import assert_refused
from tests.two_processes import environment, free_port

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='the ranks would get GPUs, which a test may lack')


@pytest.fixture
def start(repo, tmp_path):
    """``start(command, **variables)`` starts a program in ``tmp_path``, with one thread per process."""
    started = []

    def run(*command, **variables) -> subprocess.Popen:
        paths = os.pathsep.join([str(repo), os.environ.get('PYTHONPATH', '')])
        settings = dict(PYTHON=sys.executable, PYTHONPATH=paths, OMP_NUM_THREADS='1', **variables)
        started.append(
            subprocess.Popen(
                [str(part) for part in command],
                cwd=tmp_path,
                env=os.environ | settings,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # a separate process group, for signals
            )
        )
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_dist_scripts_train_and_test(start, repo, run_config, tmp_path):
    """Two ranks use batches of two of five images; the last batch is one image, which both ranks use."""
    # Train.
    work_dir, port = tmp_path / 'run', str(free_port())
    options = ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1', 'param_scheduler.0.total_steps=1']
    train = start(
        *('bash', repo / 'tools/dist_train.sh', run_config, 2, '--work-dir', work_dir, '--cfg-options', *options),
        PORT=port,
    )
    said, _ = train.communicate(timeout=300)
    assert train.returncode == 0, said
    assert said.count('No GPU: 2 processes on the CPU with the backend gloo') == 1
    assert (work_dir / 'epoch_1.pth').is_file()
    assert "backend='nccl'" in (work_dir / run_config.name).read_text()
    losses = [json.loads(line).get('loss') for line in next(work_dir.glob('*/vis_data/scalars.json')).open()]
    assert all(loss == loss for loss in losses)
    # Test on two ranks and in one process: the metrics are equal.
    commands = [
        ('bash', repo / 'tools/dist_test.sh', run_config, work_dir / 'epoch_1.pth', 2),
        (sys.executable, repo / 'tools/test.py', run_config, work_dir / 'epoch_1.pth'),
    ]
    metrics = []
    for number, command in enumerate(commands):
        test = start(*command, '--work-dir', tmp_path / f'test{number}', PORT=port)
        said, _ = test.communicate(timeout=300)
        assert test.returncode == 0, said
        metrics.append(json.loads((tmp_path / f'test{number}/metrics.json').read_text())['metrics'])
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-4)


@pytest.mark.slow
def test_train_sigterm_ends_both_ranks_with_status_143(start, repo, run_config, tmp_path):
    # Start a training on two ranks.
    work_dir, port = tmp_path / 'run', free_port()
    options = ['train_dataloader.batch_size=1', 'train_dataloader.num_workers=1', 'default_hooks.logger.interval=1']
    options += ['val_cfg=None', 'val_dataloader=None', 'val_evaluator=None', 'train_cfg.max_epochs=500']
    command = [repo / 'tools/train.py', run_config, '--launcher', 'pytorch', '--work-dir', work_dir]
    ranks = [start(sys.executable, *command, '--cfg-options', *options, **environment(rank, port)) for rank in range(2)]
    # Send SIGTERM to both.
    _wait_for_iterations(work_dir, ranks)
    for rank in ranks:
        os.killpg(rank.pid, signal.SIGTERM)  # also to the workers of the data loader, as torchrun does
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [143, 143], said
    checkpoints = [path.name for path in work_dir.glob('iter_*.pth')]
    assert len(checkpoints) == 1
    assert f'Stopped by SIGTERM after iteration {checkpoints[0][5:-4]};' in said[0]


def _wait_for_iterations(work_dir: Path, ranks: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 200
    while not any(path.stat().st_size for path in work_dir.glob('*/vis_data/scalars.json')):
        assert time.monotonic() < deadline
        assert all(rank.poll() is None for rank in ranks), [rank.communicate()[0] for rank in ranks]
        time.sleep(0.2)


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_launcher_pytorch_without_torchrun(call, run_config, model_files, monkeypatch, tool):
    monkeypatch.delenv('RANK', raising=False)
    for name in ('WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '2')
    arguments = [run_config, *([model_files.checkpoint] if tool == 'test' else [])]
    outcome = call(tool, *arguments, '--launcher', 'pytorch')
    assert_refused(outcome, '--launcher pytorch: the environment has no RANK; start the tool by torchrun, as ')


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_launcher_without_gpu(call, run_config, launcher):
    outcome = call('train', run_config, '--launcher', launcher)
    assert_refused(outcome, f'--launcher {launcher}: gives every process a GPU, and there is none on this machine; ')
