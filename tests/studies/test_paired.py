"""Paired differences, compared with scipy."""

import math

import numpy as np
import pytest
import scipy.stats

from dinor1.studies.paired import mean_interval, paired_difference


def test_paired_difference_without_common_seed_is_none():
    assert paired_difference({}, {}) is None
    assert paired_difference({0: 1.0}, {1: 2.0}) is None
    with pytest.raises(ValueError, match='at least one'):
        mean_interval({})


@pytest.mark.parametrize('confidence', [0.5, 0.95, 0.99])
@pytest.mark.parametrize('count', [2, 3, 5, 30])
def test_paired_difference_equals_scipy(count, confidence):
    ours, theirs = np.random.default_rng(count).normal([[0.3], [0.0]], 1, (2, count))
    result = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)), confidence)
    test = scipy.stats.ttest_rel(ours, theirs)
    low, high = test.confidence_interval(confidence)
    assert result.n == count
    assert result.mean == pytest.approx((ours - theirs).mean(), rel=1e-12)
    assert (result.low, result.high, result.p_value) == pytest.approx((low, high, test.pvalue), rel=1e-9)
    if confidence == 0.95:
        assert result.excludes_zero == (test.pvalue < 0.05)


def test_paired_difference_uses_common_seeds_in_any_order():
    a, b = {3: 1.0, 1: 2.0, 9: 100.0}, {1: 1.0, 3: 0.5, 7: -100.0}
    assert paired_difference(a, b) == paired_difference({1: 2.0, 3: 1.0}, {3: 0.5, 1: 1.0})
    assert paired_difference(a, b).mean == 0.75


def test_paired_difference_is_antisymmetric():
    a, b = {0: 1.0, 1: 2.5, 2: 2.0}, {0: 0.0, 1: 1.0, 2: 1.5}
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert (there.low, there.high) == (-back.high, -back.low)
    assert there.p_value == back.p_value


def test_paired_difference_of_one_seed_has_infinite_width():
    result = paired_difference({0: 0.7}, {0: 0.5})
    assert result.n == 1
    assert result.half_width == math.inf
    assert not result.excludes_zero


@pytest.mark.parametrize(('shift', 'p_value'), [(0.0, 1.0), (0.25, 0.0)])
def test_paired_difference_of_equal_differences(shift, p_value):
    result = paired_difference({0: 1.0 + shift, 1: 2.0 + shift}, {0: 1.0, 1: 2.0})
    assert result.half_width == 0
    assert result.p_value == p_value
    assert result.excludes_zero == (shift != 0)


@pytest.mark.parametrize(('arguments', 'text'), [(({0: math.nan}, {0: 1.0}), 'finite'), (({}, {}, 1.0), 'confidence')])
def test_paired_difference_bad_input(arguments, text):
    with pytest.raises(ValueError, match=text):
        paired_difference(*arguments)


def test_mean_interval_equals_student():
    values = [0.61, 0.66, 0.64, 0.70]
    result = mean_interval(dict(enumerate(values)))
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(values), scipy.stats.sem(values))
    assert (result.low, result.high) == pytest.approx((low, high), rel=1e-12)


def test_mean_interval_coverage():
    """95 % of 2,000 intervals of three seeds contain the true mean; the bounds are four binomial deviations."""
    draws = np.random.default_rng(0).normal(0.2, 1.0, (2000, 3))
    results = [mean_interval(dict(enumerate(row))) for row in draws]
    hits = sum(result.low <= 0.2 <= result.high for result in results)
    assert 1900 - 4 * 9.75 < hits < 1900 + 4 * 9.75
