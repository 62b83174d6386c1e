"""Where the documents of a batch of packed rows end, and which of them share a call of the attention kernel."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

#: Documents of at most so many tokens share a call on a CPU; above, a call of its own stays in the cache and
#: is as fast or faster (benchmarks/attention.py).
_SHORT = 64
#: Documents in a shared call are filled up to the longest of the same class. Two classes to a power of two
#: leave a sixth of the places empty on average.
_CLASSES = np.array([1, *(step for power in range(1, 31) for step in (2**power, 3 * 2 ** (power - 1)))])


class Call(NamedTuple):
    """One call of the attention kernel: `documents` documents, each filled up to `length` places."""

    documents: int
    length: int


class Plan(NamedTuple):
    """How a batch is cut into calls; `places` and `origins` are None where the tokens already lie in their order.

    Attributes:
        calls: In the order in which their tokens lie.
        places: int64, ``(places,)``: the token that each place of the calls holds; a filling place repeats one.
        origins: int64, ``(tokens,)``: the place that holds each token.
    """

    calls: list[Call]
    places: torch.Tensor | None
    origins: torch.Tensor | None


class Segments:
    """Where the documents of a batch end. Made by `PackedCollator`, given to the model as ``segments``.

    Goes through loaders, `pin_memory`, accelerate and DDP as one object, of which only the
    cumulative lengths are moved to the device.

    Args:
        lengths: Tokens of each segment, row after row, a row's padding being one more segment; int64.
        shape: Rows and tokens a row.
    """

    def __init__(self, lengths: np.ndarray, shape: tuple[int, int]):
        self.lengths = lengths
        self.shape = shape
        cumulative = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cumulative[1:])
        self.cumulative = torch.from_numpy(cumulative)
        self._plans: dict[torch.device, Plan] = {}

    def _with(self, cumulative: torch.Tensor) -> Segments:
        other = Segments.__new__(Segments)
        other.lengths, other.shape, other.cumulative, other._plans = self.lengths, self.shape, cumulative, {}
        return other

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Segments:
        """The same with the cumulative lengths on `device`."""
        return self._with(self.cumulative.to(device, non_blocking=non_blocking))

    def pin_memory(self, device: Any = None) -> Segments:
        """The same with the cumulative lengths in pinned memory, as a loader with ``pin_memory`` asks for."""
        return self._with(self.cumulative.pin_memory())

    def ordinals(self) -> torch.Tensor:
        """The segment that each position is in, counted in its row; int64, ``(rows, tokens)``, on the CPU."""
        rows, length = self.shape
        segment = np.repeat(np.arange(len(self.lengths)), self.lengths).reshape(rows, length)
        return torch.from_numpy(segment - segment[:, :1])

    def plan(self, device: torch.device) -> Plan:
        """The calls of this batch on `device`; made at the first layer that asks and kept for the others."""
        if device not in self._plans:
            self._plans[device] = plan_calls(self.lengths, _SHORT if device.type == "cpu" else None, device)
        return self._plans[device]


def plan_calls(lengths: np.ndarray, short: int | None, device: torch.device | str = "cpu") -> Plan:
    """Which documents share a call.

    Causal attention never looks ahead, so a document may be filled up at its end with anything.

    Args:
        lengths: As `Segments`.
        short: Longer documents get a call each; None lets all share, where a call costs more than its work.
        device: Where the indices go.
    """
    shared = np.ones(len(lengths), bool) if short is None else lengths <= short
    if not shared.any():
        return Plan([Call(1, size) for size in lengths.tolist()], None, None)
    if (lengths == lengths[0]).all():
        return Plan([Call(len(lengths), int(lengths[0]))], None, None)
    starts = np.cumsum(lengths) - lengths
    classes = np.where(shared, np.searchsorted(_CLASSES, lengths), len(_CLASSES) + np.arange(len(lengths)))
    order = np.argsort(classes, kind="stable")
    firsts = np.flatnonzero(np.diff(classes[order], prepend=-1))
    members = np.diff(firsts, append=len(order))
    longest = np.maximum.reduceat(lengths[order], firsts)
    filled = np.repeat(longest, members)  # places of each document, in order
    first_places = np.cumsum(filled) - filled
    offsets = np.arange(int(filled.sum())) - np.repeat(first_places, filled)
    sizes = np.repeat(lengths[order], filled)
    places = np.repeat(starts[order], filled) + np.minimum(offsets, sizes - 1)
    real = offsets < sizes
    origins = np.empty(int(lengths.sum()), dtype=np.int64)
    origins[places[real]] = np.flatnonzero(real)
    calls = [Call(*pair) for pair in zip(members.tolist(), longest.tolist(), strict=True)]
    indices = [torch.from_numpy(array) for array in (places, origins)]
    if torch.device(device).type == "cuda":  # from other memory the copy would wait for what the device is at
        indices = [index.pin_memory() for index in indices]
    moved = [index.to(device, non_blocking=True) for index in indices]
    return Plan(calls, *moved)
