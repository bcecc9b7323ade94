"""Running studies: selection of runs, runs that start from others, costs, errors."""

import json
import sys
from pathlib import Path

import pytest

from dinor1.studies.results import read_rows
from dinor1.studies.run import Cost, execute, remaining, run_all, select, training_log
from dinor1.studies.study import load_study
from dinor1.utils.errors import InputError


@pytest.fixture
def study(tmp_path):
    """``study(arms=...)`` writes and reads a study file; its config exists."""

    def read(**changes):
        config = tmp_path / 'config.py'
        config.write_text('x = 1\n')
        content = dict(
            title='T',
            config=str(config),
            arms={
                'A': [],
                'B': dict(start=dict(arm='A', checkpoint='epoch_1.pth', resume=True)),
                'C': dict(options=['c=1'], seeds=[1], start=dict(arm='B', checkpoint='epoch_2.pth')),
            },
            seeds=[0, 1],
            metrics={'m': 'M'},
        )
        path = tmp_path / 'study.py'
        path.write_text('\n'.join(f'{key} = {value!r}' for key, value in (content | changes).items()))
        return load_study(path)

    return read


@pytest.fixture
def fake_train(tmp_path, monkeypatch):
    """Replaces the project's tools by a training that records its arguments, or fails; returns the folder."""
    tools = tmp_path / 'tools'
    tools.mkdir(parents=True)
    (tools / 'train.py').write_text(
        'import json, pathlib, sys\n'
        "own = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])\n"
        "if 'fail=1' in sys.argv: sys.exit('error: it failed')\n"
        "for name in ('epoch_1.pth', 'epoch_2.pth'): (own / name).write_text(name)\n"
        "(own / 'last_checkpoint').write_text(str(own / 'epoch_2.pth'))\n"
        "(own / 'arguments.json').write_text(json.dumps(sys.argv[2:]))\n"
        "(own / 'metrics.json').write_text(json.dumps({'m': 0.5}))\n"
    )
    (tools / 'after.py').write_text(
        "import json, sys; json.dump(dict(metrics=dict(n=2.0), seen=sys.argv[1:]), open(sys.argv[-1], 'w'))"
    )
    monkeypatch.setattr('dinor1.studies.run.DINOR1', (sys.executable, str(tools / 'train.py')))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_load_study_orders_seeds_and_starts(study):
    names = [run.name for run in study().runs]
    assert names == ['A_seed0', 'B_seed0', 'A_seed1', 'B_seed1', 'C_seed1']
    assert study().runs[-1].start == dict(arm='B', checkpoint='epoch_2.pth', resume=False)


def test_select_includes_start_of_run(study):
    chosen = select(study(), ['C'], None)
    assert [run.name for run in chosen] == ['A_seed1', 'B_seed1', 'C_seed1']
    assert [run.name for run in select(study(), ['A', 'C'], [0])] == ['A_seed0']
    for arguments, text in (((['D'], None), '--only: no arm'), ((None, [7]), '--seeds: no seed')):
        with pytest.raises(InputError, match=text):
            select(study(), *arguments)


@pytest.mark.parametrize(
    ('arms', 'text'),
    [
        ({'B': dict(start=dict(arm='A', checkpoint='x')), 'A': []}, 'put that arm first'),
        ({'A': dict(seeds=[0]), 'B': dict(start=dict(arm='A', checkpoint='x'))}, 'no run of seed 1'),
        ({'A': [], 'B': dict(start=dict(arm='A'))}, "start needs 'arm' and 'checkpoint'"),
        ({'A': dict(seeds=[0, 0])}, 'same name'),
    ],
)
def test_load_study_rejects_impossible_start(study, arms, text):
    with pytest.raises(InputError, match=text):
        study(arms=arms)


def test_remaining_uses_time_of_same_config(study):
    runs = study().runs
    assert remaining(runs, []) == 0
    other = dict(config='other', seconds=100.0)
    assert remaining(runs[:2], [other]) == 200
    assert remaining(runs[:2], [other, dict(config=runs[0].config, seconds=4.0)]) == 8


def test_cost_plus():
    assert Cost(1, 2, 3).plus(Cost(10, 20, 1)) == Cost(11, 22, 3)


@pytest.mark.parametrize('jobs', [1, 3])
def test_run_all_executes_each_run_once(study, fake_train, jobs):
    tiny = study(after={'extra': ['tools/after.py', '{config}', '{checkpoint}', '{out}']}, keep={'a': 'arguments.json'})
    lines = []
    results, work = fake_train / 'results/study.jsonl', fake_train / 'work'
    run_all(tiny, select(tiny, ['B'], [0]), results, work, jobs, lines.append)
    run_all(tiny, tiny.runs, results, work, jobs, lines.append)
    assert [line.split(' (')[0] for line in lines] == [
        '[1/2] A_seed0', '[2/2] B_seed0', '[1/3] A_seed1', '[2/3] B_seed1', '[3/3] C_seed1',
    ]  # fmt: skip
    records = {f'{row["arm"]}_seed{row["seed"]}': row for row in read_rows(results)}
    assert len(records) == 5
    for record in records.values():
        assert record['metrics'] == dict(m=0.5, n=2.0)
        config, checkpoint, _ = record['extra']['seen']
        assert Path(config).parent == Path(checkpoint).parent
        assert checkpoint.endswith('epoch_2.pth')
        assert record['memory_mib'] > 1
        assert record['seconds'] >= record['train_seconds'] >= 0
    # The runs start from scratch, resume, and load weights.
    assert records['A_seed0']['a'][-1] == '--resume'
    assert records['B_seed0']['a'][-2:] == ['--resume', str(work / 'A_seed0/epoch_1.pth')]
    assert records['C_seed1']['a'][-3:] == ['--cfg-options', 'c=1', f'load_from={work / "B_seed1/epoch_2.pth"}']


def test_execute_interrupted_run_resumes_own_checkpoint(study, fake_train):
    tiny = study()
    own = fake_train / 'work/B_seed0'
    own.mkdir(parents=True)
    (own / 'last_checkpoint').write_text('x')
    execute(tiny.runs[1], tiny, fake_train / 'work')
    assert json.loads((own / 'arguments.json').read_text())[-1] == '--resume'


def test_run_all_rejects_bad_input(study, fake_train):
    tiny = study()
    results, work = fake_train / 'results/study.jsonl', fake_train / 'work'
    with pytest.raises(InputError, match='A_seed0/epoch_1.pth: no such checkpoint'):
        execute(tiny.runs[1], tiny, work)
    with pytest.raises(InputError, match='--jobs'):
        run_all(tiny, tiny.runs, results, work, jobs=0)
    failing = study(options=['fail=1'], arms={'F': []}, seeds=[0])
    with pytest.raises(InputError, match=r'F_seed0: it failed \(.*train.log\)'):
        run_all(failing, failing.runs, results, work)
    other = study(options=['fail=2'], arms={'F': []}, seeds=[0])
    with pytest.raises(InputError, match='other options; delete the folder'):
        execute(other.runs[0], other, work)
    assert not results.exists()


def test_training_log_of_several_sessions(tmp_path):
    lines = [dict(iter=50, loss=2.0, time=0.1), dict(iter=100, loss=1.0, time=0.1), dict(step=1, time=0.2)]
    for session, content in (('a', lines), ('b', [dict(iter=100, loss=1.5, time=0.3)])):
        path = tmp_path / session / 'vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(map(json.dumps, content)) + ('\n{"iter": 15' if session == 'b' else ''))
    assert [(line['iter'], line['loss']) for line in training_log(tmp_path)] == [(50, 2.0), (100, 1.5)]
    assert training_log(tmp_path / 'none') == []


def test_execute_without_recorded_cost_is_an_error(study, fake_train):
    """The training finished after its parent process was killed."""
    run, own = study().runs[0], fake_train / 'work/A_seed0'
    execute(run, study(), fake_train / 'work')
    (own / 'cost.json').unlink()
    (own / 'result.json').unlink()
    with pytest.raises(InputError, match='A_seed0: trained, but time and memory were not recorded'):
        execute(run, study(), fake_train / 'work')
    assert not (own / 'result.json').exists()


def test_run_all_collects_finished_run_that_is_not_in_table(study, fake_train):
    """As after an interruption before the row was added, or with the work directory of another machine."""
    tiny, results, work = study(arms={'A': []}, seeds=[0]), fake_train / 'results/study.jsonl', fake_train / 'work'
    record = execute(tiny.runs[0], tiny, work)
    (work / 'A_seed0/arguments.json').unlink()
    run_all(tiny, tiny.runs, results, work)
    assert read_rows(results) == [record]
    assert not (work / 'A_seed0/arguments.json').exists()  # not trained again
    # A run with other settings has another row and another work directory.
    other = study(arms={'A': ['a=1']}, seeds=[0])
    run_all(other, other.runs, results, fake_train / 'other')
    assert [row['options'] for row in read_rows(results) if row['arm'] == 'A'].count(['a=1']) == 1
    assert len(read_rows(results)) == 2


def test_run_all_keeps_finished_runs_after_failure(study, fake_train):
    mixed, results = study(arms={'A': [], 'F': ['fail=1'], 'Z': []}, seeds=[0]), fake_train / 'results/study.jsonl'
    with pytest.raises(InputError, match='F_seed0: it failed'):
        run_all(mixed, mixed.runs, results, fake_train / 'work')
    assert 'A' in [row['arm'] for row in read_rows(results)]
