"""Class-agnostic recall and causes of errors: computed by hand, and compared with pycocotools."""

import json

import numpy as np
import pytest

from dinor1.evaluation import EvaluationPrompts, Exemplar
from dinor1.evaluation.class_agnostic import class_agnostic_recall
from dinor1.evaluation.error_split import DETECTION_CAUSES, OBJECT_CAUSES, error_split
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import IDS, as_detections, as_samples, coco, results, scene
from tests.evaluation.test_coco_metric import pycocotools

A, B, C, D, E = ((x, 0, 20, 20) for x in (0, 100, 200, 300, 400))
SCENE = scene((1, 3, A, 0), (1, 3, B, 0), (1, 8, C, 0), (1, 8, D, 0), (2, 3, E, 1))
FOUND = results(
    (1, 3, A, 0.9),  # right
    (1, 3, (2, 0, 20, 20), 0.8),  # duplicate
    (1, 3, (112, 0, 20, 20), 0.7),  # localisation, IoU 0.25
    (1, 3, C, 0.6),  # confusion
    (1, 3, (0, 300, 20, 20), 0.5),  # background
    (1, 3, (18, 0, 20, 20), 0.4),  # background, IoU 0.05
    (2, 3, (405, 5, 5, 5), 0.4),  # on a crowd
    (1, 8, D, 0.2),  # below the threshold
)


def test_error_split_equals_hand_computation():
    split = error_split(SCENE, as_detections(FOUND, IDS.tolist()), IDS)
    assert [split[f'detection_{name}'] * 6 for name in DETECTION_CAUSES] == pytest.approx([1, 1, 1, 1, 2])
    assert [split[f'object_{name}'] * 4 for name in OBJECT_CAUSES] == pytest.approx([1, 1, 1, 1])
    assert (split['detections'], split['objects']) == (6, 4)
    lower = error_split(SCENE, as_detections(FOUND, IDS.tolist()), IDS, score_thr=0.2)
    assert [lower[f'object_{name}'] * 4 for name in OBJECT_CAUSES] == pytest.approx([2, 1, 1, 0])


def test_error_split_of_no_objects_and_no_detections():
    empty = error_split(scene(), as_detections([], [3, 8]), IDS)
    assert {empty[key] for key in empty if '_' in key} == {-1}
    missed = error_split(SCENE, as_detections([], [3, 8]), IDS)
    assert (missed['object_missed'], missed['detection_right']) == (1, -1)
    assert class_agnostic_recall(scene(), as_detections(FOUND, [3, 8])) == -1
    assert class_agnostic_recall(SCENE, as_detections([], [3, 8])) == 0


@pytest.mark.parametrize('seed', range(5))
def test_class_agnostic_recall_equals_pycocotools(seed):
    """Images have up to 160 boxes; every third box is also detected with another class, at a lower score."""
    content, found = coco(np.random.default_rng(seed), 6, 3, 8, 80 if seed else 160)
    for number, annotation in enumerate(content['annotations'], 1):
        annotation['id'] = number
    ids = [category['id'] for category in content['categories']]
    one = [dict(result, category_id=1) for result in found]
    alone = content | dict(categories=[dict(id=1, name='object')])
    alone['annotations'] = [dict(annotation, category_id=1) for annotation in content['annotations']]
    expected = pycocotools(alone, one).stats[8]
    repeated = found + [dict(r, category_id=ids[0], score=r['score'] - 0.5) for r in found[::3]]
    recall = class_agnostic_recall(content, as_detections(repeated, ids))
    assert recall == pytest.approx(expected, abs=1e-12)
    assert 0.2 < recall < 1


def test_error_metric_leaves_out_exemplars(tmp_path):
    """The objects to find are the nut B and the bolt D. A bolt detected on the exemplar of the nuts is a confusion."""
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(SCENE))
    metric = METRICS.build(dict(type='ErrorMetric', ann_file=str(path)))
    drawn = [Exemplar(1, 0, (0, 0, 20, 20), 0), Exemplar(1, 0, (200, 0, 220, 20), 1)]
    metric.use_prompts(EvaluationPrompts(dict(protocol='visual-interactive'), ('nut', 'bolt'), boxes={1: drawn, 2: []}))
    found = results((1, 3, A, 0.9), (1, 3, B, 0.8), (1, 8, A, 0.7), (1, 8, C, 0.6))
    metric.process(None, as_samples(SCENE, found))
    scores = {name.removeprefix('errors/'): value for name, value in metric.evaluate(2).items()}
    assert scores['AR_100'] == pytest.approx(0.5)
    assert (scores['detection_right'], scores['detection_confusion'], scores['detections']) == (0.5, 0.5, 2)
    assert (scores['object_found'], scores['object_missed'], scores['objects']) == (0.5, 0.5, 2)
    with pytest.raises(InputError, match='score_thr must be in'):
        METRICS.build(dict(type='ErrorMetric', ann_file=str(path), score_thr=1.5))
