"""The simulated annotator: actions, costs and ways, compared with values computed by hand, and the tables."""

import json

import numpy as np
import pytest

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.studies.annotator import Costs, Objects, Work, correct_image, label_quality, simulate
from dinor1.studies.annotator_study import annotator_table, measure_annotator
from dinor1.studies.results import read_rows
from tests.studies.small_set import write_small_set

NAMES = ('cat', 'dog')
A, B, C = [0, 0, 10, 10], [20, 0, 40, 20], [50, 50, 60, 70]


def test_costs_of_no_work_are_zero():
    assert Work().hours(Costs()) == 0


def test_work_adds_up_to_hours():
    work = Work(drawn=3, clicks=10, checks=2) + Work(1, 0, 1)
    assert work == Work(4, 10, 3)
    assert work.hours(Costs(draw=34.5, click=2, check=6)) == pytest.approx((4 * 34.5 + 20 + 18) / 3600)


def test_correct_image_without_detections_draws_everything():
    truth = Objects.of([A, B], [0, 1])
    corrected = correct_image(Objects.of([], []), truth)
    assert corrected.work == Work(2, 0, 1)
    assert corrected.labels.boxes.tolist() == [A, B]
    assert correct_image(Objects.of([], []), Objects.of([], [])).work == Work(0, 0, 1)


def test_correct_image_keeps_relabels_removes_and_draws():
    truth = Objects.of([A, B, C], [0, 1, 1])
    found = Objects.of(
        [
            [0, 0, 10, 9],  # the cat, IoU 0.9: right
            [0, 0, 10, 8],  # the cat again: removed
            [20, 0, 40, 20],  # the dog as a cat: relabelled
            [50, 50, 60, 62],  # the other dog, IoU 0.6: removed and drawn
        ],
        [0, 0, 0, 1],
        [0.9, 0.8, 0.7, 0.6],
    )
    corrected = correct_image(found, truth)
    assert corrected.right.tolist() == [True, False, False, False]
    assert corrected.work == Work(drawn=1, clicks=3, checks=1)
    assert corrected.rejecting == Work(drawn=0, clicks=3, checks=1)
    assert corrected.labels.boxes.tolist() == [[0, 0, 10, 9], B, C]
    assert corrected.labels.labels.tolist() == [0, 1, 1]
    assert corrected.confirmed.boxes.tolist() == [[0, 0, 10, 9]]


def content_of(truth):
    """The content of a COCO file with these objects, on images 1, 2, ..."""
    annotations = []
    for image, objects in enumerate(truth, 1):
        for (x1, y1, x2, y2), label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(dict(image_id=image, category_id=label + 1, bbox=box, iscrowd=0))
    return dict(images=[dict(id=i + 1) for i in range(len(truth))], annotations=annotations)


def quality(labels, truth):
    return label_quality(labels, content_of(truth), range(1, len(truth) + 1), np.array([1, 2]))


def test_label_quality_by_hand():
    truth = [Objects.of([A, B], [0, 1]), Objects.of([C], [1])]
    assert quality(truth, truth) == dict(AP50=1, AP=1)
    # A cat of IoU 0.8 counts at 0.5 to 0.8, seven of ten thresholds; half of the dogs are found: 51 of 101 recalls.
    labels = [Objects.of([[0, 0, 10, 8], B], [0, 1]), Objects.of([], [])]
    found = quality(labels, truth)
    assert found['AP50'] == pytest.approx((1 + 51 / 101) / 2)
    assert found['AP'] == pytest.approx((0.7 + 51 / 101) / 2)


TRUTH = [Objects.of([A, B], [0, 1])] * 10


def test_simulate_with_a_perfect_detector_draws_one_image():
    asked = []

    def detect(by_hand, others):
        asked.append((by_hand, sorted([*by_hand, *others])))
        return [TRUTH[i] for i in others]

    result = simulate(TRUTH, NAMES, detect, num_drawn=1, seed=0, num_checked=3)
    assert [images for _, images in asked] == [list(range(10))]
    assert result.work['draw all'] == Work(20, 0, 10)
    # Two boxes are drawn, six detections are confirmed, and all images are inspected.
    assert result.work['correct'] == result.work['reject'] == Work(2, 6, 10)
    assert result.work['unchecked'] == Work(2, 6, 4)
    for labels in result.labels.values():
        assert quality(labels, TRUTH) == dict(AP50=1, AP=1)


def test_simulate_without_detections_saves_nothing():
    result = simulate(TRUTH, NAMES, lambda _, others: [Objects.of([], [])] * len(others), 2, seed=1)
    assert result.work['correct'] == result.work['draw all'] == Work(20, 0, 10)
    assert quality(result.labels['correct'], TRUTH) == dict(AP50=1, AP=1)
    # Two of ten images have labels: 21 of 101 recalls.
    assert quality(result.labels['reject'], TRUTH)['AP50'] == pytest.approx(21 / 101)
    assert quality(result.labels['unchecked'], TRUTH)['AP50'] == pytest.approx(21 / 101)


def test_simulate_chooses_thresholds_from_the_checked_images():
    # Every image has a false cat of score 0.4; true detections have 0.6. The threshold is in the middle.
    found = Objects.of([A, B, C], [0, 1, 0], [0.6, 0.6, 0.4])
    result = simulate(TRUTH, NAMES, lambda _, others: [found] * len(others), 1, seed=0, num_checked=5)
    assert result.thresholds['cat'] == pytest.approx(0.5)
    # The false cat only costs a click on the five checked images.
    assert result.work['correct'] == Work(2, 15, 10)
    assert quality(result.labels['unchecked'], TRUTH)['AP50'] == 1


def test_simulate_passes_over_images_without_objects():
    truth = [Objects.of([], [])] * 4 + [Objects.of([A], [0])]
    by_hand = []

    def detect(chosen, others):
        by_hand.extend(chosen)
        return [Objects.of([], [])] * len(others)

    result = simulate(truth, NAMES, detect, num_drawn=3, seed=0)
    assert by_hand == [4]
    assert result.work['correct'] == Work(1, 0, 5)


@pytest.fixture(scope='module')
def inferencer(model_files):
    return DINOR1Inferencer(model_files.config, model_files.checkpoint, device='cpu')


def test_measure_annotator_gives_rows_for_the_table(inferencer, tmp_path):
    root = write_small_set(tmp_path / 'small', train=8, test=0)
    rows = []
    for seed in range(2):
        result = measure_annotator(root, inferencer, num_drawn=1, seed=seed)
        assert (result['images'], result['boxes']) == (8, 16)
        assert result['work']['draw all'] == dict(drawn=16, clicks=0, checks=8)
        assert result['work']['correct']['checks'] == 8
        assert result['metrics']['correct_AP50'] == pytest.approx(1)
        assert 0 <= result['metrics']['reject_AP50'] <= 1
        rows.append(json.loads(json.dumps(dict(set='small', num_drawn=1, seed=seed) | result)))
    assert measure_annotator(root, inferencer, 1, 0, count=3)['images'] == 3
    # Expected: 16 boxes of 7 s and 8 images of 7.8 s. The boxes that are not drawn are saved, and the clicks are added.
    text = annotator_table(rows)
    assert f'| small | 8 | 16 | 1 | 2 | {(16 * 7 + 8 * 7.8) / 3600:.2f} |' in text
    saved = [16 * 7 - row['work']['correct']['drawn'] * 7 - row['work']['correct']['clicks'] * 1.6 for row in rows]
    assert f'| small | 1 | {sum(saved) / 2 / 3600:+.2f} (' in text


def test_page_has_the_table_of_the_committed_rows(repo):
    text = annotator_table(read_rows(repo / 'results/simulated_annotator.jsonl'))
    page = (repo / 'docs/research/annotating.md').read_text()
    assert f'<!-- annotator:begin -->\n\n{text}\n\n<!-- annotator:end -->' in page
