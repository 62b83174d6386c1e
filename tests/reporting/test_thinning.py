"""Long curves in few points."""

from __future__ import annotations

import math
import random
from array import array

import pytest

from llmforge.reporting.thinning import places, thin
from llmforge.viewing.curves import Series


def series(values) -> Series:
    steps = array("d", range(1, len(values) + 1))
    return Series(steps, array("d", values), array("d", steps), array("d", steps))


def test_a_short_curve_is_all_there():
    found = thin(series([3.0, math.nan, 2.123456789]), 10)
    assert (found.steps, found.values, found.means) == ([1, 2, 3], [3.0, None, 2.12346], [])


@pytest.mark.parametrize("length", [101, 1000, 99_991])
def test_no_spike_is_lost(length):
    source = random.Random(length)
    values = [source.gauss(3, 0.1) for _ in range(length)]
    spikes = {0: 9.0, length // 3: 50.0, length // 2: -40.0, length - 1: 1.0}
    for place, value in spikes.items():
        values[place] = value
    found = thin(series(values), 100)
    assert len(found.steps) == len(found.values) <= 100
    assert found.steps == sorted(set(found.steps))
    kept = dict(zip(found.steps, found.values, strict=True))
    assert {place + 1: kept[place + 1] for place in spikes} == {place + 1: value for place, value in spikes.items()}
    assert all(abs(values[step - 1] - value) < 1e-4 * abs(value) for step, value in kept.items())
    # The means are those of all values, not of the extremes.
    usual = [value for value in found.means if value is not None and 2 < value < 4]
    assert len(usual) >= 0.8 * len(found.means)
    assert found.mean_steps == sorted(found.mean_steps)


def test_what_is_no_number_is_a_gap():
    found = thin(series([1.0] * 500 + [math.nan] * 300 + [math.inf] * 200), 50)
    assert None in found.values
    assert set(found.values) == {1.0, None}
    assert set(found.means) == {1.0, None}


@pytest.mark.parametrize(("length", "most"), [(0, 5), (3, 5), (5, 5), (6, 5), (1000, 2), (1000, 7)])
def test_places_are_spread_and_hold_both_ends(length, most):
    found = places(length, most)
    assert len(found) == min(length, most)
    assert found == sorted(found)
    assert not length or (found[0], found[-1]) == (0, length - 1)
