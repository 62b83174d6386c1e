"""Shares of the training tokens by weight: which documents are taken, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmforge.errors import DataError


@dataclass(frozen=True)
class Mix:
    """What `mix` chose.

    Attributes:
        counts: Per source, how often each of its documents is taken; int64.
        tokens: Tokens of each source after that, separators included.
        shares: Their shares of all the tokens, unweighted sources' too; they add up to 1.
        repeats: How often each source was gone through: 2.5 is two whole passes and half of another.
    """

    counts: list[np.ndarray]
    tokens: list[int]
    shares: list[float]
    repeats: list[float]


def mix(
    lengths: Sequence[np.ndarray],
    keys: Sequence[np.ndarray],
    weights: Sequence[float | None],
    names: Sequence[str],
    seed: int = 0,
) -> Mix:
    """Choose documents so that the weighted sources get tokens in proportion to their weights.

    The weighted sources keep, together, as many tokens as they have: a source that is given more than it has is gone
    through several times, and one that is given less is subsampled. Every document is taken either ``n`` or ``n + 1``
    times; which ones are taken once more goes by a hash of their key and `seed`, so that it is the same on every run,
    spread over the source, and hardly changes when documents come or go. Unweighted sources stand outside of this:
    each of their documents is taken once. A share is met to within one document of the source.

    Args:
        lengths: Per source, the tokens of each of its training documents, without separators.
        keys: Per source, a number for each of them that stands for its content, such as a hash of the text; uint64.
        weights: Per source, its weight above 0, or None.
        names: What each source is called in errors.
        seed: Another seed takes other documents.

    Raises:
        DataError: A weighted source has no training document.
    """
    sizes = [np.asarray(own, dtype=np.int64) + 1 for own in lengths]
    have = [int(own.sum()) for own in sizes]
    for weight, own, name in zip(weights, have, names, strict=True):
        if weight is not None and not own:
            raise DataError(f"--source {name} has a weight, but no training document.", "Take the source or its weight out.")
    weighted = [index for index, weight in enumerate(weights) if weight is not None]
    total = sum(have[index] for index in weighted)
    sum_of_weights = sum(weights[index] or 0.0 for index in weighted)
    counts = []
    for size, key, weight in zip(sizes, keys, weights, strict=True):
        if weight is None:
            counts.append(np.ones(len(size), dtype=np.int64))
        else:
            counts.append(_choose(size, total * (weight / sum_of_weights), _scramble(key, seed)))
    tokens = [int((own * count).sum()) for own, count in zip(sizes, counts, strict=True)]
    every = sum(tokens)
    shares = [one / every if every else 0.0 for one in tokens]
    repeats = [one / own if own else 0.0 for one, own in zip(tokens, have, strict=True)]
    return Mix(counts, tokens, shares, repeats)


def _scramble(keys: np.ndarray, seed: int) -> np.ndarray:
    """A hash of each key and `seed`: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), on 64 bits."""
    start = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed = np.asarray(keys, dtype=np.uint64) ^ np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _choose(sizes: np.ndarray, goal: float, hashes: np.ndarray) -> np.ndarray:
    """How often each document is taken, for `goal` tokens or as near to it as whole documents come."""
    passes, rest = divmod(goal, float(sizes.sum()))
    counts = np.full(len(sizes), int(passes), dtype=np.int64)
    order = np.argsort(hashes, kind="stable")
    sums = np.concatenate(([0], np.cumsum(sizes[order])))
    nearest = int(np.abs(sums - rest).argmin())
    if not passes and not nearest:
        nearest = 1  # a source with a weight is never left out
    counts[order[:nearest]] += 1
    return counts
