"""Copies of a training's state in CPU memory, so that it can be written while training goes on."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from llmforge.runtime.devices import free_memory

#: Of the memory that is free, what the copies may take: the rest is for what training has not asked for yet.
_SAFE_SHARE = 0.8


class _Pair(NamedTuple):
    """A tensor, the memory that it is copied to, and how often it had been changed when that was decided."""

    tensor: torch.Tensor
    buffer: torch.Tensor
    version: int


def _fill(pairs: list[_Pair]) -> None:
    """Copy the tensors.

    Raises:
        OSError: One of them was changed meanwhile, and the copy is of no moment.
    """
    for pair in pairs:
        pair.buffer.copy_(pair.tensor, non_blocking=True)
    for device in {pair.tensor.device for pair in pairs if pair.tensor.device.type != "cpu"}:
        torch.accelerator.synchronize(device)
    if any(pair.tensor._version != pair.version for pair in pairs):
        raise OSError("the weights were changed while they were copied, by a callback perhaps")


class Snapshot:
    """State in CPU memory that is allocated at the first copy and used again for every later one.

    Where tensors are on a GPU the memory is pinned, which lets the GPU write into it at the bus's full speed.
    Tensors that share their memory, as tied weights do, share it in the copy.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], torch.Tensor] = {}

    def take(self, state: Any) -> tuple[Any, Callable[[], None]]:
        """A copy of `state`, dictionaries, lists and tuples of tensors and of anything else, and what fills it.

        Anything but tensors is copied at once. The tensors of the copy are in this object's own memory: they hold
        what `state` has when the function returned is called, and till the next `take`.

        Raises:
            RuntimeError, MemoryError: There is no memory.
        """
        pairs: dict[tuple[Any, ...], _Pair] = {}
        made = self._copy(state, (), pairs)
        return made, functools.partial(_fill, list(pairs.values()))

    def _copy(self, value: Any, path: tuple[Any, ...], pairs: dict[tuple[Any, ...], _Pair]) -> Any:
        if torch.is_tensor(value):
            return self._place(value.detach(), path, pairs)
        if isinstance(value, Mapping):
            return {name: self._copy(item, (*path, name), pairs) for name, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._copy(item, (*path, place), pairs) for place, item in enumerate(value))
        return copy.deepcopy(value)

    def _place(self, tensor: torch.Tensor, path: tuple[Any, ...], pairs: dict[tuple[Any, ...], _Pair]) -> torch.Tensor:
        # Two that are the same memory, seen the same way, are one.
        key = (tensor.device, tensor.data_ptr() or path, tensor.shape, tensor.stride(), tensor.dtype)
        if key not in pairs:
            buffer = self._buffers.get(path)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                pinned = tensor.device.type == "cuda"
                buffer = self._buffers[path] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            pairs[key] = _Pair(tensor, buffer, tensor._version)
        return pairs[key].buffer

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
