"""The tools that simulate an annotator and measure adaptations: rows, what is not measured again, and the page."""

import pytest

import dinor1.inference
from dinor1.studies import adaptation_study, annotator_study
from dinor1.studies.results import read_rows

WORK = dict(drawn=2, clicks=3, checks=4)


def annotated(root, inferencer, num_drawn, seed, splits, count):
    ways = ('draw all', *annotator_study.WAYS)
    metrics = {f'{way}_{key}': 0.5 for way in annotator_study.WAYS for key in ('AP50', 'AP')}
    return dict(metrics=metrics, work=dict.fromkeys(ways, WORK), thresholds={}, images=count or 9, boxes=4)


def adapted(root, inferencer, num_images, seed, max_test_images):
    metrics = dict(exemplars_AP50=0.25, exemplars_AP=0.1, adapted_AP50=0.5, adapted_AP=0.2)
    adaptation = dict(kept=True, cpu_seconds=7.0)
    return dict(metrics=metrics, adaptation=adaptation, test_images=max_test_images, boxes=4)


@pytest.mark.parametrize(
    ('tool', 'name', 'amount', 'line'),
    [
        ('simulated_annotator', 'annotator', ['--by-hand', 1, '--images', 9], '| fish | 9 | 4 | 1 | 2 | '),
        ('measure_adaptation', 'adapt', ['--annotated', 3], '| fish | 60 | 3 | 0.250 | 0.500 |'),
    ],
)
def test_tool_adds_missing_rows_and_writes_the_table(call, tmp_path, monkeypatch, tool, name, amount, line):
    measured = []

    def recorded(root, *arguments):
        measured.append((root.rsplit('/', 1)[-1], arguments[2]))
        return (annotated if name == 'annotator' else adapted)(root, *arguments)

    monkeypatch.setattr(dinor1.inference, 'DINOR1Inferencer', lambda **options: options, raising=False)
    monkeypatch.setattr(annotator_study, 'measure_annotator', recorded)
    monkeypatch.setattr(adaptation_study, 'measure_adaptation', recorded)
    page, out = tmp_path / 'page.md', tmp_path / 'rows.jsonl'
    page.write_text(f'before\n<!-- {name}:begin -->\n<!-- {name}:end -->\n')
    # Draw 0 of one set, then two draws of two sets: three are missing.
    arguments = ('--out', out, *amount, '--seeds')
    assert call(f'analysis_tools/{tool}', '/a/data/fish', *arguments, 1).status == 0
    outcome = call(f'analysis_tools/{tool}', '/a/data/fish', '/a/data/rfmix/nuts', *arguments, 2, '--update', page)
    assert outcome.status == 0, outcome
    assert measured == [('fish', 0), ('nuts', 0), ('fish', 1), ('nuts', 1)]
    rows = read_rows(out)
    assert [(row['set'], row['seed']) for row in rows] == [('fish', 0), ('fish', 1), ('nuts', 0), ('nuts', 1)]
    assert rows[3]['command'].startswith(f'python tools/analysis_tools/{tool}.py data/rfmix/nuts --out ')
    assert line in page.read_text()
    # The table alone.
    assert call(f'analysis_tools/{tool}', '--out', out).out.strip() in page.read_text()
    assert call(f'analysis_tools/{tool}', '--out', out, '--seeds', 0).status == 2
