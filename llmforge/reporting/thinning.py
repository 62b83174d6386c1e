"""Long curves in few points that look the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmforge.viewing.curves import Series


@dataclass(frozen=True)
class Thinned:
    """A curve in at most so many points.

    Attributes:
        steps, values: The first and the last point and, of each bucket, the lowest and the highest: no spike is lost. None is
            a value that is no number.
        mean_steps, means: The means of the buckets; empty where every point is there.
    """

    steps: list[int]
    values: list[float | None]
    mean_steps: list[int]
    means: list[float | None]


def thin(series: Series, most: int) -> Thinned:
    """`series` in at most `most` points, in time that is linear in its length."""
    steps, values = np.asarray(series.steps), np.asarray(series.values)
    if len(values) <= most:
        return Thinned(_whole(steps), plain(values), [], [])
    length = math.ceil(len(values) / max(most // 2 - 1, 1))
    missing = -len(values) % length
    at = np.concatenate([steps, np.full(missing, steps[-1])]).reshape(-1, length)
    rows = np.concatenate([values, np.full(missing, np.nan)]).reshape(-1, length)
    finite = np.isfinite(rows)
    some = finite.any(axis=1)
    low, high = np.where(finite, rows, np.inf).argmin(axis=1), np.where(finite, rows, -np.inf).argmax(axis=1)
    starts = np.arange(len(rows)) * length
    kept = np.unique(np.concatenate([[0, len(values) - 1], starts + low, starts + high]))
    kept = kept[kept < len(values)]
    counts = finite.sum(axis=1)
    sums = np.where(finite, rows, 0.0).sum(axis=1)
    means = np.where(some, sums / np.maximum(counts, 1), np.nan)
    return Thinned(_whole(steps[kept]), plain(values[kept]), _whole(at.mean(axis=1)), plain(means))


def places(length: int, most: int) -> list[int]:
    """At most `most` indices of a sequence, evenly spread, with the first and the last."""
    if length <= most:
        return list(range(length))
    return sorted({round(place * (length - 1) / (most - 1)) for place in range(most)})


def plain(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Numbers in six figures, as JSON can hold them: None for what is no number."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _whole(values: np.ndarray) -> list[int]:
    return [int(value) for value in values]
