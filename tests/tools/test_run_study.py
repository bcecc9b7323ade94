"""Studies: reading, running, resuming, and tables."""

import argparse
import copy
import statistics
from pathlib import Path

import pytest
from torch import nn

from dinor1.cli.main import main
from dinor1.studies.results import add_rows, read_rows
from dinor1.studies.study import insert, load_study, read_runs, table
from dinor1.utils.errors import InputError

_FOLDER = Path(__file__).parents[2] / 'configs/studies'
STUDIES = [*sorted(_FOLDER.glob('*.py')), _FOLDER / 'grqo_forms/grqo_screening.py']


@pytest.fixture
def write(tmp_path):
    """``write(arms=...)`` writes a study file; its config exists."""

    def write(name='study', **changes):
        config = tmp_path / 'config.py'
        config.write_text('x = 1\n')
        content = dict(
            title='T', config=str(config), options=['a=1'], arms={'A': [], 'B x': ['b=2']}, seeds=[0, 1],
            metrics={'acc/top1': 'top-1'}, note='Paper: 99.',
        )  # fmt: skip
        content |= changes
        path = tmp_path / f'{name}.py'
        path.write_text('\n'.join(f'{key} = {value!r}' for key, value in content.items() if value is not None))
        return path

    return write


def store(study, path, values):
    add_rows(path, [
        dict(run._asdict(), config_hash=run.key.config_hash, metrics={'acc/top1': value}, seconds=120.0)
        for run, value in zip(study.runs, values, strict=False)
    ])  # fmt: skip


def test_load_study_orders_runs_by_seed(write):
    study = load_study(write())
    assert [(run.arm, run.seed, run.options) for run in study.runs] == [
        ('A', 0, ('a=1',)), ('B x', 0, ('a=1', 'b=2')), ('A', 1, ('a=1',)), ('B x', 1, ('a=1', 'b=2')),
    ]  # fmt: skip
    assert study.runs[1].name == 'B-x_seed0'


def test_study_table_has_mean_and_deviation_of_finished_runs(write, tmp_path):
    study = load_study(write())
    with pytest.raises(InputError, match='no finished run'):
        table(study, tmp_path / 'r.jsonl')
    store(study, tmp_path / 'r.jsonl', [0.5, 0.7, 0.8])
    text = table(study, tmp_path / 'r.jsonl')
    spread = statistics.stdev([0.5, 0.8])
    assert f'| A | 2 | 0.650 ± {spread:.3f} | 2.0 |' in text
    assert '| B x | 1 | 0.700 | 2.0 |' in text
    assert 'Paper: 99.' in text
    assert 'dinor1 study run' in text


def test_read_runs_rejects_rows_of_other_options(write, tmp_path):
    results = tmp_path / 'r.jsonl'
    store(load_study(write()), results, [0.5])
    with pytest.raises(InputError, match=r"the row of arm 'A', seed 0, .* other options; delete it"):
        read_runs(load_study(write(options=['a=2'])), results)
    with pytest.raises(InputError, match=r"the row of arm 'A', seed 0, .* has no other"):
        read_runs(load_study(write(metrics={'other': 'x'})), results)
    # The rows of the study are found among rows of other options.
    store(load_study(write(options=['a=2'])), results, [0.7])
    for options, value in ((['a=1'], 0.5), (['a=2'], 0.7)):
        (row,) = read_runs(load_study(write(options=options)), results)['A']
        assert row['metrics'] == {'acc/top1': value}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(seeds=None), 'not a study, it has no seeds'),
        (dict(config=None), "arm 'A' names no config"),
        (dict(config='nowhere.py'), 'no such config file'),
        (dict(seeds=[0, 0]), 'two runs have the same name'),
        (dict(arms={'a b': [], 'a-b': []}), 'two runs have the same name'),
    ],
)
def test_load_study_rejects_bad_study(write, changes, message):
    with pytest.raises(InputError, match=message):
        load_study(write(**changes))


def test_insert_replaces_text_between_marks(tmp_path):
    path = tmp_path / 'page.md'
    path.write_text('before\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n')
    for text in ('new', 'newer'):
        insert(path, 'a', text)
    assert path.read_text() == 'before\n<!-- a:begin -->\n\nnewer\n\n<!-- a:end -->\nafter\n'
    with pytest.raises(InputError, match='b:begin'):
        insert(path, 'b', 'x')


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.stem)
def test_every_arm_of_studies_builds(path, repo, monkeypatch):
    """Options name existing keys and change the config of the run, and every model can be built."""
    from dinor1.cli.options import add_cfg_options
    from dinor1.registry import MODELS
    from dinor1.utils.config import load_config

    monkeypatch.chdir(repo)
    study, lacking = load_study(path), []
    for run in {run.arm: run for run in study.runs}.values():
        parser = argparse.ArgumentParser()
        add_cfg_options(parser)
        options = parser.parse_args(['--cfg-options', *run.options]).cfg_options if run.options else {}
        cfg = load_config(run.config, copy.deepcopy(options))
        for key, value in options.items():
            if key.endswith('._delete_'):
                continue  # an instruction for merging, not a setting
            node = cfg
            for part in key.split('.'):
                node = node[int(part)] if isinstance(node, list) else node[part]
            if isinstance(value, dict):
                value.pop('_delete_', None)
            assert node == value, f'{run.arm}: {key}'
        try:
            assert isinstance(MODELS.build(cfg.model), nn.Module)
        except InputError as error:
            if 'no installed package contains it' not in str(error):
                raise
            lacking.append(run.arm)
    if lacking:
        pytest.skip(f'the models of these arms need a package that is not installed: {", ".join(lacking)}')


def test_run_study_runs_resumes_and_makes_table(call, run_config, tmp_path, monkeypatch, repo, capfd):
    """Two arms train one epoch each; the second call trains only the missing arm."""
    # Write a study of two arms.
    monkeypatch.chdir(repo)
    short = ['train_cfg.max_epochs=1', 'param_scheduler=[]', 'default_hooks.visualization.num_images=1']
    study = tmp_path / 'tiny.py'
    study.write_text(
        f'title = "T"\nconfig = {str(run_config)!r}\nmetrics = {{"coco/bbox_mAP": "AP"}}\nseeds = [0]\n'
        f'options = {short!r}\narms = {{"sgd": ["optim_wrapper.optimizer.lr=0.01"], "same": []}}\n'
    )
    # Run one arm, then all.
    folders = ['--results', tmp_path / 'results', '--work-dir', tmp_path / 'work']
    first = call('analysis_tools/run_study', study, *folders, '--only', 'sgd')
    assert first.status == 0
    assert '[1/1] sgd_seed0' in first.out
    assert '| same' not in first.out
    second = call('analysis_tools/run_study', study, *folders)
    assert second.status == 0
    assert '[1/1] same_seed0' in second.out
    assert '| sgd | 1 |' in second.out
    rows = read_rows(tmp_path / 'results/tiny.jsonl')
    assert [row['arm'] for row in rows] == ['same', 'sgd']
    for row in rows:
        assert {'arm', 'seed', 'config', 'config_hash', 'command', 'metrics', 'environment'} <= set(row)
    # Collect the runs in another table.
    main(['study', 'collect', str(tmp_path / 'work/tiny'), str(tmp_path / 'copy.jsonl')])
    assert capfd.readouterr().out.count('Added: ') == 2
    assert (tmp_path / 'copy.jsonl').read_bytes() == (tmp_path / 'results/tiny.jsonl').read_bytes()
    wrong = call('analysis_tools/run_study', study, *folders, '--only', 'adam')
    assert wrong.status != 0
    assert "no arm ['adam']" in wrong.err


def test_load_study_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_study('vit_norm').title == load_study('configs/studies/vit_norm.py').title
    with pytest.raises(InputError, match='vit_nrm: no such study; did you mean vit_norm'):
        load_study('vit_nrm')
