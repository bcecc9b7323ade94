"""Operating points, calibration error and outlier exemplars, compared with closed forms."""

import math

import numpy as np
import pytest

from dinor1.inference.operating_point import (
    above_thresholds,
    absence_threshold,
    best_threshold,
    exemplar_similarity,
    expected_calibration_error,
    fit_temperature,
    operating_points,
    with_temperature,
)
from dinor1.utils.errors import InputError


def logit(p):
    return math.log(p / (1 - p))


def test_operating_points_reject_empty_input():
    with pytest.raises(InputError, match='at least one, got 0 for 0'):
        operating_points([], [], [])


def test_fit_temperature_equals_the_closed_form_for_equal_scores():
    # The likelihood is highest where sigmoid(logit(0.9) / T) is the fraction of right detections, 0.7.
    temperature = fit_temperature([0.9] * 10, [True] * 7 + [False] * 3)
    assert temperature == pytest.approx(logit(0.9) / logit(0.7), rel=1e-4)
    np.testing.assert_allclose(with_temperature([0.9], temperature), [0.7], atol=1e-4)


def test_fit_temperature_of_calibrated_scores_is_one():
    scores = np.repeat([0.2, 0.4, 0.6, 0.8], 10)
    confirmed = np.concatenate([np.arange(10) < round(10 * p) for p in (0.2, 0.4, 0.6, 0.8)])
    assert fit_temperature(scores, confirmed) == pytest.approx(1, abs=1e-4)
    assert expected_calibration_error(scores, confirmed) == pytest.approx(0, abs=1e-12)


def test_expected_calibration_error_by_hand():
    # Bin [0.9, 1]: 0.95 twice, one right: |1.9 - 1|. Bin [0.1, 0.2): 0.1, right: |0.1 - 1|.
    assert expected_calibration_error([0.95, 0.95, 0.1], [True, False, True]) == pytest.approx(1.8 / 3)


@pytest.mark.parametrize(
    ('scores', 'confirmed', 'expected'),
    [
        ([0.9, 0.8, 0.4, 0.3], [1, 1, 0, 0], 0.6),  # perfect separation: the middle between 0.8 and 0.4
        ([0.9, 0.8, 0.4, 0.3], [1, 1, 1, 1], 0.15),  # all right: half of the lowest score
        ([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0], 0.3),  # F1 2/3 at one, 4/5 at three: equal scores stay together
        ([0.9, 0.5], [0, 0], 1.0),  # nothing confirmed
    ],
)
def test_best_threshold_maximises_f1(scores, confirmed, expected):
    order = np.random.default_rng(0).permutation(len(scores))
    assert best_threshold(np.array(scores)[order], np.array(confirmed)[order]) == pytest.approx(expected)


def test_operating_points_are_pooled_below_ten_detections():
    cats = dict(scores=[0.9] * 10, confirmed=[True] * 7 + [False] * 3)
    scores, confirmed = cats['scores'] + [0.2], cats['confirmed'] + [True]
    points = operating_points(scores, ['cat'] * 10 + ['dog'], confirmed)
    assert list(points) == ['cat', 'dog']
    cat, dog = points['cat'], points['dog']
    assert (cat.pooled, cat.num_checked, dog.pooled, dog.num_checked) == (False, 10, True, 1)
    assert cat.temperature == fit_temperature(**cats)
    assert dog.temperature == fit_temperature(scores, confirmed)
    assert (cat.error_before, cat.error_after) == pytest.approx((0.2, 0), abs=1e-4)
    kept = above_thresholds([0.95, 0.05, 0.05], ['cat', 'cat', 'cup'], points)
    assert kept.tolist() == [True, False, True]


def test_operating_points_reject_bad_input():
    with pytest.raises(InputError, match=r'scores must be in \[0, 1\]'):
        operating_points([1.5], ['cat'], [True])
    with pytest.raises(InputError, match='scores must be in'):
        operating_points([math.nan], ['cat'], [True])
    with pytest.raises(InputError, match='a class name for each of 1 scores'):
        operating_points([0.5], [], [True])
    with pytest.raises(InputError, match='as many flags as scores'):
        operating_points([0.5], ['cat'], [True, False])


def test_absence_threshold_separates_images_with_and_without_the_class():
    found = absence_threshold([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], [[0.3, 0.2], [0.1]])
    assert found == pytest.approx((0.55, 0, 0, 0))
    # One image without the class has the second highest score: a threshold below or above it errs on one image.
    found = absence_threshold([0.9, 0.6, 0.7, 0.1, 0.2], [1, 1, 0, 0, 0], [[0.7, 0.65], [], [0.2]])
    assert found.threshold == pytest.approx(0.4)
    assert (found.miss_rate, found.false_alarm_rate) == pytest.approx((0, 1 / 3))
    assert found.false_positives_per_image == pytest.approx(2 / 3)
    with pytest.raises(InputError, match='images with and images without'):
        absence_threshold([0.5], [True])


def test_exemplar_similarity_leaves_the_exemplar_out():
    # Class 0 along x, with one exemplar at 60 degrees and one that belongs to class 1, along y.
    degrees = np.deg2rad([0, 60, 90, 90])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], 1) * [[1], [1], [3], [2]]
    found = exemplar_similarity(embeddings[:2], [0, 0])
    np.testing.assert_allclose(found.own, [0.5, 0.5])
    assert np.isnan(found.other).all()
    assert not found.is_outlier.any()
    embeddings = np.array([[1, 0], [1, 0.1], [0, 3], [0.1, 1], [0, 2]])
    found = exemplar_similarity(embeddings, [0, 0, 0, 1, 1])
    assert found.is_outlier.tolist() == [False, False, True, False, False]
    # The mean of the others of the third exemplar is (1, 0.05).
    assert found.own[2] == pytest.approx(0.05 / math.hypot(1, 0.05))
    assert found.other[2] == pytest.approx(1.5 / math.hypot(0.05, 1.5))
