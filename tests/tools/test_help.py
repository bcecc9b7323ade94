"""The help of the tools, and errors of the command line, appear without loading deep-learning libraries."""

import subprocess
import sys

import pytest

TOOLS = ['train', 'test', 'test_odinw', 'image_demo', 'build_prompt_bank', 'build_category_graph']
# Run a tool, and print on standard error which slow libraries it has loaded.
SPY = (
    'import atexit, runpy, sys; '
    "atexit.register(lambda: print('loaded', *sorted({'torch', 'mmdet'} & set(sys.modules)), file=sys.stderr)); "
    "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def call(repo, *arguments):
    command = [sys.executable, '-c', SPY, *map(str, arguments)]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize('tool', TOOLS)
def test_help_loads_no_deep_learning_library(repo, tool):
    outcome = call(repo, f'tools/{tool}.py', '--help')
    assert outcome.returncode == 0
    assert 'usage:' in outcome.stdout
    assert outcome.stderr.strip().splitlines()[-1] == 'loaded'


def test_wrong_option_loads_no_deep_learning_library(repo):
    outcome = call(repo, 'tools/train.py', 'config.py', '--cfg-options', 'no value')
    assert outcome.returncode == 2
    assert 'KEY=VALUE' in outcome.stderr
    assert outcome.stderr.strip().splitlines()[-1] == 'loaded'


def test_inference_exports_exist():
    import dinor1.inference

    for name in dinor1.inference.__all__:
        assert getattr(dinor1.inference, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dinor1.inference.nothing
