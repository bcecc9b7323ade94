"""test.py in bfloat16, and compiled: metrics, record and errors."""

import json

import pytest


def test_test_tool_amp_bfloat16(call, run_config, model_files, tmp_path):
    found = {}
    for name, options in dict(float32=[], bfloat16=['--amp']).items():
        outcome = call('test', run_config, model_files.checkpoint, '--work-dir', tmp_path / name, *options)
        assert outcome.status == 0
        record = found[name] = json.loads((tmp_path / name / 'metrics.json').read_text())
        assert record['precision'] == name
        assert record['compiled'] is False
    assert set(found['float32']['metrics']) == set(found['bfloat16']['metrics'])
    for name, value in found['float32']['metrics'].items():
        # A model with random weights finds nothing in either precision.
        assert found['bfloat16']['metrics'][name] == pytest.approx(value, abs=0.05)


def test_test_tool_compile_without_compiler(call, run_config, model_files, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    outcome = call('test', run_config, model_files.checkpoint, '--work-dir', tmp_path / 'out', '--compile')
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith('error: --compile: there is no C++ compiler (no-such-compiler)')
