"""COCO's box AP: both backends compared with pycocotools itself, and the metric that uses them."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dinor1.evaluation.coco_metric import BACKENDS, CocoPromptMetric, coco_curves, curves_in_parts, summarize
from dinor1.evaluation.detections import Detections
from dinor1.registry import METRICS
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import as_results, as_samples, coco, detect, perfect

NAMES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
# Tolerance: both average the same ratios of integers in float64, in different orders.
EXACT = dict(rel=0, abs=1e-12)


@pytest.fixture
def save(tmp_path):
    """``save(content)`` writes a JSON file."""

    def save(content) -> str:
        path = tmp_path / 'annotations.json'
        path.write_text(json.dumps(content))
        return str(path)

    return save


def pycocotools(content: dict, results: list[dict]) -> COCOeval:
    """Evaluate with pycocotools as in its own demonstration."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def evaluate(metric: CocoPromptMetric, samples: list[dict]) -> dict[str, float]:
    for start in range(0, len(samples), 4):
        metric.process(None, samples[start : start + 4])
    return metric.evaluate(len(samples))


def assert_same(content: dict, results: list[dict], backend: str) -> float:
    expected = pycocotools(content, results)
    ids = [category['id'] for category in content['categories']]
    precision, recall = coco_curves(copy.deepcopy(content), copy.deepcopy(results), ids, backend)
    np.testing.assert_allclose(precision, expected.eval['precision'], rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall, expected.eval['recall'], rtol=0, atol=1e-12)
    assert list(summarize(precision).values()) == pytest.approx(expected.stats[:6].tolist(), **EXACT)
    assert tuple(summarize(precision)) == NAMES
    return expected.stats[0]


@pytest.mark.parametrize('seed', range(50))
def test_coco_curves_equal_pycocotools_on_random_cases(seed):
    """Cases have crowds, images without boxes, all area ranges and sometimes more than 100 detections of a class."""
    rng = np.random.default_rng(seed)
    shape = dict(
        num_images=int(rng.integers(2, 9)), num_classes=int(rng.integers(1, 5)), boxes=int(rng.integers(2, 12))
    )
    content, results = coco(rng, **shape, detections=250 if seed % 5 == 0 else 20)
    assert 0 < assert_same(content, results, 'faster_coco_eval') < 1


@pytest.mark.shared
@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize('backend', BACKENDS)
def test_coco_curves_equal_pycocotools_on_official_annotations(backend, split, shared_dir):
    content = json.loads((shared_dir / f'data/coco_mini/annotations/{split}.json').read_text())
    assert any(annotation['iscrowd'] for annotation in content['annotations'])
    results = detect(content, np.random.default_rng(0), 40)
    assert 0.05 < assert_same(content, results, backend) < 0.9


@pytest.mark.parametrize('backend', BACKENDS)
def test_coco_curves_of_no_detections_and_no_objects(backend):
    content, results = coco(np.random.default_rng(0), 20, 3, 10, 10)
    precision, _ = coco_curves(copy.deepcopy(content), [], [2, 7, 12], backend)
    assert set(summarize(precision).values()) == {0.0}
    precision, _ = coco_curves(content | dict(annotations=[]), results, [2, 7, 12], backend)
    assert set(summarize(precision).values()) == {-1.0}


# The metric ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('backend', BACKENDS)
def test_metric_reports_numbers_of_pycocotools(backend, save):
    content, results = coco(np.random.default_rng(1), 8, 4, 8, 150)
    samples = as_samples(content, results)
    metric = METRICS.build(dict(type='CocoPromptMetric', ann_file=save(content), backend=backend, classwise=True))
    metrics = evaluate(metric, samples)
    expected = pycocotools(content, as_results(content, samples))
    assert [metrics[f'coco/bbox_{name}'] for name in NAMES] == pytest.approx(expected.stats[:6].tolist(), **EXACT)
    per_class = expected.eval['precision'][..., 0, -1].mean((0, 1))
    assert [metrics[f'coco/class {k}_precision'] for k in range(4)] == pytest.approx(per_class.tolist(), **EXACT)
    assert evaluate(metric, samples) == metrics


def test_metric_uses_fast_backend_by_default(save):
    content, _ = coco(np.random.default_rng(0), 2, 2, 3, 0)
    assert CocoPromptMetric(save(content)).backend == 'faster_coco_eval'


def test_ground_truth_detections_have_ap_one(save):
    content, _ = coco(np.random.default_rng(2), 20, 5, 8, 0)
    metrics = evaluate(CocoPromptMetric(save(content)), perfect(content))
    # pycocotools adds 2e-16 to the denominator of a precision.
    assert list(metrics.values()) == pytest.approx([1.0] * 6, **EXACT)


def test_annotation_with_id_zero_can_be_matched(save):
    """Pycocotools counts a detection of this annotation as an error."""
    content, _ = coco(np.random.default_rng(2), 20, 5, 8, 0)
    for annotation in content['annotations']:
        annotation['id'] -= 1
        annotation['iscrowd'] = 0
    assert pycocotools(content, as_results(content, perfect(content))).stats[0] < 0.995
    metrics = evaluate(CocoPromptMetric(save(content)), perfect(content))
    assert metrics['coco/bbox_mAP'] == pytest.approx(1.0, **EXACT)


def test_metric_accepts_absent_area_and_iscrowd(save):
    content, results = coco(np.random.default_rng(3), 6, 3, 6, 30)
    for annotation in content['annotations']:
        annotation.update(iscrowd=0, area=annotation['bbox'][2] * annotation['bbox'][3])
    samples = as_samples(content, results)
    expected = evaluate(CocoPromptMetric(save(content)), samples)
    for annotation in content['annotations']:
        del annotation['iscrowd'], annotation['area']
    for backend in BACKENDS:
        metrics = evaluate(CocoPromptMetric(save(content), backend=backend), samples)
        assert metrics == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize(
    'change',
    [dict(iscrowd=None), dict(iscrowd='0'), dict(area='869'), dict(image_id=10**20), dict(bbox=[1, 2, 10**400, 4])],
)
def test_annotation_that_the_data_set_skips_is_left_out(save, caplog, change):
    """The ground truth is that of ``bad_annotations='skip'``; pycocotools would fail after the last image."""
    content, _ = coco(np.random.default_rng(2), 20, 5, 8, 0)
    samples = perfect(content)
    content['annotations'].append(content['annotations'][0] | dict(id=10**6) | change)
    assert evaluate(CocoPromptMetric(save(content)), samples)['coco/bbox_mAP'] == pytest.approx(1.0, **EXACT)


@pytest.mark.parametrize('section', ['images', 'categories'])
def test_id_that_does_not_fit_is_rejected_when_the_metric_is_built(save, section):
    content, _ = coco(np.random.default_rng(2), 3, 2, 8, 0)
    content[section][0]['id'] = 10**20
    with pytest.raises(InputError, match=f"an entry of '{section}' has no id that is a whole number of 64 bits"):
        CocoPromptMetric(save(content))


@pytest.mark.parametrize('box', [None, [1, 2, 3], [1, 2, 'x', 4], [1, float('nan'), 3, 4]])
def test_annotation_without_a_box_is_left_out(save, box):
    """CocoPromptDataset also leaves out such annotations, and logs it."""
    content, _ = coco(np.random.default_rng(2), 20, 5, 8, 0)
    samples = perfect(content)
    content['annotations'].append(content['annotations'][0] | dict(id=10**6, bbox=box))
    assert evaluate(CocoPromptMetric(save(content)), samples)['coco/bbox_mAP'] == pytest.approx(1.0, **EXACT)


def test_metric_accepts_chosen_classes_in_any_order(save):
    """The numbers are those of a file with only the chosen classes."""
    content, results = coco(np.random.default_rng(4), 10, 5, 8, 40)
    names, ids = ('class 3', 'class 0', 'class 4'), [17, 2, 22]
    # Evaluate a file with only these classes.
    alone = dict(content)
    for section, key in (('categories', 'id'), ('annotations', 'category_id')):
        alone[section] = [record for record in content[section] if record[key] in ids]
    samples = as_samples(content, [result for result in results if result['category_id'] in ids])
    expected = pycocotools(alone, as_results(content, samples))
    # Change labels to indices into the chosen classes.
    for sample in samples:
        labels = sample['pred_instances']['labels'].tolist()
        sample['pred_instances']['labels'] = torch.tensor([ids.index(5 * label + 2) for label in labels])
    # Evaluate the whole file with the chosen classes.
    metric = CocoPromptMetric(save(content), classwise=True)
    metric.dataset_meta = dict(classes=names)
    metrics = evaluate(metric, samples)
    assert [metrics[f'coco/bbox_{name}'] for name in NAMES] == pytest.approx(expected.stats[:6].tolist(), **EXACT)
    by_id = dict(zip(sorted(ids), expected.eval['precision'][..., 0, -1].mean((0, 1)), strict=True))
    per_class = [metrics[f'coco/{name}_precision'] for name in names]
    assert per_class == pytest.approx([by_id[id] for id in ids], **EXACT)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('at_once', [1, 90, 10**9])
def test_curves_in_parts_equal_coco_curves(backend, at_once):
    """Parts of one, about two or all categories give equal numbers; one has no detection, and ids are unordered."""
    content, results = coco(np.random.default_rng(6), 8, 5, 8, 30)
    results = [result for result in results if result['category_id'] != 12]
    ids = np.array([17, 2, 22, 12, 7])
    # Convert the results to arrays.
    found = Detections.concatenate(
        [
            Detections(
                np.array([r['image_id']]),
                np.flatnonzero(ids == r['category_id']),
                np.array([r['score']]),
                np.array([r['bbox']]),
                np.array([0]),
            )
            for r in results
        ]
    )
    # Compare the curves.
    precision, recall = curves_in_parts(copy.deepcopy(content), found, ids, backend, at_once)
    expected = pycocotools(content, results)
    np.testing.assert_allclose(precision, expected.eval['precision'], rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall, expected.eval['recall'], rtol=0, atol=1e-12)


def test_written_detections_give_equal_numbers(save, tmp_path):
    content, results = coco(np.random.default_rng(5), 6, 3, 6, 30)
    prefix = str(tmp_path / 'out' / 'run')
    samples, path = as_samples(content, results), save(content)
    metrics = evaluate(CocoPromptMetric(path, outfile_prefix=prefix), samples)
    written = json.loads((tmp_path / 'out/run.bbox.json').read_text())
    assert metrics['coco/bbox_mAP'] == pytest.approx(pycocotools(content, written).stats[0], **EXACT)
    (tmp_path / 'out/run.bbox.json').unlink()
    assert evaluate(CocoPromptMetric(path, outfile_prefix=prefix, format_only=True), samples) == {}
    assert json.loads((tmp_path / 'out/run.bbox.json').read_text()) == written


def test_metric_prints_nothing_on_standard_output(save, capsys):
    content, results = coco(np.random.default_rng(6), 3, 2, 4, 10)
    for backend in BACKENDS:
        evaluate(CocoPromptMetric(save(content), backend=backend), as_samples(content, results))
    printed = capsys.readouterr().out
    assert not any(word in printed for word in ('index', 'DONE', 'Average', 'Evaluate annotation'))


# Bad input -------------------------------------------------------------------------------------------------


def test_metric_rejects_bad_arguments_and_files(save):
    content, _ = coco(np.random.default_rng(0), 2, 2, 3, 0)
    path = save(content)
    with pytest.raises(InputError, match="one of faster_coco_eval, pycocotools, not 'fast'"):
        CocoPromptMetric(path, backend='fast')
    with pytest.raises(InputError, match='format_only needs outfile_prefix'):
        CocoPromptMetric(path, format_only=True)
    with pytest.raises(InputError, match='no such file'):
        CocoPromptMetric('nowhere.json')
    del content['annotations']
    with pytest.raises(InputError, match=r"annotations.json: not a COCO file, it has no list 'annotations'"):
        CocoPromptMetric(save(content))


def test_subset_of_images_is_scored_on_these_images(save):
    """The numbers are those of pycocotools on a file with only the evaluated images, and the result counts them."""
    content, results = coco(np.random.default_rng(7), 9, 3, 6, 40)
    samples = as_samples(content, results)[2:5]
    ids = [sample['img_id'] for sample in samples]
    alone = content | dict(
        images=content['images'][2:5], annotations=[a for a in content['annotations'] if a['image_id'] in ids]
    )
    expected = pycocotools(alone, as_results(content, samples))
    assert expected.stats[0] != pycocotools(content, as_results(content, samples)).stats[0]
    metrics = evaluate(CocoPromptMetric(save(content)), samples)
    assert [metrics[f'coco/bbox_{name}'] for name in NAMES] == pytest.approx(expected.stats[:6].tolist(), **EXACT)
    assert (metrics['coco/images_evaluated'], metrics['coco/images_in_file']) == (3, 9)


def test_metric_rejects_images_that_are_evaluated_twice(save):
    content, results = coco(np.random.default_rng(0), 3, 2, 4, 10)
    first, second, _ = as_samples(content, results)
    path = save(content)
    with pytest.raises(InputError, match=f'more than once: image {first["img_id"]}; .* leave out RepeatDataset'):
        evaluate(CocoPromptMetric(path), [first, second, first])
    # Two data sets with the same ids: the message names the files.
    samples = [dict(first, img_path='a/1.png'), dict(first, img_path='b/1.png')]
    with pytest.raises(InputError, match=r'image \d+ \(a/1.png and b/1.png\); two data sets use the same ids'):
        evaluate(CocoPromptMetric(path), samples)
    # Two processes that evaluated the same image.
    metrics = [CocoPromptMetric(path), CocoPromptMetric(path)]
    for metric in metrics:
        metric.process(None, [second])
    with pytest.raises(InputError, match=f'more than once: image {second["img_id"]};'):
        metrics[0].compute_metrics(metrics[0].results + metrics[1].results)


def test_metric_rejects_foreign_images_and_classes(save):
    content, results = coco(np.random.default_rng(0), 3, 2, 4, 10)
    metric = CocoPromptMetric(save(content))
    sample = as_samples(content, results)[0]
    with pytest.raises(InputError, match='image 999 is not in'):
        metric.process(None, [dict(sample, img_id=999)])
    metric.dataset_meta = dict(classes=('class 0', 'cat'))
    with pytest.raises(InputError, match="1 of the 2 classes of the data set are not categories there, such as 'cat'"):
        metric.process(None, [sample])
    metric.dataset_meta = None
    sample['pred_instances']['labels'][0] = 2
    with pytest.raises(InputError, match='reports class 2, but the data set has classes 0 to 1'):
        metric.process(None, [sample])
