"""LVIS: evaluation compared with the ``lvis`` package, fixed AP with a simple reference, and the metric."""

import copy
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from dinor1.evaluation.detections import Detections
from dinor1.evaluation.lvis_eval import evaluate_lvis
from dinor1.evaluation.lvis_ground_truth import LVISGroundTruth
from dinor1.evaluation.lvis_metric import REPORTED, LVISFixedMetric
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import CROWDED, SPARSE, as_results, as_samples, detect, federated, perfect

# Tolerance: both do the same operations in float64; only the order of the last average differs.
EXACT = dict(rel=0, abs=1e-12)

pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture
def save(tmp_path):
    """``save(content)`` writes a JSON file."""

    def save(content, name='annotations.json') -> str:
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    return save


@pytest.fixture
def lvis_package(save, caplog):
    """``lvis_package(content, results, max_dets)`` evaluates with the ``lvis`` package."""
    import lvis

    caplog.set_level(logging.ERROR)

    def run(content, results, max_dets=300):
        truth = lvis.LVIS(save(content, 'reference.json'))
        found = lvis.LVISResults(truth, copy.deepcopy(results), max_dets=max_dets)
        evaluation = lvis.LVISEval(truth, found, 'bbox')
        evaluation.run()
        return evaluation

    return run


def summary_of(evaluation) -> dict[str, float]:
    """The numbers of the package, without ``@300`` in the names of recalls."""
    return {name.split('@')[0]: float(value) for name, value in evaluation.results.items()}


def columns(truth: LVISGroundTruth, results: list[dict], max_per_image: int | None = None) -> Detections:
    """Results in COCO format as columns, in float64."""
    image = np.searchsorted(truth.image_ids, [r['image_id'] for r in results])
    label = np.searchsorted(truth.category_ids, [r['category_id'] for r in results])
    score = np.array([r['score'] for r in results])
    rank = np.empty(len(results), dtype=np.int64)
    for i in np.unique(image):
        own = np.flatnonzero(image == i)
        rank[own[np.argsort(-score[own], kind='stable')]] = np.arange(len(own))
    found = Detections(image, label, score, np.array([r['bbox'] for r in results]).reshape(-1, 4), rank)
    return found if max_per_image is None else found.select(rank < max_per_image)


def assert_same(scores, evaluation) -> None:
    assert scores.summary() == pytest.approx(summary_of(evaluation), **EXACT)
    np.testing.assert_allclose(scores.precision, evaluation.eval['precision'], rtol=0, atol=1e-12)
    np.testing.assert_allclose(scores.recall, evaluation.eval['recall'], rtol=0, atol=1e-12)


def evaluate(metric: LVISFixedMetric, samples: list[dict], batch: int = 4) -> dict[str, float]:
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


# Against the lvis package ----------------------------------------------------------------------------------


@pytest.mark.parametrize('max_dets', [300, 20, -1])
@pytest.mark.parametrize('shape', [SPARSE, CROWDED], ids=['sparse', 'crowded'])
@pytest.mark.parametrize('seed', [0, 1])
def test_evaluate_lvis_equals_lvis_package(seed, shape, max_dets, lvis_package):
    content, results = federated(np.random.default_rng(seed), **shape)
    truth = LVISGroundTruth.from_content(content)
    limit = None if max_dets < 0 else max_dets
    scores = evaluate_lvis(truth, columns(truth, results, limit))
    assert 0.05 < scores.summary()['AP'] < 0.8
    assert_same(scores, lvis_package(content, results, max_dets))


@pytest.mark.shared
@pytest.mark.parametrize('name', ['lvis_val_100', 'lvis_val_mini'])
def test_evaluate_lvis_equals_lvis_package_on_official_annotations(name, shared_dir, lvis_package):
    content = json.loads((shared_dir / f'data/fixtures/lvis/{name}.json').read_text())
    lists = ('neg_category_ids', 'not_exhaustive_category_ids')
    mentioned = {annotation['category_id'] for annotation in content['annotations']}
    mentioned |= {id for image in content['images'] for key in lists for id in image[key]}
    if name == 'lvis_val_100':  # the package is slow with the 600 categories that no image mentions
        content['categories'] = [category for category in content['categories'] if category['id'] in mentioned]
    # Detect any category, but often those of the image's lists.
    results, rng = detect(content, np.random.default_rng(0), 60), np.random.default_rng(1)
    listed = {image['id']: [id for key in lists for id in image[key]] for image in content['images']}
    for result in results:
        if listed[result['image_id']] and rng.random() < 0.2:
            result['category_id'] = int(rng.choice(listed[result['image_id']]))
    truth = LVISGroundTruth.from_content(content)
    scores = evaluate_lvis(truth, columns(truth, results, 300))
    evaluation = lvis_package(content, results)
    assert_same(scores, evaluation)
    per_class = evaluation.eval['precision'][..., 0].mean((0, 1))
    np.testing.assert_allclose(scores.per_class(), np.where(per_class < 0, np.nan, per_class), rtol=0, atol=1e-12)


def test_each_federated_rule_changes_the_result(lvis_package):
    """Leaving out a list changes the result, equally for the package and for evaluate_lvis."""
    content, results = federated(np.random.default_rng(3), **SPARSE)
    numbers = []
    for key in (None, 'neg_category_ids', 'not_exhaustive_category_ids'):
        changed = copy.deepcopy(content)
        for image in changed['images']:
            if key:
                image[key] = []
        truth = LVISGroundTruth.from_content(changed)
        scores = evaluate_lvis(truth, columns(truth, results))
        assert_same(scores, lvis_package(changed, results, -1))
        numbers.append(scores.summary()['AP'])
    assert len(set(numbers)) == 3


def test_boxes_and_detections_without_area_are_left_out(lvis_package):
    content, results = federated(np.random.default_rng(4), **SPARSE)
    for annotation in content['annotations'][::3]:
        annotation['area'] = 0.0
    for result in results[::4]:
        result['bbox'][2] = 0.0
    truth = LVISGroundTruth.from_content(content)
    assert len(truth.label) < len(content['annotations'])
    assert_same(evaluate_lvis(truth, columns(truth, results)), lvis_package(content, results, -1))


def test_boxes_without_area_give_a_warning(logged_warnings):
    content, _ = federated(np.random.default_rng(4), **SPARSE)
    LVISGroundTruth.from_content(content)
    assert logged_warnings() == []
    for annotation in content['annotations'][:5]:
        annotation['area'] = 0.0
    truth = LVISGroundTruth.from_content(content, 'val.json')
    total = len(content['annotations'])
    assert len(truth.label) == total - 5
    (message,) = logged_warnings()
    assert message.startswith(f'val.json: 5 of {total} annotations have an area that is not positive')


def test_evaluate_lvis_of_no_detections_and_no_objects():
    content, _ = federated(np.random.default_rng(0), **SPARSE)
    truth = LVISGroundTruth.from_content(content)
    summary = evaluate_lvis(truth, columns(truth, [])).summary()
    assert set(summary.values()) == {0.0}
    truth = LVISGroundTruth.from_content(content | dict(annotations=[]))
    assert set(evaluate_lvis(truth, columns(truth, [])).summary().values()) == {-1.0}
    surplus = [dict(image_id=4, category_id=2, bbox=[0, 0, 5, 5], score=1.0)]
    assert set(evaluate_lvis(truth, columns(truth, surplus)).summary().values()) == {-1.0}


def test_evaluate_lvis_does_not_depend_on_pairs_at_once():
    content, results = federated(np.random.default_rng(5), **CROWDED)
    truth = LVISGroundTruth.from_content(content)
    whole = evaluate_lvis(truth, columns(truth, results))
    in_parts = evaluate_lvis(truth, columns(truth, results), pairs_at_once=7)
    np.testing.assert_array_equal(in_parts.precision, whole.precision)


# Fixed AP --------------------------------------------------------------------------------------------------


def plain_ap(content: dict, results: list[dict], budget: int) -> dict[str, float]:
    """AP, APr, APc and APf by the definition, one detection at a time."""
    images = {image['id']: image for image in content['images']}
    aps = {}
    for category in content['categories']:
        # Collect the boxes of the class.
        boxes = {id: [] for id in images}
        for annotation in content['annotations']:
            if annotation['category_id'] == category['id']:
                boxes[annotation['image_id']].append(annotation)
        total = sum(not box['ignore'] for own in boxes.values() for box in own)
        if not total:
            continue
        # Take the best detections of the class over all images.
        ranked = [result for result in results if result['category_id'] == category['id']]
        ranked = sorted(ranked, key=lambda r: (-r['score'], r['image_id']))[:budget]
        values = []
        for threshold in range(50, 100, 5):
            # Match them greedily.
            free, outcomes = {id: list(own) for id, own in boxes.items()}, []
            for result in ranked:
                image = images[result['image_id']]
                if not boxes[image['id']] and category['id'] not in image['neg_category_ids']:
                    continue
                near = [box for box in free[image['id']] if iou(result['bbox'], box['bbox']) >= threshold / 100]
                usable = [box for box in near if not box['ignore']] or near
                if usable:
                    best = max(usable, key=lambda box: iou(result['bbox'], box['bbox']))
                    free[image['id']].remove(best)
                    outcomes += [] if best['ignore'] else [True]
                elif category['id'] not in image['not_exhaustive_category_ids']:
                    outcomes.append(False)
            # Average interpolated precision over the recalls.
            curve = [(sum(outcomes[:n]) / total, sum(outcomes[:n]) / n) for n in range(1, len(outcomes) + 1)]
            values += [max((p for r, p in curve if r >= i / 100 - 1e-9), default=0.0) for i in range(101)]
        aps[category['id']] = sum(values) / len(values)
    # Average over all classes, and by frequency.
    groups = {
        name: [aps[c['id']] for c in content['categories'] if c['id'] in aps and c['frequency'] in letters]
        for name, letters in (('AP', 'rcf'), ('APr', 'r'), ('APc', 'c'), ('APf', 'f'))
    }
    return {name: sum(values) / len(values) for name, values in groups.items()}


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


@pytest.mark.parametrize('budget', [3, 15, 10_000])
def test_fixed_ap_follows_its_definition(budget, save):
    content, results = federated(np.random.default_rng(6), num_images=12, num_classes=9, boxes=6, detections=40)
    samples = as_samples(content, results)
    metrics = evaluate(LVISFixedMetric(save(content), budget=budget), samples)
    expected = plain_ap(content, as_results(content, samples), budget)
    # Both average ratios of integers over 101 recalls: only the order of summation differs.
    assert {name: metrics[f'lvis/fixed_{name}'] for name in expected} == pytest.approx(expected, rel=0, abs=1e-9)


def test_fixed_ap_budget_is_per_class(save):
    """Thirty detections in one image count, where standard AP allows five; a budget of five per class limits them."""
    content, _ = federated(np.random.default_rng(0), num_images=3, num_classes=2, boxes=4, detections=0)
    image = next(image for image in content['images'] if image['id'] != 4)
    for other in content['images']:
        other['not_exhaustive_category_ids'] = []
    content['annotations'] = [
        dict(id=n + 1, image_id=image['id'], category_id=2, bbox=[20.0 * n, 0, 10, 10], area=100.0) for n in range(30)
    ]
    samples = perfect(content)
    metrics = evaluate(LVISFixedMetric(save(content), max_per_image=5), samples)
    assert metrics['lvis/fixed_AP'] == 1.0
    # 5 of 30 boxes: precision 1 at the recalls 0, 0.01, ..., 0.16, which are 17 of 101.
    assert metrics['lvis/AP'] == pytest.approx(17 / 101)
    metrics = evaluate(LVISFixedMetric(save(content), budget=5), samples)
    assert metrics['lvis/AP'] == 1.0
    assert metrics['lvis/fixed_AP'] == pytest.approx(17 / 101)


# The metric ------------------------------------------------------------------------------------------------


def test_metric_reports_numbers_of_lvis_package(save, lvis_package):
    content, results = federated(np.random.default_rng(7), **CROWDED)
    samples = as_samples(content, results)
    metric = METRICS.build(dict(type='LVISFixedMetric', ann_file=save(content), budget=200))
    metrics = evaluate(metric, samples)
    assert set(metrics) == {f'lvis/{prefix}{name}' for prefix in ('', 'fixed_') for name in REPORTED}
    exact = as_results(content, samples)
    standard = summary_of(lvis_package(content, exact))
    by_class = [[r for r in exact if r['category_id'] == c['id']] for c in content['categories']]
    cut = [r for own in by_class for r in sorted(own, key=lambda r: (-r['score'], r['image_id']))[:200]]
    fixed = summary_of(lvis_package(content, cut, -1))
    for name in REPORTED:
        assert metrics[f'lvis/{name}'] == pytest.approx(standard[name], **EXACT)
        assert metrics[f'lvis/fixed_{name}'] == pytest.approx(fixed[name], **EXACT)
    assert metrics['lvis/AP'] != metrics['lvis/fixed_AP']


def test_ground_truth_detections_have_ap_one(save):
    content, _ = federated(np.random.default_rng(8), num_images=20, num_classes=12, boxes=8, detections=0)
    metrics = evaluate(LVISFixedMetric(save(content)), perfect(content))
    # The package adds 2e-16 to the denominator of precision.
    assert list(metrics.values()) == pytest.approx([1.0] * len(metrics), **EXACT)


@pytest.mark.parametrize('prune_every', [0, 50, 10**9])
def test_metric_does_not_depend_on_pruning(prune_every, save):
    content, results = federated(np.random.default_rng(9), num_images=30, num_classes=4, boxes=6, detections=50)
    samples, path = as_samples(content, results), save(content)
    expected = evaluate(LVISFixedMetric(path, max_per_image=10, budget=40), samples, batch=len(samples))
    metric = LVISFixedMetric(path, max_per_image=10, budget=40, prune_every=prune_every)
    most = 0
    for sample in samples:
        metric.process(None, [sample])
        most = max(most, metric.num_collected)
    assert most <= 4 * 40 + 30 * 10 + prune_every + 50
    assert metric.evaluate(len(samples)) == expected


def test_metric_does_not_depend_on_order_of_images(save):
    """Equal scores may compete for the last detections of a budget."""
    content, results = federated(np.random.default_rng(10), num_images=20, num_classes=2, boxes=6, detections=50)
    samples, path = as_samples(content, results), save(content)
    expected = evaluate(LVISFixedMetric(path, budget=33), samples)
    assert evaluate(LVISFixedMetric(path, budget=33), samples[::-1]) == expected


def test_metric_is_reusable(save):
    content, results = federated(np.random.default_rng(11), **SPARSE)
    samples = as_samples(content, results)
    metric = LVISFixedMetric(save(content))
    first = evaluate(metric, samples)
    assert evaluate(metric, samples) == first


def test_subset_of_images_is_scored_on_these_images(save, lvis_package):
    """The numbers are those of a file with only the evaluated images, and the result counts them."""
    content, results = federated(np.random.default_rng(12), **SPARSE)
    samples = as_samples(content, results)[:10]
    metrics = evaluate(LVISFixedMetric(save(content)), samples)
    ids = [sample['img_id'] for sample in samples]
    alone = content | dict(
        images=content['images'][:10], annotations=[a for a in content['annotations'] if a['image_id'] in ids]
    )
    expected = summary_of(lvis_package(alone, as_results(content, samples)))
    assert [metrics[f'lvis/{name}'] for name in REPORTED] == pytest.approx([expected[n] for n in REPORTED], **EXACT)
    assert (metrics['lvis/images_evaluated'], metrics['lvis/images_in_file']) == (10, 25)


def test_image_evaluated_twice_is_rejected(save):
    content, results = federated(np.random.default_rng(11), **SPARSE)
    samples = as_samples(content, results)
    with pytest.raises(InputError, match=f'evaluated more than once: image {samples[1]["img_id"]}; .* RepeatDataset'):
        evaluate(LVISFixedMetric(save(content)), [*samples, samples[1]])


def test_metric_accepts_chosen_classes_in_any_order(save, lvis_package):
    """The numbers are those of a file with only the three chosen classes."""
    content, results = federated(np.random.default_rng(13), num_images=20, num_classes=6, boxes=6, detections=30)
    names = ('class 4', 'class 0', 'class 3')
    ids = [5 * int(name[-1]) + 2 for name in names]
    # Evaluate a file with only these classes.
    alone = copy.deepcopy(content)
    alone['categories'] = [category for category in content['categories'] if category['id'] in ids]
    alone['annotations'] = [a for a in content['annotations'] if a['category_id'] in ids]
    results = [result for result in results if result['category_id'] in ids]
    samples = as_samples(content, results)
    expected = summary_of(lvis_package(alone, as_results(content, samples)))
    # Change labels to indices into the chosen classes, and evaluate the whole file.
    for sample in samples:
        labels = sample['pred_instances']['labels']
        sample['pred_instances']['labels'] = torch.tensor([ids.index(5 * label + 2) for label in labels.tolist()])
    metric = LVISFixedMetric(save(content))
    metric.dataset_meta = dict(classes=names)
    metrics = evaluate(metric, samples)
    assert [metrics[f'lvis/{name}'] for name in REPORTED] == pytest.approx([expected[n] for n in REPORTED], **EXACT)


def test_written_detections_give_equal_numbers(save, lvis_package, tmp_path, monkeypatch):
    monkeypatch.setattr('dinor1.evaluation.detections.RECORDS_AT_ONCE', 100)
    content, results = federated(np.random.default_rng(14), **CROWDED)
    prefix = tmp_path / 'out/run'
    metric = LVISFixedMetric(save(content), max_per_image=50, budget=120, outfile_prefix=str(prefix))
    metrics = evaluate(metric, as_samples(content, results))
    assert sorted(path.name for path in prefix.parent.iterdir()) == ['run.bbox.json', 'run.fixed.bbox.json']
    for infix, key in (('', ''), ('.fixed', 'fixed_')):
        written = json.loads((prefix.parent / f'run{infix}.bbox.json').read_text())
        again = summary_of(lvis_package(content, written, -1))
        assert [metrics[f'lvis/{key}{n}'] for n in REPORTED] == pytest.approx([again[n] for n in REPORTED], **EXACT)


def test_metric_accepts_half_precision(save):
    content, results = federated(np.random.default_rng(15), **SPARSE)
    samples = as_samples(content, results)
    for sample in samples:
        predicted = sample['pred_instances']
        predicted.update(bboxes=predicted['bboxes'].bfloat16(), scores=predicted['scores'].bfloat16())
    path = save(content)
    coarse = evaluate(LVISFixedMetric(path), samples)
    for sample in samples:
        predicted = sample['pred_instances']
        predicted.update(bboxes=predicted['bboxes'].float(), scores=predicted['scores'].float())
    assert evaluate(LVISFixedMetric(path), samples) == coarse


# Bad input -------------------------------------------------------------------------------------------------


def without(content: dict, section: str, key: str, place: int = 0) -> dict:
    content = copy.deepcopy(content)
    content[section][place].pop(key)
    return content


def with_value(content: dict, section: str, key: str, value) -> dict:
    content = copy.deepcopy(content)
    content[section][0][key] = value
    return content


BAD_FILES = {
    'not a file of annotations': (lambda c: [1], "it has no list 'images'"),
    'no images': (lambda c: c | dict(images=[]), "'images' is empty"),
    'no frequency': (lambda c: without(c, 'categories', 'frequency'), "'frequency' r, c or f"),
    'strange frequency': (lambda c: with_value(c, 'categories', 'frequency', 'common'), "'frequency' r, c or f"),
    'COCO': (lambda c: without(c, 'images', 'neg_category_ids', 2), "no list 'neg_category_ids'"),
    'no second list': (lambda c: without(c, 'images', 'not_exhaustive_category_ids'), 'not_exhaustive_category_ids'),
    'unknown image': (lambda c: with_value(c, 'annotations', 'image_id', 999), 'refers to image 999'),
    'unknown category': (lambda c: with_value(c, 'annotations', 'category_id', 1), 'refers to category 1'),
    'listed category': (lambda c: with_value(c, 'images', 'neg_category_ids', [2, 1]), "lists 1 in 'neg_category_ids'"),
    'listed name': (lambda c: with_value(c, 'images', 'neg_category_ids', ['cat']), "lists 'cat'"),
    'ids that are text': (lambda c: with_value(c, 'images', 'id', '4'), "no integer 'id'"),
    'repeated id': (lambda c: with_value(c, 'annotations', 'id', 2), "more than once in 'annotations'"),
    'box of three numbers': (lambda c: with_value(c, 'annotations', 'bbox', [1, 2, 3]), "'bbox' of four numbers"),
    'only such boxes': (
        lambda c: c | dict(annotations=[a | dict(bbox=[1, 2, 3]) for a in c['annotations'][:4]]),
        "'bbox' of four numbers",
    ),
    'box of a huge number': (
        lambda c: with_value(c, 'annotations', 'bbox', [1, 2, 10**400, 4]),
        "'bbox' of four numbers",
    ),
    'box of NaN': (lambda c: with_value(c, 'annotations', 'bbox', [1, 2, float('nan'), 4]), 'they are not finite'),
    'huge area': (lambda c: with_value(c, 'annotations', 'area', 10**400), 'they are not finite'),
    'huge image id': (lambda c: with_value(c, 'images', 'id', 10**20), "no integer 'id' of 64 bits"),
    'huge reference': (lambda c: with_value(c, 'annotations', 'image_id', 10**20), "no integer 'image_id' of 64 bits"),
    'no area': (lambda c: without(c, 'annotations', 'area'), "no 'area'"),
    'no name': (lambda c: without(c, 'categories', 'name'), "no 'name'"),
}


@pytest.mark.parametrize(('damage', 'message'), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_annotations_are_rejected(damage, message, save):
    content, _ = federated(np.random.default_rng(0), **SPARSE)
    path = save(damage(content))
    with pytest.raises(InputError) as error:
        LVISFixedMetric(path)
    assert message in str(error.value)
    assert str(error.value).startswith(path)
    assert '\n' not in str(error.value)


def test_missing_file_and_bad_limits_are_rejected(save):
    with pytest.raises(InputError, match='no such file'):
        LVISFixedMetric('nowhere.json')
    content, _ = federated(np.random.default_rng(0), **SPARSE)
    with pytest.raises(InputError, match='must be positive'):
        LVISFixedMetric(save(content), budget=0)


@pytest.fixture
def metric_and_sample(save):
    content, results = federated(np.random.default_rng(0), **SPARSE)
    return LVISFixedMetric(save(content)), as_samples(content, results)[0]


def test_unknown_image_is_rejected(metric_and_sample):
    metric, sample = metric_and_sample
    with pytest.raises(InputError, match=r'image 999 is not in .*annotations.json'):
        metric.process(None, [dict(sample, img_id=999)])


@pytest.mark.parametrize('label', [-1, 40])
def test_unknown_class_of_a_detection_is_rejected(label, metric_and_sample):
    metric, sample = metric_and_sample
    sample['pred_instances']['labels'][3] = label
    with pytest.raises(InputError, match=f'reports class {label}, but the data set has classes 0 to 39'):
        metric.process(None, [sample])


@pytest.mark.parametrize('key', ['bboxes', 'scores'])
def test_non_finite_detections_are_rejected(key, metric_and_sample):
    metric, sample = metric_and_sample
    sample['pred_instances'][key][2] = float('nan')
    with pytest.raises(InputError, match='not finite'):
        metric.process(None, [sample])


def test_classes_of_another_data_set_are_rejected(metric_and_sample):
    metric, sample = metric_and_sample
    metric.dataset_meta = dict(classes=('class 1', 'zebra', 'yak'))
    with pytest.raises(InputError, match="2 of the 3 classes of the data set are not categories there, .* 'zebra'"):
        metric.process(None, [sample])
    metric.dataset_meta = dict(classes=('class 1', 'class 1'))
    with pytest.raises(InputError, match='lists a class twice'):
        metric.process(None, [sample])


def test_ground_truth_select_of_all_classes_is_unchanged():
    content, _ = federated(np.random.default_rng(0), **SPARSE)
    truth = LVISGroundTruth.from_content(content)
    assert truth.select(truth.names) is truth
    assert truth.category_ids.tolist() == sorted(truth.category_ids.tolist())
    twice = truth.select(truth.names[::-1]).select(truth.names)
    for field in ('category_ids', 'frequency', 'judged', 'not_exhaustive', 'image', 'label', 'box'):
        np.testing.assert_array_equal(getattr(twice, field), getattr(truth, field))
    assert replace(twice, path='other').names == truth.names
