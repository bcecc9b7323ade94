"""benchmark_quant: its table, its file, and bad input."""

import json
import statistics

import pytest

from dinor1.blocks.shiftquant import has_int_mm

needs_int_mm = pytest.mark.skipif(not has_int_mm('cpu'), reason='this torch has no int8 product on CPU')


@needs_int_mm
def test_benchmark_quant_times_and_compares_every_arm(call, tmp_path):
    path = tmp_path / 'out/times.json'
    options = ['--shapes', '40x8x6', '2x3x4x5x3', '--rounds', 3, '--devices', 'cpu', '--bits', 6, '--out', path]
    outcome = call('analysis_tools/benchmark_quant', *options)
    assert (outcome.status, outcome.err) == (0, '')
    record = json.loads(path.read_text())
    assert record['bits'] == 6
    assert record['rounds'] == 3
    shapes = record['devices']['cpu']['shapes']
    assert shapes.keys() == {'40x8x6', '2x3x4x5x3'}
    # Compare the file with the printed table.
    for name, sections in shapes.items():
        assert sections.keys() ^ {'product', 'shifted', 'step'} == ({'quantize'} if name == '40x8x6' else set())
        for section, content in sections.items():
            first = next(iter(content['seconds'].values()))
            for arm, times in content['seconds'].items():
                row = content['results'][arm]
                assert row['milliseconds'] == pytest.approx(1e3 * statistics.median(times))
                assert row['speedup'] == pytest.approx(
                    statistics.median(a / b for a, b in zip(first, times, strict=True))
                )
                line = f'| {name} | {section} | {arm} | {row["milliseconds"]:.2f} | {row["speedup"]:.2f} |'
                assert line in outcome.out.splitlines()
    assert {'float32', 'bfloat16', 'int8'} == shapes['40x8x6']['product']['seconds'].keys()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rounds', '0'], '--rounds: must be at least 1, got 0'),
        (['--bits', '9'], '--bits: must be from 2 to 8, got 9'),
        (['--threads', '0'], '--threads: must be at least 1, got 0'),
        (['--shapes', '3x4'], "--shapes: '3x4' is neither"),
        (['--shapes', '3x0x4'], "--shapes: '3x0x4' is neither"),
        (['--clock', 'cpu', '--devices', 'cpu', '--threads', '2'], '--clock cpu: needs a single thread'),
    ],
)
def test_benchmark_quant_bad_input(call, arguments, message):
    outcome = call('analysis_tools/benchmark_quant', *arguments)
    assert outcome.status == 2
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1
