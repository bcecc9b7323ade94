"""Checks of the settings of losses: their messages, and the limits of the ranges."""

import math

import pytest

from dinor1.models.losses.settings import (
    AT_LEAST_1,
    BELOW_1,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    check_choice,
    check_ranges,
)
from dinor1.utils.errors import InputError


def test_check_choice_names_the_possible_values():
    check_choice('Loss', 'kind', 'a', ('a', 'b'))
    with pytest.raises(InputError) as caught:
        check_choice('Loss', 'kind', 'c', ('a', 'b'))
    assert str(caught.value) == "Loss: kind must be one of a, b; got 'c'"


def test_check_ranges_names_all_settings():
    with pytest.raises(InputError) as caught:
        check_ranges('Loss', weight=(-1.0, NOT_NEGATIVE), size=(2, AT_LEAST_1), share=(0.5, FRACTION))
    assert str(caught.value) == 'Loss: expected weight >= 0, size >= 1 and share in [0, 1]; got -1.0, 2 and 0.5'


@pytest.mark.parametrize(
    ('range_', 'inside', 'outside'),
    [
        (NOT_NEGATIVE, (0, 3.5), (-0.1, math.inf, math.nan)),
        (POSITIVE, (0.1,), (0, math.inf, math.nan)),
        (AT_LEAST_1, (1, 7), (0, math.nan)),
        (FRACTION, (0, 1), (-0.1, 1.1, math.nan)),
        (BELOW_1, (0, 0.9), (1, -0.1, math.nan)),
    ],
)
def test_check_ranges_at_the_limits(range_, inside, outside):
    for value in inside:
        check_ranges('Loss', first=(1, FRACTION), second=(value, range_))
    for value in outside:
        with pytest.raises(InputError, match='^Loss: expected first in'):
            check_ranges('Loss', first=(1, FRACTION), second=(value, range_))
