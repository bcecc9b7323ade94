"""VisualInteractiveMetric: the numbers of its three cases, with intervals."""

import json
import math

import numpy as np
import pytest

from dinor1.evaluation import EvaluationPrompts, Exemplar, VisualInteractiveMetric
from dinor1.evaluation.visual_interactive_metric import images_per_class, visual_interactive_scores
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import as_detections, as_samples

SECTIONS = ('without_exemplar', 'plain', 'echo')


def scene(num_images: int = 6) -> dict:
    """Every image shows two boxes of category 3 and one of category 8."""
    annotations = []
    for image in range(1, num_images + 1):
        for category, x in ((3, 0), (3, 100), (8, 200)):
            annotations.append(dict(image_id=image, category_id=category, bbox=[x, 0, 20, 20], area=400, iscrowd=0))
    return dict(
        images=[dict(id=i, width=640, height=480) for i in range(1, num_images + 1)],
        annotations=[dict(a, id=i) for i, a in enumerate(annotations, 1)],
        categories=[dict(id=3, name='nut'), dict(id=8, name='bolt')],
    )


def exemplars(content: dict) -> dict[int, list[Exemplar]]:
    """The first box of each class."""
    return {
        image['id']: [Exemplar(image['id'], 0, (0, 0, 20, 20), 0), Exemplar(image['id'], 0, (200, 0, 220, 20), 1)]
        for image in content['images']
    }


def results(content: dict, *rows: tuple) -> list[dict]:
    """``(category, x, score)`` in every image."""
    return [
        dict(image_id=image['id'], category_id=category, bbox=[x, 0, 20, 20], score=score)
        for image in content['images']
        for category, x, score in rows
    ]


@pytest.fixture
def save(tmp_path):
    def save(content, name='annotations') -> str:
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(content))
        return str(path)

    return save


def prompts_of(content: dict) -> EvaluationPrompts:
    return EvaluationPrompts(dict(protocol='visual-interactive'), ('nut', 'bolt'), boxes=exemplars(content))


# A recall of 0.5 without errors reaches 51 of the 101 recalls.
HALF = 51 / 101


@pytest.mark.parametrize('backend', ['faster_coco_eval', 'pycocotools'])
def test_visual_interactive_metric_equals_hand_computation(save, backend):
    """The detector finds both nuts and no bolt; the echo finds one of two nuts and all bolts."""
    content = scene()
    found = results(content, (3, 0, 0.9), (3, 100, 0.8))
    metric = METRICS.build(
        dict(type='VisualInteractiveMetric', ann_file=save(content), backend=backend, num_samples=20)
    )
    metric.use_prompts(prompts_of(content))
    metric.process(None, as_samples(content, found))
    scores = {name.removeprefix('visual_i/'): value for name, value in metric.evaluate(6).items()}
    for key in ('AP', 'AP50'):
        expected = dict(without_exemplar=1.0, plain=0.5, echo=(HALF + 1) / 2)
        for case, value in expected.items():
            # All images are equal, and therefore all samples.
            values = [scores[f'{case}_{key}{end}'] for end in ('', '_low', '_high')]
            assert values == pytest.approx([value] * 3)
    assert [scores[f'{case}_classes'] for case in SECTIONS] == [1, 2, 2]
    assert [scores[f'{case}_images'] for case in SECTIONS] == [6, 6, 6]


def test_scores_are_averaged_over_draws():
    content, ids = scene(), np.array([3, 8])
    good, bad = results(content, (3, 100, 0.9)), results(content, (3, 50, 0.9))
    draws = [(as_detections(found, [3, 8]), exemplars(content)) for found in (good, bad)]
    scores = visual_interactive_scores(content, draws, ids, num_samples=10)
    keys = ('', '_low', '_high')
    assert [scores[f'without_exemplar_AP{key}'] for key in keys] == pytest.approx([0.5] * 3)


def test_class_on_few_images_is_left_out(save):
    content = scene(4)
    metric = VisualInteractiveMetric(save(content), num_samples=5)
    metric.use_prompts(prompts_of(content))
    metric.process(None, as_samples(content, results(content, (3, 100, 0.9))))
    scores = metric.evaluate(4)
    assert all(value == (0 if name.endswith(('classes', 'images')) else -1) for name, value in scores.items())
    content['annotations'][0]['iscrowd'] = 1
    assert images_per_class(content, np.array([3, 8])).tolist() == [4, 4]
    content['annotations'][1]['iscrowd'] = 1
    assert images_per_class(content, np.array([8, 3])).tolist() == [4, 3]


def test_metric_merges_validation_and_test_files(save):
    content = scene(3)
    files = [save(content, 'val'), save(content, 'test')]
    metric = VisualInteractiveMetric(files, num_samples=0)
    merged = scene(6)
    metric.use_prompts(prompts_of(merged))
    metric.process(None, as_samples(merged, results(merged, (3, 100, 0.9))))
    scores = metric.evaluate(6)
    assert scores['visual_i/without_exemplar_AP'] == pytest.approx(1)
    assert not any(name.endswith(('low', 'high')) for name in scores)
    assert all(math.isfinite(value) for value in scores.values())


def test_other_protocols_and_bad_arguments_are_rejected(save):
    metric = VisualInteractiveMetric(save(scene()))
    with pytest.raises(InputError, match='the protocol is text; set test_cfg.prompts'):
        metric.use_prompts(EvaluationPrompts(dict(protocol='text'), ('nut',)))
    for wrong in (dict(min_images=0), dict(num_samples=-1)):
        with pytest.raises(InputError, match='expected min_images >= 1 and num_samples >= 0'):
            VisualInteractiveMetric(save(scene()), **wrong)
