"""The benchmark of evaluations: its data, its implementations, its limits and its table."""

import importlib.util
import inspect
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth

SIZES = dict(images=12, detections=30, classes=9, boxes=5)

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def tool():
    path = Path(__file__).parents[2] / 'tools/analysis_tools/benchmark_evaluation.py'
    spec = importlib.util.spec_from_file_location('benchmark_evaluation', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(tool, folder: Path, task: str) -> dict:
    content, columns = tool.make_data(**SIZES, federated=task == 'lvis', seed=0)
    (folder / 'annotations.json').write_text(json.dumps(content))
    np.savez(folder / 'detections.npz', **columns)
    return columns


def test_make_data_depends_only_on_seed(tool):
    (content, columns), (again, columns_again), (_, others) = (
        tool.make_data(**SIZES, federated=True, seed=seed) for seed in (1, 1, 2)
    )
    assert content == again
    assert not np.array_equal(columns['box'], others['box'])
    for key, column in columns.items():
        np.testing.assert_array_equal(column, columns_again[key])


def test_make_data_sizes_and_federated_fields(tool):
    content, columns = tool.make_data(**SIZES, federated=True, seed=0)
    truth = LVISGroundTruth.from_content(content)
    assert len(truth.image_ids) == 12
    assert len(truth.names) == 9
    assert len(columns['score']) == 12 * 30
    present = np.zeros_like(truth.judged)
    present[truth.image, truth.label] = True
    assert (truth.judged & ~present).any()
    assert truth.not_exhaustive.any()
    assert set(truth.frequency.tolist()) == {0, 1, 2}
    assert np.bincount(columns['image'])[1:].tolist() == [30] * 12


@pytest.mark.parametrize('task', ['lvis', 'coco'])
def test_evaluation_implementations_agree(tool, task, tmp_path):
    columns = save(tool, tmp_path, task)
    aps = [tool.prepare(name, str(tmp_path / 'annotations.json'), columns)() for name in tool.IMPLEMENTATIONS[task]]
    # Implementations that take tensors round the corners of boxes to float32.
    assert 0 < aps[0] < 1
    assert aps == pytest.approx([aps[0]] * len(aps), abs=1e-6)


def test_measure_reports_time_and_memory(tool, tmp_path):
    save(tool, tmp_path, 'coco')
    row = tool.measure('faster_coco_eval', tmp_path)
    assert set(row) == {'seconds', 'cpu_seconds', 'memory_before_gib', 'memory_peak_gib', 'AP'}
    assert row['seconds'] > 0
    assert 0.05 < row['memory_before_gib'] <= row['memory_peak_gib'] < 100


@pytest.mark.parametrize(
    ('status', 'stderr', 'message'),
    [
        (1, 'a trace\nnumpy._ArrayMemoryError: no', 'more than 2 GiB'),
        (1, 'Traceback\nKeyError: 7\n', 'KeyError: 7'),
        (-9, '', 'more than 0.5 minutes of processor time'),
        (-11, '', 'killed'),
    ],
)
def test_run_apart_reports_reason_of_failure(tool, status, stderr, message, monkeypatch, tmp_path):
    outcome = SimpleNamespace(returncode=status, stdout='', stderr=stderr)
    monkeypatch.setattr(subprocess, 'run', lambda *args, **kwargs: outcome)
    assert tool.run_apart('lvis', tmp_path, 2, 0.5) == dict(failed=message)


@pytest.mark.parametrize(
    ('memory', 'minutes', 'work'), [(0.5, None, 'bytes(2 ** 30)'), (None, 1 / 60, 'sum(range(10 ** 12))')]
)
def test_limit_ends_process(tool, memory, minutes, work, tmp_path):
    """The process imports only the function with the limits."""
    source = inspect.getsource(tool.limit).replace('float | None', 'object')
    code = f'import resource\n{source}\nlimit({memory}, {minutes})\n{work}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert 'MemoryError' in done.stderr if memory else done.returncode in (-signal.SIGKILL, -signal.SIGXCPU)


def test_evaluation_table(tool):
    numbers = dict(seconds=2.0, memory_before_gib=0.5, memory_peak_gib=1.25, AP=0.5)
    rows = dict(fast=numbers | dict(cpu_seconds=2.0), slow=numbers | dict(cpu_seconds=15.0), out=dict(failed='killed'))
    lines = tool.table(rows, 'slow').splitlines()
    assert lines[2] == '| fast | 2.0 | 2.0 | 7.5 | 1.25 | 0.50 | 0.50000000 |'
    assert lines[3].startswith('| slow | 2.0 | 15.0 | 1.0 |')
    assert lines[4] == '| out | killed |  |  |  |  |  |'
    assert tool.table({'fast': rows['fast']}, 'slow').splitlines()[2].startswith('| fast | 2.0 | 2.0 |  |')


def test_benchmark_evaluation_bad_input(call):
    for arguments, message in (
        (('coco', '--images', 0), 'must be positive'),
        (('lvis', '--implementations', 'pycocotools'), '--implementations pycocotools: on lvis there are dinor1'),
    ):
        outcome = call('analysis_tools/benchmark_evaluation', *arguments)
        assert outcome.status == 2
        assert message in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_benchmark_evaluation_whole_run(call, tmp_path):
    sizes = ('--images', 5, '--detections', 10, '--classes', 3)
    outcome = call('analysis_tools/benchmark_evaluation', 'coco', *sizes, '--out', tmp_path / 'result.json')
    assert outcome.status == 0, outcome.err
    record = json.loads((tmp_path / 'result.json').read_text())
    assert set(record['results']) == {'faster_coco_eval', 'pycocotools'}
    assert 'numpy' in record['environment']
    assert all(row['seconds'] > 0 for row in record['results'].values())
    assert '| faster_coco_eval |' in outcome.out
