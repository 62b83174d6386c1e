"""Copies of a training's state in CPU memory, so that it can be written while training goes on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

#: Of the memory that is free, what the copies may take: the rest is for what training has not asked for yet.
_SAFE_SHARE = 0.8


class Snapshot:
    """State in CPU memory that is allocated at the first copy and used again for every later one.

    Where tensors are on a GPU the memory is pinned, which lets the GPU write into it at the bus's full speed.
    Tensors that share their memory, as tied weights do, share it in the copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, state: Any) -> Any:
        """A copy of `state`: dictionaries, lists and tuples of tensors and of anything else.

        Tensors are in this object's own memory and hold till the next `take`; anything else is copied anew.

        Raises:
            RuntimeError, MemoryError: There is no memory.
        """
        seen: dict[tuple[Any, ...], torch.Tensor] = {}
        made = self._copy(state, (), seen)
        for device in {key[0] for key in seen if key[0].type != "cpu"}:
            torch.accelerator.synchronize(device)
        return made

    def _copy(self, value: Any, path: tuple[Any, ...], seen: dict[tuple[Any, ...], torch.Tensor]) -> Any:
        if torch.is_tensor(value):
            return self._copy_tensor(value.detach(), path, seen)
        if isinstance(value, Mapping):
            return {name: self._copy(item, (*path, name), seen) for name, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copy(item, (*path, place), seen) for place, item in enumerate(value))
        return copy.deepcopy(value)

    def _copy_tensor(
        self, tensor: torch.Tensor, path: tuple[Any, ...], seen: dict[tuple[Any, ...], torch.Tensor]
    ) -> torch.Tensor:
        # Two that are the same memory, seen the same way, are one.
        key = (tensor.device, tensor.data_ptr() or path, tensor.shape, tensor.stride(), tensor.dtype)
        if key in seen:
            return seen[key]
        buffer = self._buffers.get(path)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"
            buffer = self._buffers[path] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        seen[key] = buffer.copy_(tensor, non_blocking=True)
        return buffer

    @property
    def size(self) -> int:
        """Bytes that this object holds."""
        return sum(buffer.nbytes for buffer in self._buffers.values())


def state_size(state: Any) -> int:
    """Bytes of the tensors in nested dictionaries, lists and tuples; those that share memory count once."""
    tensors = {tensor.data_ptr() or id(tensor): tensor.nbytes for tensor in _tensors(state)}
    return sum(tensors.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def has_room(size: int) -> bool:
    """Whether so many bytes of memory can be had without pushing training out of it."""
    return size <= _SAFE_SHARE * free_memory()


def free_memory() -> int:
    """Bytes of memory that can still be had: of the machine, or of the control group where that has less."""
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int((group / most).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(free, 0)
