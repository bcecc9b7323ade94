"""Bootstrap of average precision: weights compared with repeated images, and intervals by hand."""

import copy

import numpy as np
import pytest

from dinor1.evaluation.bootstrap import bootstrap, sample_weights, weighted_ap
from dinor1.evaluation.box_matching import Matches, match_boxes
from dinor1.evaluation.coco_metric import coco_curves
from dinor1.utils.errors import InputError
from tests.evaluation.synthetic import as_detections, coco


def repeated(content: dict, results: list[dict], weights: dict[int, int]) -> tuple[dict, list[dict]]:
    """The data set with image ``i`` repeated ``weights[i]`` times."""
    images, annotations, found = [], [], []
    for image in content['images']:
        for copy_number in range(weights[image['id']]):
            new = 1000 * image['id'] + copy_number
            images.append(dict(image, id=new))
            own = [a for a in content['annotations'] if a['image_id'] == image['id']]
            annotations += [dict(a, image_id=new, id=len(annotations) + i) for i, a in enumerate(own, 1)]
            found += [dict(r, image_id=new) for r in results if r['image_id'] == image['id']]
    return content | dict(images=images, annotations=annotations), found


@pytest.mark.parametrize('seed', range(10))
def test_weighted_ap_equals_ap_of_copied_images(seed):
    rng = np.random.default_rng(seed)
    content, results = coco(rng, 8, 3, 8, 30)
    # Make scores distinct, so that the copies of an image are adjacent in the order of scores.
    for result, score in zip(results, rng.permutation(len(results)), strict=True):
        result['score'] = float(score)
    ids = sorted(category['id'] for category in content['categories'])
    matches = match_boxes(content, as_detections(results, ids), np.array(ids))
    weights = sample_weights(8, 3, seed)
    assert (weights.sum(1) == 8).all()
    for row, ap in zip(weights, weighted_ap(matches, weights), strict=True):
        again, found = repeated(content, results, dict(zip(matches.image_ids.tolist(), row.tolist(), strict=True)))
        precision, _ = coco_curves(again, copy.deepcopy(found), ids, 'pycocotools')
        expected = precision[..., 0, -1].mean(1).T
        expected[(expected < 0).all(1)] = np.nan
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-12)


def one_class(hits: list[bool]) -> Matches:
    """A box and a detection in every image, with equal scores."""
    count = len(hits)
    column = np.array(hits)[:, None].repeat(2, 1)
    nothing, ones = np.zeros((count, 2), dtype=bool), np.ones((count, 1), dtype=int)
    return Matches(np.arange(count), np.arange(count), np.zeros(count, int), np.ones(count), column, nothing, ones)


def test_bootstrap_of_certain_results_has_zero_width():
    for value, hits in ((1.0, [True] * 6), (0.0, [False] * 6)):
        for interval in bootstrap([one_class(hits)], num_samples=20).values():
            assert (interval.value, interval.low, interval.high) == pytest.approx((value,) * 3, abs=1e-12)


def test_bootstrap_of_recall_is_a_binomial_interval():
    """Without errors, AP is the recall up to the 101 recalls, which is a binomial share of 200."""
    matches = one_class([True] * 100 + [False] * 100)
    matches = Matches(**(vars(matches) | dict(ignored=~matches.hit)))
    interval = bootstrap([matches], num_samples=2000)['AP50']
    assert interval.value == pytest.approx(0.5, abs=0.01)
    expected = 1.96 * (0.25 / 200) ** 0.5
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.08)


def test_bootstrap_draws_same_images_for_both_detectors():
    rng = np.random.default_rng(0)
    hits = rng.random(40) < 0.5
    ours, theirs = one_class(hits.tolist()), one_class((~hits).tolist())
    equal = bootstrap([ours], [ours], num_samples=50)['AP']
    assert (equal.value, equal.low, equal.high) == (0, 0, 0)
    gap, reverse = bootstrap([ours], [theirs], num_samples=50)['AP'], bootstrap([theirs], [ours], num_samples=50)['AP']
    assert (gap.value, gap.low, gap.high) == pytest.approx((-reverse.value, -reverse.high, -reverse.low))
    both = bootstrap([ours, theirs], num_samples=50)['AP']
    alone = [bootstrap([m], num_samples=50)['AP'].value for m in (ours, theirs)]
    assert both.value == pytest.approx(np.mean(alone))


def test_bootstrap_leaves_out_classes_on_few_images():
    interval = bootstrap([one_class([True] * 4)], num_samples=10)['AP']
    assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert bootstrap([one_class([True] * 4)], min_images=4, num_samples=10)['AP'].value == pytest.approx(1)


def test_bootstrap_rejects_incomparable_draws():
    with pytest.raises(InputError, match='no draw of prompts'):
        bootstrap([])
    with pytest.raises(InputError, match='different images'):
        bootstrap([one_class([True] * 4)], [one_class([True] * 5)])
    with pytest.raises(InputError, match='confidence in'):
        bootstrap([one_class([True])], confidence=1.0)
