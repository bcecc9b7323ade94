"""The equivariance and benchmark tools, called as functions with very small settings."""

import importlib.util
import json
import sys

import pytest
import torch

from dinor1.utils.errors import InputError


@pytest.fixture
def load(repo):
    def load(name):
        path = repo / f'tools/analysis_tools/{name}.py'
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(autouse=True)
def _threads():
    """Restore the number of threads, which the tools set."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, arguments)])
    module.main()


def test_equivariance_tool_writes_figure_and_numbers(load, monkeypatch, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    tool = load('lie_equivariance')
    monkeypatch.setattr(tool, 'LAYERS', dict(list(tool.LAYERS.items())[-2:]))
    out = tmp_path / 'out' / 'errors'
    run(tool, monkeypatch, '--out', out, '--samples', 2, 4, '--groups', 'sl2', '--repeats', 2, '--seeds', 1)
    assert out.with_suffix('.png').read_bytes()[:4] == b'\x89PNG'
    results = json.loads(out.with_suffix('.json').read_text())
    assert set(results['network']) == {'sl2'}
    assert len(results['network']['sl2']['identity']) == 2
    assert all(
        0 < error < 0.2 for name, error in results['layers']['spline, k 5, 3 knots, bump 1'].items() if '90' not in name
    )
    assert 'weighted sum: error falls as N^' in capsys.readouterr().out


def test_equivariance_tool_weighted_sums_converge(load):
    """Root mean squares of 30 draws determine an exponent over a factor 16 to about 0.06."""
    tool = load('lie_equivariance')
    samples = [32, 128, 512]
    errors = tool.integral_errors(samples, repeats=30, reference=20_000)['weighted sum']
    assert tool.slope(samples, errors) == pytest.approx(-0.5, abs=0.12)


def test_equivariance_tool_slope(load):
    assert load('lie_equivariance').slope([1, 10, 100], [3.0, 0.3, 0.03]) == pytest.approx(-1.0)


@pytest.mark.parametrize('arguments', [['--samples', 10, 5], ['--samples', 5], ['--samples', 5, 10, '--repeats', 0]])
def test_equivariance_tool_bad_numbers_raise(load, monkeypatch, tmp_path, arguments):
    with pytest.raises(InputError, match='must be at least'):
        run(load('lie_equivariance'), monkeypatch, '--out', tmp_path / 'x', *arguments)
    assert not list(tmp_path.iterdir())


SETTINGS = dict(width=2, side=14, batch=2, repeats=1, kernel='spline', device='cpu', threads=1)


@pytest.mark.parametrize('arm', ['gl2', 'so2'])
def test_lie_benchmark_measures(load, arm):
    row = load('benchmark_lie').measure(arm, 3, SETTINGS)
    assert row['samples'] == 3
    assert row['parameters'] > 0
    assert row['train_images_per_second'] > 0
    assert row['test_images_per_second'] > 0


def test_lie_benchmark_compares_equal_maps_with_escnn(load):
    pytest.importorskip('escnn')
    tool = load('benchmark_lie')
    x = torch.rand(2, 1, 15, 15)
    assert tool.escnn_trunk(4, 3)(x).shape == tool.our_trunk('so2', 4, 3, 'siren')(x).shape


def test_lie_benchmark_missing_requirements_raise(load, monkeypatch, capsys):
    tool = load('benchmark_lie')
    monkeypatch.setitem(sys.modules, 'escnn', None)
    with pytest.raises(InputError, match='pip install escnn, or leave it out of --arms'):
        run(tool, monkeypatch, '--arms', 'so2', 'escnn')
    with pytest.raises(InputError, match='--side must be at least 14'):
        run(tool, monkeypatch, '--arms', 'so2', '--side', 10)
    with pytest.raises(InputError, match='must be at least 1'):
        run(tool, monkeypatch, '--arms', 'so2', '--samples', 0)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match='no GPU here'):
            run(tool, monkeypatch, '--arms', 'so2', '--device', 'cuda')
    assert not capsys.readouterr().out
