"""Measurement of adaptations: the metrics, and the table."""

import json

import pytest

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.studies.adaptation_study import adaptation_table, measure_adaptation
from dinor1.studies.results import read_rows
from dinor1.utils.errors import InputError
from tests.studies.small_set import BOXES, write_small_set


@pytest.fixture(scope='module')
def inferencer(model_files):
    return DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_small_set(tmp_path_factory.mktemp('sets') / 'small', train=4, test=3)


def test_measure_adaptation_of_a_rejected_tuning_changes_nothing(inferencer, root):
    result = measure_adaptation(root, inferencer, 3, seed=0, steps=1, lr=0.0)
    assert (result['test_images'], result['boxes'], result['adaptation']['kept']) == (3, 6, False)
    assert result['metrics']['adapted_AP50'] == result['metrics']['exemplars_AP50']
    assert result['metrics']['adapted_AP'] == result['metrics']['exemplars_AP']


def test_measure_adaptation_measures_the_tuned_prompts(inferencer, root, monkeypatch):
    # This detector finds the objects if its prompts were tuned, and otherwise nothing.
    def predict(paths, **options):
        boxes = [[x, y, x + w, y + h] for x, y, w, h in BOXES] if inferencer.bank.adaptations else []
        names = ['cat', 'dog'][: len(boxes)]
        return [dict(bboxes=boxes, names=names, scores=[0.5] * len(boxes)) for _ in paths]

    monkeypatch.setattr(inferencer, 'predict', predict)
    result = measure_adaptation(root, inferencer, 1, seed=0, max_test_images=2, steps=1)
    assert (result['test_images'], result['adaptation']['kept'], result['adaptation']['steps']) == (2, True, 1)
    assert result['metrics'] == dict(exemplars_AP50=0, exemplars_AP=0, adapted_AP50=1, adapted_AP=1)
    assert result['adaptation']['cpu_seconds'] >= 0


def test_measure_adaptation_counts_what_cannot_be_checked_as_refused(inferencer, tmp_path):
    root = write_small_set(tmp_path / 'small', train=3, test=1)
    # The three images show three different classes.
    path = root / 'annotations/train.json'
    content = json.loads(path.read_text())
    content['categories'] += [dict(id=3, name='cup')]
    content['annotations'] = content['annotations'][::2]
    for category, annotation in enumerate(content['annotations'], 1):
        annotation['category_id'] = category
    path.write_text(json.dumps(content))
    test = json.loads((root / 'annotations/test.json').read_text())
    (root / 'annotations/test.json').write_text(json.dumps(test | dict(categories=content['categories'])))
    result = measure_adaptation(root, inferencer, 3, seed=0)
    assert (result['adaptation']['refused'], result['adaptation']['kept']) == (True, False)
    assert result['metrics']['adapted_AP50'] == result['metrics']['exemplars_AP50']


def test_measure_adaptation_rejects_too_few_images(inferencer, root):
    with pytest.raises(InputError, match='only 4 training images have objects'):
        measure_adaptation(root, inferencer, 5, seed=0)


def row(name, count, seed, plain, adapted, kept):
    metrics = dict(exemplars_AP50=plain, adapted_AP50=adapted)
    return dict(
        set=name,
        num_images=count,
        seed=seed,
        metrics=metrics,
        test_images=9,
        adaptation=dict(kept=kept, cpu_seconds=30.4),
    )


def test_adaptation_table_averages_draws_and_sets():
    rows = [row('a', 3, 0, 0.2, 0.3, True), row('a', 3, 1, 0.4, 0.4, False), row('b', 3, 0, 0.5, 0.4, True)]
    lines = adaptation_table(rows).splitlines()[2:]
    assert lines == [
        '| a | 9 | 3 | 0.300 | 0.350 | +0.050 ± 0.071 | 1 of 2 | 30 |',
        '| b | 9 | 3 | 0.500 | 0.400 | -0.100 | 1 of 1 | 30 |',
        '| **mean of 2 sets** |  | 3 | 0.400 | 0.375 | -0.025 |  |  |',
    ]


def test_page_has_the_table_of_the_committed_rows(repo):
    text = adaptation_table(read_rows(repo / 'results/adapt.jsonl'))
    page = (repo / 'docs/research/annotating.md').read_text()
    assert f'<!-- adapt:begin -->\n\n{text}\n\n<!-- adapt:end -->' in page
