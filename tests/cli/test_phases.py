"""Phases of a job: lines, logs, times, failures, and finished phases."""

import json
import re
import sys

import pytest

from dinor1.cli import phases as module
from dinor1.cli.phases import Phase, duration, run_phases

LINE = '11/30 02:31:12 - mmengine - INFO - Epoch(train) [{}][ 5/10]  lr: 1.0e-03'
SLOW = "import time; print('{}\\n' + '{}', flush=True); time.sleep(1.2); print('{}', flush=True); time.sleep(1.2)"
# A script that prints the log of a training of three epochs.
TRAINING = SLOW.format('train_cfg = dict(max_epochs=3)', LINE.format(1), LINE.format(2))


def phase(name, script, done=None):
    return Phase(name, name.title(), ['-c', script], done)


def test_run_phases_writes_line_log_and_time(tmp_path, capsys):
    # Run both phases.
    done = tmp_path / 'done'
    job = [phase('draw', "print('drawn')"), phase('train', f"print('trained'); open({str(done)!r}, 'w')", done)]
    run_phases(job, tmp_path)
    out = capsys.readouterr().out
    assert re.search(r'^\[1/2\] Draw: 0:\d\d$', out, re.MULTILINE)
    assert re.search(r'^Train +0:\d\d$', out, re.MULTILINE)
    assert re.search(r'^Total +0:\d\d$', out, re.MULTILINE)
    assert (tmp_path / 'logs/draw.log').read_text() == 'drawn\n'
    # Run again: the finished phase is skipped, and its time is still in the table.
    seconds = json.loads((tmp_path / 'phases.json').read_text())
    (tmp_path / 'phases.json').write_text(json.dumps(seconds | dict(train=3790.0)))
    run_phases(job, tmp_path)
    out = capsys.readouterr().out
    assert '[2/2] Train: done before (1:03:10)' in out
    assert (tmp_path / 'logs/draw.log').read_text() == 'drawn\ndrawn\n'
    assert (tmp_path / 'logs/train.log').read_text() == 'trained\n'


def test_run_phases_stops_after_failed_phase(tmp_path, capsys):
    script = "import sys; [print('line', i) for i in range(40)]; sys.exit(7)"
    with pytest.raises(SystemExit) as stop:
        run_phases([phase('bad', script), phase('never', 'print()')], tmp_path)
    assert stop.value.code == 7
    out, err = capsys.readouterr()
    assert re.search(r'^\[1/2\] Bad: FAILED after 0:\d\d$', out, re.MULTILINE)
    assert err.splitlines()[:-1] == [f'line {i}' for i in range(25, 40)]
    assert err.splitlines()[-1].endswith(f'ended with status 7; its output: {tmp_path}/logs/bad.log')
    assert not (tmp_path / 'logs/never.log').exists()


def test_run_phases_on_terminal_shows_progress_in_place(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    monkeypatch.setattr(module.shutil, 'get_terminal_size', lambda: module.os.terminal_size((120, 20)))
    run_phases([phase('train', TRAINING)], tmp_path)
    shown = capsys.readouterr().out.split('\r\x1b[2K')
    assert any(re.match(r'\[1/1\] Train \.\.\. epoch 1/3, 17 %, 0:0\d so far$', text) for text in shown)
    # Progress from 1/6 to 1/2 takes a bit more than a second: the other half takes 1.5 times as long.
    assert any(re.match(r'\[1/1\] Train \.\.\. epoch 2/3, 50 %, 0:0\d so far, ETA 0:0\d$', text) for text in shown)
    assert re.match(r'\[1/1\] Train: 0:0\d\n', shown[-1])


def test_run_phases_interruption_is_printed_and_timed(tmp_path, capsys, monkeypatch):
    """The line of the phase says so, and its time includes that of the earlier attempt."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    done = tmp_path / 'done'
    (tmp_path / 'phases.json').write_text('{"train": 100.0}')
    with monkeypatch.context() as patch:
        patch.setattr(module, 'run_logged', interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_phases([phase('train', '', done)], tmp_path)
    assert 'Train: stopped after 0:00; the same command continues it' in capsys.readouterr().out
    assert json.loads((tmp_path / 'phases.json').read_text())['train'] >= 100.0


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0.4, '0:00'), (190, '3:10'), (605, '10:05'), (3790, '1:03:10'), (None, 'time unknown')]
)
def test_duration_format(seconds, text):
    assert duration(seconds) == text
