"""The plan for a GPU machine: tool, shell script, dry runs and page."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dinor1.benchmarks.gpu_plan import Training, check_parts, train_parts

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='about a machine without a GPU')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        pytest.param(['check'], 'there is no GPU on this machine; add --dry-run', marks=no_gpu),
        (['train', '--recipe', 'gone.py'], '--recipe gone.py: no such config file'),
        (['train', '--data', 'gone.tar'], '--data '),
        (['report', 'gone.json'], 'gone.json: no such file'),
    ],
)
def test_gpu_plan_bad_input(call, arguments, message):
    outcome = call('analysis_tools/gpu_plan', *arguments)
    assert outcome.status == 2
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1


@no_gpu
def test_tools_accept_options_of_gpu_plans(call, tmp_path):
    """The only error on a machine without a GPU is the missing GPU."""
    parts = [*check_parts(False), *train_parts(False, tmp_path, tmp_path, Training())]
    measured = [part for part in parts if part.has_result]
    assert len(measured) == 6
    for part in measured:
        tool, *options = part.command
        outcome = call(tool.removeprefix('tools/').removesuffix('.py'), *options, '--out', tmp_path / 'a.json')
        assert outcome.status == 2
        assert 'there is no GPU on this machine' in outcome.err
        assert outcome.err.count('\n') == 1


def test_gpu_plan_report_rejects_dry_run(call, tmp_path):
    page, path = tmp_path / 'page.md', tmp_path / 'check.json'
    page.write_text('before\n<!-- gpu:begin -->\nold\n<!-- gpu:end -->\nafter\n')
    record = dict(plan='check', dry_run=True, machine=dict(gpu='NVIDIA H200'), parts={})
    path.write_text(json.dumps(record))
    outcome = call('analysis_tools/gpu_plan', 'report', path, '--update', page)
    assert outcome.status == 2
    assert outcome.err.startswith('error: --update: a record of a dry run')
    assert 'old' in page.read_text()
    path.write_text(json.dumps(record | dict(dry_run=False)))
    outcome = call('analysis_tools/gpu_plan', 'report', path, '--update', page)
    assert (outcome.status, outcome.err) == (0, '')
    text = page.read_text()
    assert text.startswith('before\n<!-- gpu:begin -->\n\n**check**: NVIDIA H200.')
    assert text.endswith('<!-- gpu:end -->\nafter\n')


def run_script(repo, out, *arguments):
    environment = os.environ | dict(OUT=str(out), PYTHON=sys.executable, WHEELS=str(out / 'none'))
    command = ['bash', str(repo / 'tools/gpu_plan.sh'), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_gpu_plan_script_prints_usage(repo, tmp_path):
    outcome = run_script(repo, tmp_path)
    assert outcome.returncode == 2
    assert 'tools/gpu_plan.sh check' in outcome.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ('plan', 'results'),
    [
        ('check', ['checks', 'rows', 'rows', 'rows', 'rows']),
        ('train', ['rows', None, 'curve']),
    ],
)
def test_gpu_plan_dry_run_has_all_results(repo, tmp_path, plan, results):
    pytest.importorskip('triton')
    outcome = run_script(repo, tmp_path, plan, '--dry-run')
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    record = json.loads((tmp_path / f'{plan}.json').read_text())
    assert record['dry_run'] is True
    for row, key in zip(record['parts'].values(), results, strict=True):
        assert row['status'] == 'ok'
        assert key is None or row['result'][key]
        assert str(tmp_path) not in row['command']
        # No model or implementation failed.
        assert not any('error' in line for line in (row['result'] or {}).get('rows', []))
    if plan == 'train':
        weights = torch.load(tmp_path / 'weights.pth')
        assert weights['meta']['iter'] == 8
        assert {value.dtype for value in weights['state_dict'].values()} <= {torch.float16, torch.int64, torch.bool}
