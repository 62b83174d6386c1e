"""Two models on the same documents: the difference, and whether chance would make one as large.

The test is a paired permutation test: were there no difference between the models, which of the two a document's figure is from
would not matter, so the pairs are swapped at random and the difference is taken again (Fisher 1935; for language models e.g. Dror
et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in Natural Language Processing").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmforge.scoring.figures import drawn, ends_of

#: Random swaps; with the one that was seen, p is never below 1/10,000.
SWAPS = 9999
_SEED = 0
#: Swaps that are made at once.
_TOGETHER = 500


@dataclass
class Difference:
    """A figure of one model less that of another.

    Attributes:
        value: Of the second less the first.
        interval: 95 %, by a paired bootstrap.
        p_value: Share of random swaps that make a difference at least as large, in either direction.
        pairs: Documents or rows that were paired.
    """

    value: float
    interval: tuple[float, float]
    p_value: float
    pairs: int


def difference(first: np.ndarray, second: np.ndarray, parts: np.ndarray, other_parts: np.ndarray) -> Difference | None:
    """The difference of two ratios of sums over the same units: bits over bytes, right ones over all.

    Args:
        first: What each unit adds to the figure of the first model, ``(units,)``: bits.
        second: The same of the second.
        parts: What that is a share of, by the first model's count, ``(units,)``: bytes.
        other_parts: The same of the second.

    Returns:
        None where there are not two units, or nothing that the figures are shares of.
    """
    if len(first) < 2 or not parts.sum() or not other_parts.sum():
        return None
    seen = second.sum() / other_parts.sum() - first.sum() / parts.sum()
    source = np.random.default_rng(_SEED)
    as_large, done = 0, 0
    while done < SWAPS:
        count = min(_TOGETHER, SWAPS - done)
        swap = source.random((count, len(first))) < 0.5
        with np.errstate(divide="ignore", invalid="ignore"):
            ones = np.where(swap, second, first).sum(1) / np.where(swap, other_parts, parts).sum(1)
            others = np.where(swap, first, second).sum(1) / np.where(swap, parts, other_parts).sum(1)
        as_large += int((np.abs(others - ones) >= abs(seen) * (1 - 1e-9)).sum())
        done += count
    one, other, size, other_size = drawn(np.stack([first, second, parts, other_parts], 1)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = ends_of(other / other_size - one / size)
    return Difference(float(seen), interval, (as_large + 1) / (SWAPS + 1), len(first))
