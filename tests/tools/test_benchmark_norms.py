"""benchmark_norms: its table, its file, and bad input."""

import json

import pytest

CONFIG = 'configs/_base_/models/dino_r1_nano.py'
NANO = ('--models', 'detector', '--config', CONFIG, '--size', 64, 96, '--device', 'cpu')


def test_benchmark_norms_times_every_norm(call, tmp_path):
    path = tmp_path / 'norms.json'
    outcome = call('analysis_tools/benchmark_norms', *NANO, '--rounds', 2, '--out', path)
    assert outcome.status == 0
    record = json.loads(path.read_text())
    seconds = record['models']['detector']['seconds']
    assert list(seconds) == ['LN', 'RMSNorm', 'CRMSNorm', 'UN, not folded', 'UN, folded']
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
    memory = record['models']['detector']['memory_mib']
    assert list(memory) == list(seconds)
    assert memory['UN, folded']['training'] is None
    # The memory is None if the system does not count it.
    assert all(value is None or value >= 0 for peaks in memory.values() for value in peaks.values())
    rows = [line for line in outcome.out.splitlines() if line.startswith('| ')][1:]
    assert [row.split('|')[1].strip() for row in rows] == list(seconds)
    assert rows[0].split('|')[3].strip() == '1.000'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--rounds', 0), '--rounds, --batch and --size must be at least 1'),
        (('--threads', 0), '--threads: must be at least 1, got 0'),
        (('--clock', 'cpu', '--threads', 2), '--clock cpu: needs a single thread on a CPU'),
    ],
)
def test_benchmark_norms_bad_input(call, arguments, message):
    outcome = call('analysis_tools/benchmark_norms', *NANO, *arguments)
    assert outcome.status == 2
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1
