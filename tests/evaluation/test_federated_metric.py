"""AP on federated labels: an image is evaluated for the categories of its own source only."""

import json

import pytest
import torch
from lvis import LVIS, LVISEval, LVISResults

from dinor1.evaluation import LVISFixedMetric
from dinor1.utils.errors import InputError

BOX = [10.0, 10.0, 40.0, 40.0]
ELSEWHERE = [60.0, 60.0, 20.0, 20.0]


def federated_content() -> dict:
    """Two sources with an image of each category; the third source misses instances."""
    images = [dict(id=i, source='xyz'[i - 1], width=100, height=100, file_name=f'{i}.jpg') for i in (1, 2, 3)]
    annotations = [
        dict(id=1, image_id=1, category_id=1, bbox=BOX, area=1600),
        dict(id=2, image_id=2, category_id=2, bbox=BOX, area=0),
        dict(id=3, image_id=3, category_id=1, bbox=BOX),
    ]
    categories = [dict(id=1, name='a'), dict(id=2, name='b')]
    sources = [dict(name='x', exhaustive_category_ids=[1]), dict(name='y', exhaustive_category_ids=[1, 2])]
    sources.append(dict(name='z', exhaustive_category_ids=[1]))
    return dict(images=images, annotations=annotations, categories=categories, sources=sources)


# Image, category, box, score.
RIGHT = [(1, 1, BOX, 0.9), (2, 2, BOX, 0.8), (3, 1, BOX, 0.7)]


def evaluate(path, detections, **options) -> dict[str, float]:
    metric = LVISFixedMetric(str(path), not_exhaustive=['z'], **options)
    metric.dataset_meta = dict(classes=('a', 'b'))
    for image_id in (1, 2, 3):
        found = [d for d in detections if d[0] == image_id]
        boxes = torch.tensor([[x, y, x + w, y + h] for _, _, (x, y, w, h), _ in found]).reshape(-1, 4)
        instances = dict(
            bboxes=boxes,
            labels=torch.tensor([category - 1 for _, category, _, _ in found], dtype=torch.long),
            scores=torch.tensor([score for *_, score in found]),
        )
        metric.process({}, [dict(img_id=image_id, pred_instances=instances)])
    return metric.evaluate(3)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / 'federated.json'
    file.write_text(json.dumps(federated_content()))
    return file


@pytest.mark.parametrize(
    ('extra', 'average_precision'),
    [
        ([], 1.0),
        # The source of image 1 says nothing of b.
        ([(1, 2, ELSEWHERE, 0.99)], 1.0),
        # In image 3, instances of a may lack a box.
        ([(3, 1, ELSEWHERE, 0.99)], 1.0),
        # Image 2 certainly has no a: one of the detections of a is wrong, and the first.
        ([(2, 1, ELSEWHERE, 0.99)], (1 + 2 / 3) / 2),
    ],
)
def test_federated_ap_counts_errors_where_labels_are_exhaustive(path, extra, average_precision):
    metrics = evaluate(path, RIGHT + extra)
    # Precision at 101 recalls; with a wrong detection first, 1/2 and 2/3 are raised to 2/3.
    assert metrics['lvis/AP'] == pytest.approx(average_precision, abs=1e-6)


def test_federated_ap_is_that_of_lvis_on_lists_written_by_hand(path, tmp_path):
    content = federated_content()
    del content['sources']
    lists = {1: ([], []), 2: ([1], []), 3: ([], [1])}
    for image in content['images']:
        image['neg_category_ids'], image['not_exhaustive_category_ids'] = lists[image['id']]
    for annotation in content['annotations']:
        annotation.update(area=1600, segmentation=[])
    for category in content['categories']:
        category.update(frequency='f', image_count=1)
    by_hand = tmp_path / 'by_hand.json'
    by_hand.write_text(json.dumps(content))
    detections = [*RIGHT, (2, 1, ELSEWHERE, 0.75), (3, 1, ELSEWHERE, 0.99), (1, 2, BOX, 0.99)]
    truth = LVIS(str(by_hand))
    results = [dict(image_id=i, category_id=c, bbox=box, score=score) for i, c, box, score in detections]
    reference = LVISEval(truth, LVISResults(truth, results), 'bbox')
    reference.run()
    metrics = evaluate(path, detections)
    for key in ('AP', 'AP50', 'APf'):
        assert metrics[f'lvis/{key}'] == pytest.approx(reference.get_results()[key], abs=1e-6)


def test_federated_metric_rejects_an_unknown_source(path):
    with pytest.raises(InputError, match="not_exhaustive names the source 'q'"):
        LVISFixedMetric(str(path), not_exhaustive=['q'])
