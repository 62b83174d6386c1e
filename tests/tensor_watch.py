"""Watches every tensor that PyTorch's kernels make."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Call(NamedTuple):
    """A kernel, and the first tensor it returned."""

    name: str
    dtype: torch.dtype
    shape: torch.Size


class Tensors(TorchDispatchMode):
    """Records the names of kernels, what those that return tensors returned, and the size of the largest of these.

    A size is a number of elements; views and buffers that are written into count too.
    """

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []
        self.kernels: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        self.kernels.add(function.overloadpacket.__name__)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if made:
            self.calls.append(Call(function.overloadpacket.__name__, made[0].dtype, made[0].shape))
            self.largest = max(self.largest, *(tensor.numel() for tensor in made))
        return result
