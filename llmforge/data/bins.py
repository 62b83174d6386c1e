"""Best-fit decreasing: items into as few bins as may be, for millions of items at once."""

from __future__ import annotations

import numpy as np


class _Free:
    """The bins with some room, last in first out, kept as pieces of arrays."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self.count = 0

    def push(self, bins: np.ndarray) -> None:
        self._parts.append(bins)
        self.count += len(bins)

    def pop(self, count: int) -> np.ndarray:
        """The last `count` bins, the very last one first."""
        taken = []
        self.count -= count
        while count:
            part = self._parts.pop()
            if len(part) > count:
                self._parts.append(part[:-count])
                part = part[-count:]
            taken.append(part[::-1])
            count -= len(part)
        return taken[0] if len(taken) == 1 else np.concatenate(taken)


def first_places(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Where best-fit decreasing puts each item: the largest first, each into the fullest bin it fits in.

    Items of one size are placed together: a bin with room for several of them takes them one after the other, as
    it stays the fullest that fits. So the work grows with the number of different sizes, not of items.

    Args:
        lengths: Sizes of the items, each at least 1 and at most `capacity`; equal ones are taken in their order.
        capacity: Size of a bin.

    Returns:
        The bin of each item, numbered in order of opening, and its place there (the sum of what was put in before); int64.
    """
    bins = np.empty(len(lengths), dtype=np.int64)
    places = np.empty(len(lengths), dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    sizes, counts = np.unique(-lengths, return_counts=True)
    ends = np.cumsum(counts)
    free: dict[int, _Free] = {}
    occupied = 0  # bit r says whether a bin has just r of room: the tightest one that fits is found by arithmetic
    opened = 0
    for size, start, end in zip((-sizes).tolist(), (ends - counts).tolist(), ends.tolist(), strict=True):
        while start < end:
            fitting = occupied >> size
            room = size + (fitting & -fitting).bit_length() - 1 if fitting else capacity
            each = room // size
            count = -(-(end - start) // each)
            if fitting:
                stack = free[room]
                count = min(count, stack.count)
                chosen = stack.pop(count)
                if not stack.count:
                    occupied &= ~(1 << room)
            else:
                chosen = np.arange(opened, opened + count)
                opened += count
            placed = min(count * each, end - start)
            items = order[start : start + placed]
            bins[items] = np.repeat(chosen, each)[:placed]
            places[items] = capacity - room + np.tile(np.arange(each) * size, count)[:placed]
            start += placed
            # The last bin may have taken fewer.
            last = room - size * (placed - each * (count - 1))
            for left, some in ((room - size * each, chosen[:-1]), (last, chosen[-1:])):
                if left and len(some):
                    free.setdefault(left, _Free()).push(some)
                    occupied |= 1 << left
    return bins, places
