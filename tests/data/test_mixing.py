"""Weights are shares of the training tokens, met with whole documents."""

from __future__ import annotations

import numpy as np
import pytest

from llmforge.data.mixing import mix
from llmforge.errors import DataError


def source(count: int, seed: int, largest: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and keys of some documents."""
    made = np.random.RandomState(seed)
    return made.randint(0, largest, count), made.randint(0, 2**62, count).astype(np.uint64)


def run(sources, weights, seed: int = 0):
    return mix([own for own, _ in sources], [keys for _, keys in sources], weights, list("abcde")[: len(sources)], seed)


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 9), (0.2, 0.05)])
def test_shares_of_the_tokens_are_the_weights(weights):
    sources = [source(3000, 0), source(500, 1)]
    mixed = run(sources, weights)
    have = [int((own + 1).sum()) for own, _ in sources]
    for index, weight in enumerate(weights):
        assert mixed.shares[index] == pytest.approx(weight / sum(weights), abs=401 / sum(have))
        taken = int(((sources[index][0] + 1) * mixed.counts[index]).sum())
        assert mixed.tokens[index] == taken
        assert mixed.repeats[index] == pytest.approx(taken / have[index])
    assert sum(mixed.tokens) == pytest.approx(sum(have), abs=802)  # nothing is blown up


def test_a_source_that_is_short_is_repeated_evenly_and_a_large_one_cut():
    sources = [source(3000, 0), source(100, 1)]
    mixed = run(sources, (1, 1))
    assert set(mixed.counts[0]) == {0, 1}
    few = set(mixed.counts[1])
    assert len(few) == 2
    assert max(few) == min(few) + 1 > 10


def test_equal_weights_of_equal_sources_take_every_document_once():
    one = source(50, 0)
    mixed = run([one, one], (2, 2))
    assert all((counts == 1).all() for counts in mixed.counts)
    assert mixed.repeats == [1, 1]


def test_unweighted_sources_are_taken_as_they_come():
    sources = [source(300, 0), source(200, 1), source(100, 2)]
    mixed = run(sources, (None, 1, 3))
    assert (mixed.counts[0] == 1).all()
    assert mixed.tokens[2] / mixed.tokens[1] == pytest.approx(3, rel=0.05)
    assert sum(mixed.shares) == pytest.approx(1)
    alone = run(sources, (None, None, None))
    assert all((counts == 1).all() for counts in alone.counts)


def test_the_choice_goes_by_content_and_seed():
    (lengths, keys), other = source(400, 0), source(50, 1)
    first = run([(lengths, keys), other], (1, 1)).counts[0]
    again = run([(lengths, keys), other], (1, 1)).counts[0]
    assert (first == again).all()
    assert (first != run([(lengths, keys), other], (1, 1), seed=1).counts[0]).any()
    order = np.random.RandomState(3).permutation(len(lengths))
    moved = run([(lengths[order], keys[order]), other], (1, 1)).counts[0]
    assert (moved == first[order]).all()


def test_a_larger_share_takes_the_documents_of_a_smaller_one_and_more():
    large, other = source(1000, 0), source(1000, 1)
    small_share, large_share = (run([large, other], (weight, 5)).counts[0] for weight in (1, 3))
    assert (large_share >= small_share).all()
    assert large_share.sum() > small_share.sum()


def test_what_is_taken_is_spread_over_the_source():
    counts = run([(np.full(1000, 9), np.arange(1000, dtype=np.uint64)), source(100, 1, 50)], (1, 3)).counts[0]
    parts = [int(part.sum()) for part in np.split(counts, 10)]
    assert min(parts) > 0
    assert max(parts) < 2 * sum(parts) / 10


def test_a_source_with_a_tiny_weight_keeps_a_document():
    mixed = run([source(5, 0), source(500, 1)], (1e-9, 1))
    assert mixed.counts[0].sum() == 1


def test_a_weighted_source_without_documents_is_refused():
    with pytest.raises(DataError, match="--source b has a weight"):
        run([source(5, 0), source(0, 1)], (1, 1))
    assert run([source(5, 0), source(0, 1)], (1, None)).shares == [1, 0]
