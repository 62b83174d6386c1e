"""The paired test: what chance makes, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from llmforge.scoring.pairs import difference

BYTES = np.full(40, 100.0)


def bits(seed: int, mean: float = 200.0, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 30, count)


def test_the_same_is_no_difference():
    one = difference(bits(0), bits(0), BYTES, BYTES)
    assert (one.value, one.p_value, one.interval, one.pairs) == (0.0, 1.0, (0.0, 0.0), 40)


def test_a_small_difference_that_every_pair_has_is_found():
    """Far below the spread of the documents: a test that does not pair would not see it."""
    ours = bits(0)
    theirs = ours - 2 + np.random.default_rng(9).normal(0, 1, 40)
    one = difference(ours, theirs, BYTES, BYTES)
    assert one.value == pytest.approx(-0.02, abs=0.005)
    assert one.p_value == 1 / 10_000
    assert one.interval[0] < one.value < one.interval[1] < 0
    back = difference(theirs, ours, BYTES, BYTES)
    assert (back.value, back.p_value) == (-one.value, one.p_value)


def test_chance_is_called_chance():
    """Of models that differ by chance alone p is below 0.05 one time in twenty."""
    found = [difference(bits(seed), bits(seed + 1000), BYTES, BYTES).p_value for seed in range(60)]
    assert sum(p < 0.05 for p in found) <= 8
    assert 0.35 < np.mean(found) < 0.65


def test_p_is_the_share_of_swaps_where_they_can_be_counted():
    """Three pairs have eight swaps; the seen one and its mirror are as large, and no other."""
    one = difference(np.zeros(3), np.array([1.0, 2.0, 4.0]), np.ones(3), np.ones(3))
    assert one.p_value == pytest.approx(2 / 8, abs=0.02)


def test_models_with_other_counts_of_bytes_are_compared_by_their_own():
    one = difference(bits(0), bits(0), BYTES, BYTES * 2)
    assert one.value == pytest.approx(-bits(0).sum() / 8000)
    assert one.p_value < 0.001


def test_one_pair_tells_nothing():
    assert difference(np.ones(1), np.zeros(1), np.ones(1), np.ones(1)) is None
    assert difference(np.ones(3), np.zeros(3), np.zeros(3), np.zeros(3)) is None
