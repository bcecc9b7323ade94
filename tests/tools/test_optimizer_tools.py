"""norm_growth and benchmark_optimizers: their tables, files and figures, and bad input."""

import json

import pytest

from tests.tools.conftest import readable_image


def rows(text):
    """First cell -> other cells of every row of a Markdown table."""
    lines = [line.strip('|').split('|') for line in text.splitlines() if line.startswith('|')]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


def test_norm_growth_draws_example_of_paper(call, tmp_path):
    path = tmp_path / 'new/figure.png'
    outcome = call('analysis_tools/norm_growth', '--out', path)
    assert (outcome.status, outcome.err) == (0, '')
    assert outcome.out.splitlines()[-1] == f'Figure: {path}'
    found = rows(outcome.out)
    # Known norms with six digits, for a start at (1, 0), an optimum at 150 degrees and 200 steps.
    norms = {
        'SGD': '1.089652',
        'SGD, momentum 0.9': '6.045458',
        'SGDP, momentum 0.9': '1.571716',
        'SGDP, buffer kept whole': '1.312940',
        'SGDP, Nesterov': '1.340134',
        'Adam': '1.658860',
        'AdamP': '1.075160',
    }
    assert {name: cells[0] for name, cells in found.items()} == norms
    assert found['Adam'][1] == ''  # no identity
    for name in norms.keys() - {'Adam'}:
        assert float(found[name][1]) == pytest.approx(float(norms[name]), abs=2e-6)
    assert [found[name][2] for name in norms][1:4] == ['58', '27', '15']
    assert readable_image(path).std() > 10
    assert [p.name for p in path.parent.iterdir()] == ['figure.png']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--steps', '0'], '--steps: must be at least 1, got 0'),
        (['--momentum', '1'], '--momentum: must be in [0, 1), got 1.0'),
        (['--angle', '180'], '--angle: must be between 0 and 180 degrees'),
        (['--lr', '0'], '--lr and --adam-lr must be positive'),
        (['--out', 'figure'], '--out: figure: name a file that ends in .png'),
    ],
)
def test_norm_growth_bad_input(call, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = call('analysis_tools/norm_growth', *arguments)
    assert outcome.status == 2
    assert outcome.err.startswith(f'error: {message}')
    assert outcome.err.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_config(tmp_path):
    path = tmp_path / 'small.py'
    path.write_text("model = dict(backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4))\n")
    return path


def test_benchmark_optimizers_ratios_are_within_a_round(call, small_config, tmp_path):
    path = tmp_path / 'out/times.json'
    options = ['--config', small_config, '--rounds', 3, '--devices', 'cpu', '--out', path]
    outcome = call('analysis_tools/benchmark_optimizers', *options)
    assert (outcome.status, outcome.err) == (0, '')
    record = json.loads(path.read_text())
    cpu = record['devices']['cpu']
    assert record['rounds'] == 3
    assert record['tensors'] > 50
    assert cpu['bytes_per_second'] > 0
    found = rows(outcome.out)
    assert found.keys() == cpu['results'].keys() == cpu['seconds'].keys()
    assert {'AdamP foreach', 'AdamW fused', 'AdamW foreach', 'SGDP foreach', 'SGD fused'} <= found.keys()
    for name, row in cpu['results'].items():
        times, first = cpu['seconds'][name], 'SGDP foreach' if 'SGD' in name else 'AdamP foreach'
        assert row['milliseconds'] == pytest.approx(1e3 * sorted(times)[1])
        ratios = sorted(t / b for t, b in zip(times, cpu['seconds'][first], strict=True))
        assert row['ratio'] == pytest.approx(ratios[1])
        assert found[name][:2] == [f'{row["milliseconds"]:.1f}', f'{row["ratio"]:.2f}']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rounds', '0'], '--rounds: must be at least 1, got 0'),
        (['--threads', '0'], '--threads: must be at least 1, got 0'),
        (['--clock', 'cpu', '--devices', 'cpu', '--threads', '2'], '--clock cpu: needs a single thread'),
        (['--config', 'absent.py'], 'absent.py'),
        (['--config', '{empty}'], '{empty}: no model.backbone in this config'),
    ],
)
def test_benchmark_optimizers_bad_input(call, arguments, message, tmp_path):
    empty = tmp_path / 'empty.py'
    empty.write_text('model = dict()\n')
    arguments = [argument.format(empty=empty) for argument in arguments]
    outcome = call('analysis_tools/benchmark_optimizers', *arguments)
    assert outcome.status == 2
    assert outcome.err.startswith('error: ')
    assert outcome.err.count('\n') == 1
    assert message.format(empty=empty) in outcome.err
