"""Visual-interactive AP without the exemplar: cases by hand, and a slow reference that ignores instead of removing."""

import copy

import numpy as np
import pytest

from dinor1.evaluation import Exemplar
from dinor1.evaluation.coco_metric import coco_curves, summarize
from dinor1.evaluation.echo import echo_detections
from dinor1.evaluation.without_exemplar import without_exemplars
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import as_detections, coco

IDS = [1, 2]


def annotated(*boxes: tuple) -> dict:
    """``annotated((image, category, bbox), ...)``; a fourth entry marks a crowd."""
    annotations = [
        dict(
            id=i,
            image_id=box[0],
            category_id=box[1],
            bbox=list(box[2]),
            area=box[2][2] * box[2][3],
            iscrowd=len(box) - 3,
        )
        for i, box in enumerate(boxes, 1)
    ]
    images = [dict(id=i, width=300, height=300) for i in sorted({box[0] for box in boxes})]
    return dict(images=images, annotations=annotations, categories=[dict(id=i, name=f'class {i}') for i in IDS])


def found(*detections: tuple):
    """``found((image, category, bbox, score), ...)``."""
    keys = ('image_id', 'category_id', 'bbox', 'score')
    return as_detections([dict(zip(keys, d, strict=True)) for d in detections], IDS)


def shown(*exemplars: tuple) -> dict[int, list[Exemplar]]:
    """``shown((image, category, bbox), ...)``."""
    drawn: dict[int, list[Exemplar]] = {}
    for image, category, (x, y, w, h) in exemplars:
        drawn.setdefault(image, []).append(Exemplar(image, 0, (x, y, x + w, y + h), IDS.index(category)))
    return drawn


def ap50(content, detections, exemplars) -> float:
    own, kept = without_exemplars(content, detections, exemplars, np.array(IDS))
    precision, _ = coco_curves(copy.deepcopy(own), list(kept.records(np.array(IDS))), IDS)
    return summarize(precision)['mAP_50']


A, B, C = (0, 0, 20, 20), (100, 0, 20, 20), (200, 0, 20, 20)


def test_exemplar_is_neither_found_nor_missed():
    content, exemplar = annotated((1, 1, A), (1, 1, B)), shown((1, 1, A))
    assert ap50(content, found((1, 1, B, 0.5)), exemplar) == pytest.approx(1)
    assert ap50(content, found((1, 1, A, 0.9), (1, 1, B, 0.5)), exemplar) == pytest.approx(1)
    # Two detections on the exemplar are no errors; one beside it (IoU 1/3) is an error before the hit.
    near, beside = (4, 0, 20, 20), (10, 0, 20, 20)
    assert ap50(content, found((1, 1, A, 0.9), (1, 1, near, 0.8), (1, 1, B, 0.5)), exemplar) == pytest.approx(1)
    assert ap50(content, found((1, 1, beside, 0.9), (1, 1, B, 0.5)), exemplar) == pytest.approx(0.5)


def test_small_detection_inside_large_exemplar_is_an_error():
    """It lies inside the exemplar with an IoU of 0.04; if the exemplar were a crowd, it would be ignored."""
    large, small = (0, 0, 100, 100), (40, 40, 20, 20)
    content, exemplar = annotated((1, 1, large), (1, 1, C)), shown((1, 1, large))
    assert ap50(content, found((1, 1, small, 0.9), (1, 1, C, 0.5)), exemplar) == pytest.approx(0.5)


def test_class_with_one_instance_is_not_evaluated():
    content = annotated((1, 1, A), (1, 2, B), (1, 2, C), (2, 1, A), (2, 1, B), (2, 1, C, 'crowd'))
    exemplar = shown((1, 1, A), (1, 2, B), (2, 1, A))
    own, kept = without_exemplars(
        content, found((1, 1, B, 0.9), (1, 2, C, 0.8), (2, 1, B, 0.7), (2, 2, B, 0.6)), exemplar, np.array(IDS)
    )
    remaining = [(a['image_id'], a['category_id'], tuple(a['bbox'])) for a in own['annotations']]
    # The crowd is kept. A class that was not offered, 2 in image 2, does not count.
    assert remaining == [(1, 2, C), (2, 1, B), (2, 1, C)]
    assert kept.score.tolist() == [0.8, 0.7]
    # A crowd does not count as a second instance.
    crowded = annotated((1, 1, A), (1, 1, B, 'crowd'))
    assert without_exemplars(crowded, found(), shown((1, 1, A)), np.array(IDS))[0]['annotations'] == []


def test_instance_that_overlaps_the_exemplar_is_left_out():
    """It is left out like the exemplar; a detector that returns all boxes has no error."""
    twin = (2, 0, 20, 20)
    content, exemplar = annotated((1, 1, A), (1, 1, twin), (1, 1, B)), shown((1, 1, A))
    assert ap50(content, found((1, 1, A, 0.9), (1, 1, twin, 0.9), (1, 1, B, 0.9)), exemplar) == pytest.approx(1)
    assert ap50(content, found((1, 1, B, 0.9)), exemplar) == pytest.approx(1)
    only_twins = annotated((1, 1, A), (1, 1, A))
    assert without_exemplars(only_twins, found(), exemplar, np.array(IDS))[0]['annotations'] == []


def test_other_annotation_file_is_rejected():
    with pytest.raises(InputError, match='image 1: the exemplar .* is not a box of its class'):
        without_exemplars(annotated((1, 1, A)), found(), shown((1, 1, B)), np.array(IDS))


# The reference -------------------------------------------------------------------------------------------


def overlap(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def reference_ap(content, results, exemplars, category, threshold) -> float | None:
    """AP of a class, computed box by box; None without a box that counts."""
    # Match the detections of each image.
    judged, total = [], 0
    for image, drawn in exemplars.items():
        x1, y1, x2, y2 = next((e.bbox for e in drawn if e.label == category), (0, 0, 0, 0))
        exemplar = [x1, y1, x2 - x1, y2 - y1]
        if x2 == 0:
            continue
        truth = [a['bbox'] for a in content['annotations'] if (a['image_id'], a['category_id']) == (image, category)]
        counting = [box for box in truth if overlap(box, exemplar) <= 0.5]
        total += len(counting)
        free = list(counting)
        own = [r for r in results if (r['image_id'], r['category_id']) == (image, category)]
        for result in sorted(own, key=lambda r: -r['score']):
            ignored = overlap(result['bbox'], exemplar) > 0.5 or not counting
            best = max(free, key=lambda box: overlap(result['bbox'], box), default=None)
            hit = not ignored and best is not None and overlap(result['bbox'], best) >= threshold
            if hit:
                free.remove(best)
            if not ignored:
                judged.append((result['score'], hit))
    if not total:
        return None
    # Compute the precision-recall curve.
    points, hits = [], 0
    for rank, (_, hit) in enumerate(sorted(judged, key=lambda pair: -pair[0]), 1):
        hits += hit
        points.append((hits / total, hits / rank))
    # Use the recalls of COCO, whose rounding matters if a recall equals one of them.
    recalls = np.linspace(0, 1, 101)
    return float(np.mean([max((p for recall, p in points if recall >= r), default=0.0) for r in recalls]))


@pytest.mark.parametrize('seed', range(12))
def test_without_exemplars_agrees_with_reference(seed):
    rng = np.random.default_rng(seed)
    content, results = coco(rng, 8, 3, 8, 25)
    for number, annotation in enumerate(content['annotations'], 1):
        annotation.update(id=number, iscrowd=0)
    # Draw exemplars, and add up to two detections near each of them.
    ids = sorted(category['id'] for category in content['categories'])
    exemplars: dict[int, list[Exemplar]] = {image['id']: [] for image in content['images']}
    for a in content['annotations']:
        x, y, w, h = a['bbox']
        label = ids.index(a['category_id'])
        if rng.random() < 0.5 and all(e.label != label for e in exemplars[a['image_id']]):
            exemplars[a['image_id']].append(Exemplar(a['image_id'], 0, (x, y, x + w, y + h), label))
            echo = dict(image_id=a['image_id'], category_id=a['category_id'], bbox=[x + 0.05 * w, y, w, h])
            results += [echo] * int(rng.integers(3))
    # Make scores distinct.
    scores = rng.permutation(len(results)).tolist()
    results = [dict(result, score=float(score)) for result, score in zip(results, scores, strict=True)]
    # Compare with the reference.
    own, kept = without_exemplars(content, as_detections(results, ids), exemplars, np.array(ids))
    precision, _ = coco_curves(copy.deepcopy(own), list(kept.records(np.array(ids))), ids)
    by_label = {image: [e._replace(label=ids[e.label]) for e in drawn] for image, drawn in exemplars.items()}
    for k, category in enumerate(ids):
        for t, threshold in ((0, 0.5), (5, 0.75)):
            expected = reference_ap(content, results, by_label, category, threshold)
            assert precision[t, :, k, 0, -1].mean() == pytest.approx(-1 if expected is None else expected, abs=1e-9)
    # The echo has no detection left, and the ground truth has an AP of 1.
    own, kept = without_exemplars(content, echo_detections(exemplars), exemplars, np.array(ids))
    assert not len(kept)
    perfect = as_detections([dict(a, score=0.5) for a in content['annotations']], ids)
    own, kept = without_exemplars(content, perfect, exemplars, np.array(ids))
    precision, _ = coco_curves(copy.deepcopy(own), list(kept.records(np.array(ids))), ids)
    assert summarize(precision)['mAP'] == pytest.approx(1.0)
