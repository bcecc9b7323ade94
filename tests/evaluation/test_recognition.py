"""Recognition on ground-truth boxes: accuracy compared with hand computation."""

import pytest
import torch

from dinor1.evaluation import EvaluationPrompts, Exemplar, RecognitionMetric
from dinor1.evaluation.recognition import similarity_scores


def sample(img_id: int, truth: list[tuple], predicted: list[tuple]) -> dict:
    """``truth`` is (x, label), ``predicted`` (x, label, score); boxes are 10 pixels wide."""

    def boxes(rows):
        return torch.tensor([[row[0], 0, row[0] + 10, 10] for row in rows], dtype=torch.float32).reshape(-1, 4)

    return dict(
        img_id=img_id,
        gt_instances=dict(bboxes=boxes(truth), labels=torch.tensor([r[1] for r in truth], dtype=torch.long)),
        pred_instances=dict(
            bboxes=boxes(predicted),
            labels=torch.tensor([r[1] for r in predicted], dtype=torch.long),
            scores=torch.tensor([r[2] for r in predicted], dtype=torch.float32),
        ),
    )


def every(truth, scores, labels) -> list[tuple]:
    """Every box with every label."""
    return [
        (x, label, s) for (x, _), row in zip(truth, scores, strict=True) for label, s in zip(labels, row, strict=True)
    ]


TRUTH = [(0, 0), (20, 1), (40, 4)]


@pytest.mark.parametrize(
    ('exemplars', 'expected'), [({}, (1 / 3, 3)), ({1: [Exemplar(1, 0, (0, 0, 10, 10), 0)]}, (0, 2))]
)
def test_recognition_metric_equals_hand_computation(exemplars, expected):
    """The first box is recognised, the second is not, and the class of the third is not offered."""
    metric = RecognitionMetric()
    metric.use_prompts(EvaluationPrompts({}, (), boxes=exemplars))
    predicted = every(TRUTH, [[0.9, 0.2, 0.1], [0.5, 0.4, 0.3], [0.1, 0.2, 0.9]], [0, 1, 2])
    # Images with one offered class, without offered classes or without boxes do not count.
    samples = [
        sample(1, TRUTH, predicted),
        sample(2, [(0, 0)], [(0, 0, 1.0)]),
        sample(3, [(0, 0)], []),
        sample(4, [], []),
    ]
    metric.process(None, samples)
    scores = metric.evaluate(4)
    assert (scores['recognition/accuracy'], scores['recognition/boxes']) == pytest.approx(expected)
    assert scores['recognition/chance'] == pytest.approx(1 / 3)


def test_recognition_metric_without_boxes_is_undefined():
    metric = RecognitionMetric()
    metric.process(None, [sample(4, [], [])])
    assert set(metric.evaluate(1).values()) == {-1, 0}


def test_similarity_scores_are_scaled_cosines():
    features = torch.tensor([[2.0, 0], [0, 3], [1, 1]])
    prompts = torch.tensor([[5.0, 0], [-1, 0]])
    expected = torch.tensor([[1, 0], [0.5, 0.5], [0.5 + 0.125**0.5, 0.5 - 0.125**0.5]])
    torch.testing.assert_close(similarity_scores(features, prompts), expected)
