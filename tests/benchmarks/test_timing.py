"""Turns, clocks and ratios, with a clock that the test controls."""

import pytest

from dinor1.benchmarks import timing


@pytest.fixture
def hands(monkeypatch):
    """A clock that stands still unless a function moves it."""
    state = dict(now=100.0)
    monkeypatch.setitem(timing.CLOCKS, 'wall', lambda: state['now'])
    return state


def test_functions_take_turns(hands):
    order = []

    def function(name, seconds):
        def run():
            order.append(name)
            hands['now'] += seconds

        return run

    seconds = timing.take_turns({'a': function('a', 1.0), 'b': function('b', 3.0)}, rounds=2, warmup=1)
    assert order == ['a', 'b'] + 2 * ['a', 'b']
    assert seconds == {'a': [1.0, 1.0], 'b': [3.0, 3.0]}


def test_a_disturbance_of_the_machine_leaves_the_ratio():
    base = [1.0, 10.0, 1.0]
    assert timing.ratio([2.0, 20.0, 2.0], base) == 2.0
    # One disturbed measurement of three does not move the median.
    assert timing.ratio([2.0, 900.0, 2.0], base) == 2.0


def test_processor_time_does_not_count_sleep(monkeypatch):
    hands = iter([5.0, 5.25])
    monkeypatch.setitem(timing.CLOCKS, 'cpu', lambda: next(hands))
    assert timing.timed(lambda: None, clock='cpu') == 0.25
