"""Counts the bytes that tensors hold, as they come and go."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Adds up the storages of all tensors made inside that are still there; views share theirs.

    Attributes:
        now: Bytes held now.
        peak: The most since `mark`.
        peaks: Name of each `mark` → the most before it, since the one before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.peaks: dict[str, int] = {}
        self._known: dict[int, int] = {}

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._known[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result

    def mark(self, name: str) -> None:
        """Note the most that was held since the last mark; of a name that comes again, the last."""
        self.peaks[name] = self.peak
        self.peak = self.now
