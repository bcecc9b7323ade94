"""Commands with a log: output, time limits that also end child processes, signals."""

import os
import signal
import sys
import time

import pytest

from dinor1.utils.command import last_lines, read_log, run_logged

# A script that starts a child process, which continues to run unless both are ended.
WITH_CHILD = (
    "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    'print(child.pid, flush=True); time.sleep(60)'
)
# A script that prints a line on a signal, as a training saves a checkpoint.
SAVES = (
    'import signal, sys, time; name = signal.Signals; '
    "stop = lambda number, _: (print('saved on', name(number).name, flush=True), sys.exit(128 + number)); "
    "[signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)]; print('ready', flush=True); "
    'time.sleep(60)'
)


def python(script):
    return [sys.executable, '-c', script]


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def test_run_logged_appends_output_and_returns_status(tmp_path):
    log = tmp_path / 'logs/a.log'
    assert last_lines(log) == []
    assert run_logged(python("print('one'); import sys; print('two', file=sys.stderr); sys.exit(3)"), log) == 3
    assert sorted(last_lines(log)) == ['one', 'two']
    size = log.stat().st_size
    ticks = []
    assert run_logged(python("print('three\\n\\nfour')"), log, lambda: ticks.append(1)) == 0
    assert last_lines(log, 1) == ['four']
    assert last_lines(log, offset=size) == ['three', 'four']
    assert read_log(log, size) == 'three\n\nfour\n'
    assert ticks


def test_run_logged_time_limit_ends_child_processes(tmp_path):
    start = time.monotonic()
    status = run_logged(python(WITH_CHILD), tmp_path / 'a.log', seconds=3.0, grace=1.0)
    assert status == -signal.SIGTERM
    assert time.monotonic() - start < 10
    child = int(last_lines(tmp_path / 'a.log')[0])
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


@pytest.mark.parametrize(
    ('number', 'said', 'error'),
    [
        (signal.SIGINT, 'saved on SIGINT', KeyboardInterrupt),
        (signal.SIGTERM, 'saved on SIGTERM', SystemExit),
        (signal.SIGHUP, 'saved on SIGTERM', SystemExit),
    ],
)
def test_run_logged_forwards_signals(tmp_path, number, said, error):
    log, sent, before = tmp_path / 'a.log', [], signal.getsignal(number)

    def tick():
        if 'ready' in read_log(log) and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    with pytest.raises(error) as caught:
        run_logged(python(SAVES), log, tick)
    assert last_lines(log) == ['ready', said]
    assert signal.getsignal(number) is before
    if error is SystemExit:
        assert caught.value.code == 128 + number


def test_run_logged_missing_program(tmp_path):
    with pytest.raises(FileNotFoundError):
        run_logged(['no-such-program'], tmp_path / 'a.log')
