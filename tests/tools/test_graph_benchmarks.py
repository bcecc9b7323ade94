"""benchmark_graph.py and benchmark_kge.py: one-line errors for bad options."""

import pytest
import torch

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('benchmark_graph', ['--repeat', 0], '--repeat must be at least 1, got 0'),
        ('benchmark_graph', ['--graphs', -2], '--graphs must be at least 1, got -2'),
        ('benchmark_graph', ['--size-max', 5], '--size-max must be at least 6, got 5'),
        ('benchmark_graph', ['--dim', 10, '--heads', 4], '--dim must be a multiple of --heads, got 10 and 4'),
        ('benchmark_graph', ['--device', 'gpu'], "--device 'gpu': not a device"),
        ('benchmark_graph', ['--device', 'meta'], "--device 'meta': not usable on this machine"),
        ('benchmark_graph', ['--out', '.'], '--out .: is a folder'),
        ('benchmark_kge', ['--repeat', 0], '--repeat must be at least 1, got 0'),
        ('benchmark_kge', ['--dim', -1], '--dim must be at least 1, got -1'),
        ('benchmark_kge', ['--triples', 0], '--triples must be at least 1, got 0'),
        ('benchmark_kge', ['--kind', 'nfe'], '--kind nfe: unknown; give one of nfe-1'),
        ('benchmark_kge', ['--data-root', 'absent'], 'absent: found neither train.txt nor train.txt.gz'),
        pytest.param('benchmark_kge', ['--device', 'cuda'], "--device 'cuda': this machine has 0", marks=no_gpu),
    ],
)
def test_graph_benchmarks_bad_input(call, tool, arguments, message):
    outcome = call(f'analysis_tools/{tool}', *arguments)
    assert outcome.status == 2
    assert outcome.out == ''
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1


def test_benchmark_kge_reads_data_folder_from_environment(call, monkeypatch, tmp_path):
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    assert f'{tmp_path}/wn18rr: found neither' in call('analysis_tools/benchmark_kge').err
