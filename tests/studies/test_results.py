"""Table files of studies: order, keys, errors, and two processes that collect at the same time."""

import hashlib
import json
import math
import subprocess
import sys
import time

import pytest

from dinor1.studies.collect import collect_runs
from dinor1.studies.results import RowKey, add_rows, config_hash, read_rows, row_key
from dinor1.utils.errors import InputError


def row(arm='A', seed=0, value=0.5, options=(), **extra):
    return dict(
        arm=arm, seed=seed, config='config.py', config_hash=config_hash('config.py', options, None),
        options=list(options), start=None, command='python tools/train.py', metrics=dict(AP=value), environment={},
    ) | extra  # fmt: skip


def store(work_dir, *rows):
    for content in rows:
        own = work_dir / f'{content["arm"]}_seed{content["seed"]}'
        own.mkdir(parents=True, exist_ok=True)
        (own / 'result.json').write_text(json.dumps(content, indent=1))


# Tables ----------------------------------------------------------------------------------------------------


def test_add_rows_without_rows_writes_no_file(tmp_path):
    assert add_rows(tmp_path / 't.jsonl', []) == []
    assert not (tmp_path / 't.jsonl').exists()
    (tmp_path / 't.jsonl').write_text('')
    assert read_rows(tmp_path / 't.jsonl') == []


def test_add_rows_sorts_rows_and_keys(tmp_path):
    table = tmp_path / 'new/t.jsonl'
    assert add_rows(table, [row('B', 0), row('A', 10)]) == [row_key(row('A', 10)), row_key(row('B', 0))]
    before = table.read_text().splitlines()
    add_rows(table, [row('A', 9), row('Ä', 0)])
    lines = table.read_text(encoding='utf-8').splitlines()
    assert [(r['arm'], r['seed']) for r in map(json.loads, lines)] == [('A', 9), ('A', 10), ('B', 0), ('Ä', 0)]
    # A new row changes no other line.
    assert set(before) < set(lines)
    for line in lines:
        assert list(json.loads(line)) == sorted(json.loads(line))
    assert '"arm":"Ä"' in lines[-1]


def test_read_rows_returns_every_number(tmp_path):
    numbers = [0.1 + 0.2, 1e-300, -1.0, 3, 2**53 + 1, 0.703]
    points = [dict(iter=i, norm=dict(a=n)) for i, n in enumerate(numbers)]
    add_rows(tmp_path / 't.jsonl', [row(gradients=points, curves=dict(loss=[[1, 2.5]]))])
    (found,) = read_rows(tmp_path / 't.jsonl')
    assert found == row(gradients=points, curves=dict(loss=[[1, 2.5]]))
    assert [type(point['norm']['a']) for point in found['gradients']] == list(map(type, numbers))


def test_add_rows_never_replaces_a_row(tmp_path):
    table = tmp_path / 't.jsonl'
    add_rows(table, [row(value=0.5)])
    content = table.read_bytes()
    assert add_rows(table, [row(value=0.5)]) == []
    with pytest.raises(InputError, match=r"t.jsonl: has another row of arm 'A', seed 0, config hash \w{12}; delete"):
        add_rows(table, [row('B'), row(value=0.6)])
    # Nothing is written if one row is rejected.
    assert table.read_bytes() == content
    with pytest.raises(InputError, match="another row of arm 'C'"):
        add_rows(table, [row('C', value=1), row('C', value=2)])
    # A run with other settings is another row.
    assert len(add_rows(table, [row(options=['a=1'])])) == 1
    assert len(read_rows(table)) == 2


def test_add_rows_treats_nan_as_equal(tmp_path):
    assert len(add_rows(tmp_path / 't.jsonl', [row(value=math.nan)])) == 1
    assert add_rows(tmp_path / 't.jsonl', [row(value=math.nan)]) == []


def test_add_rows_without_seed_and_config(tmp_path):
    assert add_rows(tmp_path / 't.jsonl', [dict(arm='b'), dict(arm='a')]) == [RowKey('a'), RowKey('b')]
    assert str(RowKey('a')) == "arm 'a'"


def test_config_hash_covers_config_options_and_start():
    start = dict(arm='A', checkpoint='epoch_1.pth', resume=True)
    others = [('b.py', (), None), ('a.py', ('x=1',), None), ('a.py', ('y=1', 'x=1'), None), ('a.py', (), start),
              ('a.py', ('x=1', 'y=1'), None), ('a.py', (), start | dict(resume=False))]  # fmt: skip
    assert len({config_hash(*settings) for settings in [*others, ('a.py', (), None)]}) == 7
    # The hash ignores the type of a sequence and the order of keys. It must not change, because tables are kept.
    assert config_hash('a.py', ['x=1'], dict(reversed(start.items()))) == config_hash('a.py', ('x=1',), start)
    assert config_hash('a.py', (), None) == hashlib.sha256(b'["a.py", [], null]').hexdigest()[:12]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"arm": "A"}\n<<<<<<< ours\n', 'not valid JSON at line 2, column 1'),
        ('{"arm": "A"}\n\n[1]\n', 'line 3 is no row with an arm'),
        ('{"seed": 0}\n', 'line 1 is no row with an arm'),
        ('{"arm": "A", "seed": 0}\n{"seed": 0, "arm": "A"}\n', "line 2 is a second row of arm 'A', seed 0"),
        ('{"arm": "A", "x": {"$columns": [{"y": [1], "z": []}]}}\n', 'line 1 has columns that do not fit'),
        ('{"arm": "A", "x": {"$columns": 1}}\n', 'line 1 has columns that do not fit'),
    ],
)
def test_read_rows_broken_table_is_one_line_error(tmp_path, text, message):
    path = tmp_path / 't.jsonl'
    path.write_text(text)
    for use in (read_rows, lambda table: add_rows(table, [row('Z')])):
        with pytest.raises(InputError) as caught:
            use(path)
        assert str(caught.value).startswith(f'{path}: ')
        assert message in str(caught.value)
        assert '\n' not in str(caught.value)
    assert path.read_text() == text


def test_read_rows_missing_or_not_utf8(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        read_rows(tmp_path / 't.jsonl')
    (tmp_path / 't.jsonl').write_bytes(b'{"arm": "\xff"}')
    with pytest.raises(InputError, match='not UTF-8'):
        read_rows(tmp_path / 't.jsonl')


# Collecting ------------------------------------------------------------------------------------------------


def test_collect_runs_adds_finished_runs_once(tmp_path):
    work, table = tmp_path / 'work', tmp_path / 't.jsonl'
    with pytest.raises(InputError, match=r'work: no finished run \(a folder with result.json\)'):
        collect_runs(work, table)
    store(work, row('B', 1), row('A', 0))
    (work / 'C_seed0').mkdir()  # a run that is not finished
    store(work / 'verify', row('A', 0, value=0.9))  # a repeated run for another table
    assert collect_runs(work, table) == [row_key(row('A', 0)), row_key(row('B', 1))]
    assert collect_runs(work, table) == []
    assert read_rows(table) == [row('A', 0), row('B', 1)]
    # Collect one run by its own folder.
    store(work, row('C', 0))
    assert collect_runs(work / 'C_seed0', table) == [row_key(row('C', 0))]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not valid JSON'),
        ('[]', 'no arm, seed, config'),
        (json.dumps({key: value for key, value in row().items() if key != 'metrics'}), 'no metrics, so not the result'),
        (json.dumps(row(options=['a=1']) | dict(options=[])), 'config_hash is not that of config, options and start'),
    ],
)
def test_collect_runs_rejects_broken_result(tmp_path, content, message):
    store(tmp_path / 'work', row())
    (tmp_path / 'work/A_seed0/result.json').write_text(content)
    with pytest.raises(InputError, match=message):
        collect_runs(tmp_path / 'work', tmp_path / 't.jsonl')
    assert not (tmp_path / 't.jsonl').exists()


def test_collect_runs_by_two_processes_loses_no_row(tmp_path):
    """Each process adds 40 runs, one at a time, so that they often compete for the lock."""
    # Write the runs.
    table, number = tmp_path / 't.jsonl', 40
    for arm in 'AB':
        store(tmp_path / arm, *(row(arm, seed, value=seed / 7) for seed in range(number)))
    code = (
        'import pathlib, sys, time\n'
        'from dinor1.studies.collect import collect_runs\n'
        'work, table, ready, go = map(pathlib.Path, sys.argv[1:])\n'
        'ready.touch()\n'
        'while not go.exists(): time.sleep(0.001)\n'
        'for own in sorted(work.iterdir()): collect_runs(own, table)\n'
    )
    # Start both processes, and let them begin at the same time.
    arguments = [[tmp_path / arm, table, tmp_path / f'ready_{arm}', tmp_path / 'go'] for arm in 'AB']
    processes = [subprocess.Popen([sys.executable, '-c', code, *map(str, own)]) for own in arguments]
    while not all(own[2].exists() for own in arguments):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (tmp_path / 'go').touch()
    assert [process.wait(120) for process in processes] == [0, 0]
    assert read_rows(table) == [row(arm, seed, value=seed / 7) for arm in 'AB' for seed in range(number)]
    # Only the lock file is left.
    assert {path.name for path in tmp_path.glob('.*')} <= {'.t.jsonl.lock'}
