"""Tables of studies, from records with known statistics."""

import math

import pytest
import scipy.stats

from dinor1.studies.report import by_seed, differences, interval, mean_with_interval, means, paired


def arm(values, first=0, **extra):
    return [dict(seed=first + i, metrics={'AP': value}, **extra) for i, value in enumerate(values)]


RECORDS = {'SFT': arm([0.60, 0.62, 0.64]), 'GRQO': arm([0.61, 0.64, 0.66]), 'one': arm([0.7], seconds=3), 'none': []}


def test_report_of_no_records():
    assert by_seed([], 'AP') == {}
    assert mean_with_interval([], 'AP') == '-'
    assert interval(None) == '-'
    assert means({'a': []}, {'AP': 'AP'}) == '| arm | seeds | AP |\n|---|---:|---:|'
    assert differences({'SFT': []}, 'SFT', {'AP': 'AP'}) == {'AP': {}}


def test_means_with_missing_values():
    text = means(RECORDS, {'AP': 'AP', 'seconds': 's'})
    assert '| SFT | 3 | 0.620 ± 0.020 | - |' in text
    assert '| one | 1 | 0.700 | 3.000 |' in text
    assert 'none' not in text
    assert by_seed([dict(seed=0, metrics={'AP': math.nan}), *arm([None], 1)], 'AP') == {}


def test_paired_table_equals_paired_test():
    text = paired(RECORDS, 'SFT', {'AP': 'AP'})
    low, high = scipy.stats.ttest_rel([0.61, 0.64, 0.66], [0.60, 0.62, 0.64]).confidence_interval(0.95)
    assert f'| GRQO | 3 | **+0.0167 [{low:+.4f}, {high:+.4f}]** |' in text
    # One seed has no interval and is never bold.
    assert '| one | 1 | +0.1000 |' in text


def test_mean_with_interval_equals_student():
    low, high = scipy.stats.t.interval(0.95, 2, 0.62, 0.02 / 3**0.5)
    assert mean_with_interval(RECORDS['SFT'], 'AP') == f'0.620 [{low:.3f}, {high:.3f}]'
    assert mean_with_interval(RECORDS['one'], 'AP') == '0.700'
    found = differences(RECORDS, 'SFT', {'AP': 'AP'})['AP']['GRQO']
    assert found.mean == pytest.approx(0.05 / 3)
