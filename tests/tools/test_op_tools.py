"""benchmark_ops and gpu_check on a machine without a GPU: output and bad input."""

import json

import pytest
import torch

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='about a machine without a GPU')


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_benchmark_ops_times_every_backend(call, tmp_path):
    path = tmp_path / 'ops.json'
    options = ['--workloads', 'nano-decoder', '--dtypes', 'float32', '--rounds', 2, '--out', path]
    outcome = call('analysis_tools/benchmark_ops', *options)
    assert (outcome.status, outcome.err) == (0, '')
    record = json.loads(path.read_text())
    assert record['not_measured'] == dict.fromkeys(('triton', 'mmcv', 'msda_triton', 'deformops'), 'needs a GPU')
    arms = ['reference', 'embedding_bag', 'embedding_bag, weights given']
    assert [(row['kind'], row['arm']) for row in record['rows']] == [
        (kind, arm) for kind in ('forward', 'forward + backward') for arm in arms
    ]
    for row in record['rows']:
        # There are 40 queries, 4 heads, 3 levels and 4 points; 336 + 40 rows of 4 x 16 numbers; 3 numbers per sample.
        work = row['least_work']
        assert work['samples'] == 1920
        assert work['bytes_once'] == 4 * (376 * 64 + 3 * 1920)
        assert work['bytes_gathered'] == 4 * 1920 * 16 * 4
        assert row['milliseconds'] >= row['fastest'] > 0
        assert row['bytes_per_second']['copy'] > 0
        assert (row['relative'] == 1) == (row['arm'] == 'reference')
        assert f'| 1 | {row["kind"]} | {row["arm"]} | {row["milliseconds"]:.3f} |' in outcome.out


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('benchmark_ops', ['--rounds', '0'], '--batch and --rounds must be at least 1'),
        ('benchmark_ops', ['--batch', '4', '0'], '--batch and --rounds must be at least 1'),
        ('benchmark_ops', ['--threads', '0'], '--threads: must be at least 1, got 0'),
        ('benchmark_ops', ['--minutes', '0'], '--minutes must be positive'),
        ('benchmark_ops', ['--clock', 'cpu'], '--clock cpu: needs a single thread on a CPU'),
        pytest.param('benchmark_ops', ['--device', 'cuda'], '--device cuda: there is no GPU', marks=no_gpu),
        ('gpu_check', ['--rounds', '0'], '--rounds must be at least 1 and --minutes positive'),
        pytest.param('gpu_check', [], 'there is no GPU on this machine; add --interpret', marks=no_gpu),
    ],
)
def test_op_tools_bad_input(call, tool, arguments, message):
    outcome = call(f'analysis_tools/{tool}', *arguments)
    assert outcome.status == 2
    assert outcome.out == ''
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1


def test_gpu_check_failed_check_ends_with_status_1(call, monkeypatch, tmp_path):
    """One case is compared with an operator that has an error of 0.001."""
    from dinor1.ops.ms_deform_attn import embedding_bag
    from tests.ops import attention_cases

    path = tmp_path / 'checks.json'
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.setattr(attention_cases, 'all_cases', lambda: [attention_cases.Case('one')])
    exact, differences = embedding_bag.forward, attention_cases.differences
    monkeypatch.setattr(
        attention_cases, 'differences', lambda case, backend, device: differences(case, 'embedding_bag', device)
    )
    assert call('analysis_tools/gpu_check', '--interpret', '--out', path).status == 0
    monkeypatch.setattr(embedding_bag, 'forward', lambda *arguments: exact(*arguments) + 1e-3)
    outcome = call('analysis_tools/gpu_check', '--interpret', '--out', path)
    assert outcome.status == 1
    assert 'FAILED triton: one: 1.0e-03 > 1e-04' in outcome.out
    (row,) = json.loads(path.read_text())['checks']
    assert row['ok'] is False
    assert row['largest'] == pytest.approx(1e-3, rel=1e-3)
