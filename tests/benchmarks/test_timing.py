"""Turns, clocks and ratios, with a clock that the test controls."""

import time

import pytest

from dinor1.benchmarks import timing


@pytest.fixture
def hands(monkeypatch):
    """A clock that advances only when a function sets it."""
    state = dict(now=100.0)
    monkeypatch.setitem(timing.CLOCKS, 'wall', lambda: state['now'])
    return state


def test_take_turns_order_and_times(hands):
    order = []

    def function(name, seconds):
        def run():
            order.append(name)
            hands['now'] += seconds

        return run

    found = timing.take_turns({'a': function('a', 1.0), 'b': function('b', 3.0)}, rounds=2, warmup=1)
    assert order == ['a', 'b'] + 2 * ['a', 'b']
    assert {name: one.times for name, one in found.items()} == {'a': [1.0, 1.0], 'b': [3.0, 3.0]}


def test_take_turns_times_are_per_call(hands):
    def function():
        hands['now'] += 2.0

    found = timing.take_turns({'a': function}, rounds=3, calls=5)['a']
    assert found.raw_times == 3 * [10.0]
    assert found.times == 3 * [2.0]
    assert found.median == 2.0


def test_ratio_ignores_one_disturbed_round():
    base = [1.0, 10.0, 1.0]
    assert timing.ratio([2.0, 20.0, 2.0], base) == 2.0
    # One disturbed measurement of three does not move the median.
    assert timing.ratio([2.0, 900.0, 2.0], base) == 2.0


def test_cpu_clock_does_not_count_sleep():
    def seconds(clock):
        return timing.take_turns({'sleep': lambda: time.sleep(0.05)}, rounds=1, warmup=0, clock=clock)['sleep'].median

    assert seconds('wall') >= 0.05
    assert seconds('cpu') < 0.02


def test_timed_median(hands):
    def function():
        hands['now'] += 0.25

    assert timing.timed(function, seconds=1.0).median == pytest.approx(0.25)
