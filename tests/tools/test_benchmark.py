"""benchmark: its file, its table, pages with the table, and bad input."""

import json

import pytest
import torch

from dinor1.inference import acceleration as speed
from dinor1.studies.results import read_rows

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')

SMALL = ('--size', 64, 96, '--prompts', 3, '--boxes', 2)


def test_benchmark_measures_and_makes_table(call, model_files, tmp_path):
    # Measure.
    path, page = tmp_path / 'result.json', tmp_path / 'page.md'
    options = ['--precisions', 'float32', 'bfloat16', '--passes', 'inference', 'training', '--rounds', 2, '--no-memory']
    outcome = call('analysis_tools/benchmark', model_files.config, *SMALL, *options, '--out', path)
    assert outcome.status == 0
    record = json.loads(path.read_text())
    assert [(row['kind'], row['precision']) for row in record['rows']] == [
        (kind, precision) for kind in ('inference', 'training') for precision in ('float32', 'bfloat16')
    ]
    for row in record['rows']:
        assert 'error' not in row
        assert len(row['seconds']) == 2
        assert row['milliseconds']['fastest'] <= row['milliseconds']['median']
        assert row['parameters'] > 0
    assert record['rows'][0]['relative'] == 1
    assert record['rows'][0]['flops'] > 1e6
    assert {'device', 'torch', 'threads', 'date'} <= set(record['environment'])

    # Write the table to a page.
    page.write_text('before\n<!-- benchmark:begin -->\nold\n<!-- benchmark:end -->\nafter\n')
    outcome = call('analysis_tools/benchmark', '--table', path, '--update', page)
    assert outcome.status == 0
    text = page.read_text()
    assert text.startswith('before\n')
    assert text.endswith('after\n')
    assert 'old' not in text
    assert outcome.out.strip() in text
    assert 'neither prompt encoder nor text model runs' in text
    # A table file, to which the record is added once, gives the same page.
    rows = tmp_path / 'table.jsonl'
    for _ in range(2):
        assert call('analysis_tools/benchmark', '--table', path, '--collect', rows).status == 0
    assert call('analysis_tools/benchmark', '--table', rows).out == outcome.out
    assert [row['arm'] for row in read_rows(rows)] == ['result']
    rows = [line for line in text.splitlines() if line.startswith('| model ')][1:]
    assert len(rows) == 4
    assert f'| {record["rows"][0]["milliseconds"]["median"]:.1f} (' in rows[0]


def test_benchmark_committed_page_is_generated(call, repo):
    """The text between the markers is generated."""
    outcome = call('analysis_tools/benchmark', '--table', repo / 'results/benchmark.jsonl')
    page = (repo / 'docs/research/speed.md').read_text()
    assert f'<!-- benchmark:begin -->\n\n{outcome.out}\n<!-- benchmark:end -->' in page


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((), 'nothing to measure: name a config, or --baselines'),
        (('missing.py',), 'missing.py: no such config file'),
        (('configs/blocks/_base_/models/affnist_cnn.py',), 'configs/blocks/_base_/models/affnist_cnn.py: a '),
        (('a.py', '--rounds', 0), '--rounds: must be at least 1'),
        (('a.py', '--size', 0, 8), '--size: must be at least 1'),
        (('a.py', '--threads', 0), '--threads: must be at least 1'),
        (('a.py', '--device', 'tpu'), '--device tpu: must be cpu or cuda'),
        pytest.param(('a.py', '--device', 'cuda'), '--device cuda: there is no GPU', marks=no_gpu),
        (('a.py', '--clock', 'cpu'), '--clock cpu: needs a single thread on a CPU'),
        (('a.py', '--compile', '--passes', 'training'), '--compile: compiles inference only'),
        (('a.py', '--update', 'b.md'), '--update: needs --table FILE.json'),
        (('a.py', '--collect', 'b.jsonl'), '--collect: needs --table FILE.json'),
        (('--table', 'results/vit_norm.jsonl'), 'results/vit_norm.jsonl: not a result of this tool'),
        (('a.py', '--table', 'b.json'), '--table: makes a table of files and measures nothing'),
        (('--table', 'missing.json'), 'missing.json: no such file'),
        (('--table', 'pyproject.toml'), 'pyproject.toml: not valid JSON'),
        (('--table', 'dinor1/evaluation/odinw/manifest.json'), 'dinor1/evaluation/odinw/manifest.json: not a result'),
    ],
)
def test_benchmark_bad_input(call, arguments, message):
    outcome = call('analysis_tools/benchmark', *arguments)
    assert outcome.status == 2
    assert outcome.out == ''
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1


def test_benchmark_compile_without_compiler(call, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    outcome = call('analysis_tools/benchmark', 'a.py', '--compile')
    assert outcome.status == 2
    assert outcome.err.startswith('error: --compile: there is no C++ compiler (no-such-compiler)')
    assert speed.why_not_compile('cpu')
