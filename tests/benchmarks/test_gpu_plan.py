"""Plans for a GPU machine: time limits, failures, records after an interruption, tables."""

import json
import re
from pathlib import Path

import pytest

from dinor1.benchmarks import gpu_plan
from dinor1.benchmarks.gpu_plan import MAX_DATA_BYTES, Part, Training, check_parts, run_plan, train_parts
from dinor1.benchmarks.gpu_report import read_records, report
from dinor1.utils.errors import InputError

# A script that first writes its result to --out.
TOOL = (
    'import json, sys, time; json.dump(dict(checks=[], planned=3), open(sys.argv[-1], "w")); '
    'print("begun", flush=True); '
)


@pytest.fixture
def run(tmp_path):
    """``run(part, ...)`` runs a plan, which writes its record to ``tmp_path/out``."""
    (tmp_path / 'scratch').mkdir()

    def call(*parts, **options):
        return run_plan('check', parts, tmp_path / 'out', tmp_path / 'scratch', 'cpu', **options)

    return call


def tool(name, script, seconds=20.0):
    return Part(name, ('-c', TOOL + script), seconds)


def test_run_plan_records_failure_and_continues(run, tmp_path):
    lines = []
    record = run(
        tool('bad', "print('error: no such thing', file=sys.stderr); print('after'); sys.exit(2)"),
        Part('worse', ('-c', "raise ValueError('boom')"), 20.0),
        Part('plain', ('-c', 'print(1)'), 20.0, has_result=False),
        report=lines.append,
    )
    parts = record['parts']
    assert [row['status'] for row in parts.values()] == ['failed', 'failed', 'ok']
    assert parts['bad']['error'] == 'error: no such thing'
    # The result that the tool had written is kept.
    assert parts['bad']['result'] == dict(checks=[], planned=3)
    assert parts['worse']['error'] == 'ValueError: boom'
    assert parts['worse']['result'] is None
    assert json.loads((tmp_path / 'out/check.json').read_text()) == record
    assert 'begun' in (tmp_path / 'out/check.log').read_text()
    assert len(lines) == 3
    assert re.match(r'bad: failed after \d+ s error: no such thing', lines[0])


def test_run_plan_part_may_use_time_left_by_others(run):
    record = run(
        tool('quick', '', 4.0),
        # This part takes longer than its own limit, but not longer than both limits together.
        tool('uses the rest', 'time.sleep(2)', 1.0),
        tool('too slow', 'time.sleep(60)', 2.0),
        tool('last', '', 10.0),
    )
    rows = list(record['parts'].values())
    assert [row['status'] for row in rows] == ['ok', 'ok', 'stopped', 'ok']
    assert rows[2]['error'].startswith('ended by the time limit, ')
    assert rows[2]['result'] == dict(checks=[], planned=3)
    assert rows[2]['seconds'] < 20


def test_run_plan_records_results_while_a_part_runs(run, tmp_path, monkeypatch):
    """If the machine is lost while a part runs, the record has its result."""
    written, write = [], gpu_plan.write_json

    def spy(record, path, **options):
        written.append(json.loads(json.dumps(record)))
        write(record, path, **options)

    monkeypatch.setattr(gpu_plan, 'write_json', spy)
    run(tool('slow', 'time.sleep(1.5)'))
    during = [record['parts']['slow'] for record in written if 'slow' in record['parts']]
    assert during[0]['status'] == 'stopped'
    assert during[0]['result'] == dict(checks=[], planned=3)
    assert during[-1]['status'] == 'ok'


def test_run_plan_hides_paths_of_machine(run, tmp_path):
    script = f'# {tmp_path}/out/weights.pth {tmp_path}/scratch/data'
    record = run(Part('a', ('-c', script), 20.0, has_result=False))
    assert record['parts']['a']['command'] == "python -c '# $OUT/weights.pth $SCRATCH/data'"


def test_run_plan_training_ended_by_limit_is_ok(run, tmp_path):
    work_dir = tmp_path / 'work'
    lines = [
        dict(epoch=1, iter=50, loss=9.0, time=0.1, lr=0.1, memory=300),
        {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 1, 'time': 1.0},
        dict(epoch=2, iter=100, loss=7.5, time=0.3, lr=0.1, memory=320),
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines) + '{"epoch": 2, "it'
    script = (
        'import pathlib, time; '
        f'folder = pathlib.Path({str(work_dir)!r}, "run/vis_data"); folder.mkdir(parents=True); '
        f'(folder / "scalars.json").write_text({text!r}); time.sleep(60)'
    )
    record = run(Part('training', ('-c', script), 3.0, has_result=False, work_dir=work_dir))
    row = record['parts']['training']
    assert row['status'] == 'ok'
    assert [line['iter'] for line in row['result']['curve']] == [50, 100]
    assert row['result']['validations'] == [{'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 1}]
    text = report([record])
    assert '100 iterations, 0.300 s each (median of the log); loss 9.00 at iteration 50, 7.50 at 100, 320 MiB' in text
    assert '| 1 | 0.250 | 0.500 |' in text


@pytest.mark.parametrize('dry_run', [False, True])
def test_plans_take_five_minutes_and_name_existing_files(repo, dry_run, tmp_path):
    out, scratch = tmp_path / 'out', tmp_path / 'scratch'
    for parts in (check_parts(dry_run), train_parts(dry_run, out, scratch, Training())):
        # The other seconds of five minutes are for the installation of wheels.
        assert sum(part.seconds for part in parts) <= 285
        for part in parts:
            named = [word for word in part.command if word.endswith('.py')]
            assert named
            assert [word for word in named if not (repo / word).is_file()] == []
            device = part.command[part.command.index('--device') + 1] if '--device' in part.command else None
            assert device in (None, 'cpu' if dry_run else 'cuda')


def test_train_parts_unpack_data_set(tmp_path):
    archive = tmp_path / 'set.tar'
    archive.write_bytes(b'0' * MAX_DATA_BYTES)
    training = Training('configs/dino_r1/dino-r1_nano_1xb8_12e_raccoon.py', archive)
    training.check()
    parts = train_parts(False, tmp_path / 'out', tmp_path / 'scratch', training)
    assert parts[1].command == ('-m', 'tarfile', '-e', str(archive), str(tmp_path / 'scratch/data'))
    assert training.recipe in parts[2].command
    assert f'default_hooks.half_weights.path={tmp_path}/out/weights.pth' in parts[2].command
    with open(archive, 'ab') as file:
        file.write(b'0')
    with pytest.raises(InputError, match='set.tar: larger than 30 MB'):
        training.check()
    with pytest.raises(InputError, match='gone.tar: no such file'):
        Training(training.recipe, Path('gone.tar')).check()
    with pytest.raises(InputError, match=r'gone.py: no such config file'):
        Training('gone.py').check()


def test_report_has_table_per_result(tmp_path):
    # Make a record with every kind of result.
    machine = dict(gpu='NVIDIA H200', torch='2.11.0', driver='580.1', date='2026-12-01T10:00:00+00:00')
    checks = [
        dict(check='triton: a | b', ok=False, largest=1.0, limit=0.01, error='Bad:\nx'),
        dict(check='triton: c', ok=True, largest=0.0, limit=0.01, error=''),
    ]
    shared = dict(workload='encoder', dtype='bfloat16', batch=8, kind='forward')
    operator = [
        dict(shared, arm='triton', milliseconds=0.5, relative=0.25, peak_mib=12.3),
        dict(shared, arm='deformops', error='RuntimeError: a | b'),
    ]
    times = dict(median=10.0, low=9.0, high=11.0)
    model = dict(title='dino_r1_swin-t', precision='bfloat16', compiled=False)
    models = [dict(model, milliseconds=times, relative=0.5, peak_mib=None), dict(model, error='OutOfMemoryError: x')]
    results = {
        'correctness': dict(checks=checks, planned=4),
        'operator, batch 8': dict(rows=operator, not_measured=dict(mmcv='MMCV has no operators here')),
        'inference, batch 8': dict(rows=models, batch=8, size=[800, 1333]),
        'never': None,
    }
    row = dict(command='python a.py', limit=60, seconds=41.6, status='ok')
    record = dict(
        plan='check', dry_run=False, machine=machine, parts={name: dict(row, result=r) for name, r in results.items()}
    )
    path = tmp_path / 'check.json'
    path.write_text(json.dumps(record))
    # Compare the lines of the report.
    text = report(read_records([path]))
    for expected in (
        '**check**: NVIDIA H200, driver 580.1, torch 2.11.0, 2026-12-01.',
        '| never | ok | 42 | 60 |  |',
        '1 of 2 checks passed, 4 were planned.',
        '- triton: a | b: 1.0, limit 0.01. Bad: x',
        '| encoder | bfloat16 | 8 | forward | triton | 0.500 | 0.250 | 12 |',
        '| encoder | bfloat16 | 8 | forward | deformops | RuntimeError: a / b |  |  |',
        'Not measured: mmcv (MMCV has no operators here).',
        '| model, 800 x 1333 | precision |',
        '| dino_r1_swin-t | bfloat16 | eager | 8 | 10.0 (9.0 to 11.0) | 0.500 |  |',
        '| dino_r1_swin-t | bfloat16 | eager | 8 | OutOfMemoryError: x |  |  |',
    ):
        assert expected in text.splitlines() or expected in text
    assert 'dry run' not in text
    assert 'Never:' not in text


@pytest.mark.parametrize('content', ['[]', '{"plan": "check"}'])
def test_read_records_rejects_other_files(tmp_path, content):
    path = tmp_path / 'a.json'
    path.write_text(content)
    with pytest.raises(InputError, match=r'a.json: not a record of tools/gpu_plan.sh'):
        read_records([path])
