"""AbsenceMetric: AUROC compared with all pairs, and the other numbers computed by hand."""

import json

import numpy as np
import pytest
import torch

from dinor1.evaluation import AbsenceMetric, EvaluationPrompts
from dinor1.evaluation.absence_metric import absence_scores, auroc, collect_answers
from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import IDS, as_detections, as_samples, results, scene

A, B, C = ((x, 0, 20, 20) for x in (0, 100, 200))


@pytest.mark.parametrize('seed', range(5))
def test_auroc_is_share_of_ordered_pairs(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, 30) / 5, rng.random(30) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))
    assert auroc(scores, np.ones(30, dtype=bool)) == auroc(scores, np.zeros(30, dtype=bool)) == -1


# Image 1 shows two nuts and a bolt, image 2 a crowd of nuts.
SCENE = scene((1, 3, A, 0), (1, 3, B, 0), (1, 8, C, 0), (2, 3, B, 1))
FOUND = results(
    (1, 3, A, 0.9),
    (1, 3, (0, 2, 20, 20), 0.8),
    (1, 3, B, 0.2),
    (1, 8, C, 0.95),
    (2, 8, C, 0.4),
    (2, 8, B, 0.3),
    (2, 3, B, 0.7),
)


def test_absence_scores_equal_hand_computation():
    answers = collect_answers(SCENE, as_detections(FOUND, [3, 8]), {1: 0, 2: 1}, IDS, 0.3)
    assert (answers.shown.tolist(), answers.best.tolist()) == ([True, False], [0.9, 0.4])
    assert (answers.hits.tolist(), answers.errors.tolist(), answers.objects.tolist()) == ([1, 0], [1, 2], [2, 0])
    expected = dict(AUROC=1, false_positives_per_image=2, F1=2 / (1 + 3 + 2), precision=1 / 4, recall=1 / 2)
    assert absence_scores(answers) == pytest.approx(expected)
    # An image with only a crowd of nuts counts neither as with nor as without nuts.
    assert collect_answers(SCENE, as_detections(FOUND, [3, 8]), {2: 0}, IDS, 0.3).shown.tolist() == []
    # An image without detections has a score of 0.
    silent = collect_answers(SCENE, as_detections([], [3, 8]), {1: 0, 2: 1}, IDS, 0.3)
    assert absence_scores(silent) == dict(AUROC=0.5, false_positives_per_image=0, F1=0, precision=-1, recall=0)


def test_absence_metric_reports_scores_and_intervals(tmp_path):
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(SCENE))
    metric = AbsenceMetric(str(path), num_samples=30)
    shared = PromptSet.from_classes(torch.eye(2), ('nut', 'bolt'))
    metric.use_prompts(EvaluationPrompts(dict(protocol='single-class'), ('nut', 'bolt'), shared, asked={1: 0, 2: 1}))
    metric.process(None, as_samples(SCENE, FOUND))
    scores = {name.removeprefix('absence/'): value for name, value in metric.evaluate(2).items()}
    assert (scores['AUROC'], scores['images_with'], scores['images_without']) == (1, 1, 1)
    # A sample has both images or one of them twice: the F1 of image 1 alone is 2 / 4, that of image 2 is 0.
    assert (scores['F1_low'], scores['F1_high']) == (0, 0.5)
    with pytest.raises(InputError, match='the protocol is text; set test_cfg.prompts to dict'):
        metric.use_prompts(EvaluationPrompts(dict(protocol='text'), ('nut', 'bolt'), shared))
    with pytest.raises(InputError, match=r'expected score_thr in \[0, 1\]'):
        AbsenceMetric(str(path), score_thr=2)
