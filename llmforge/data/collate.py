"""From packed rows to the tensors a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.losses import IGNORE

if TYPE_CHECKING:
    import torch


@dataclass
class PackedCollator:
    """Stacks packed rows and says where each document ends.

    No attention mask is made, on purpose: transformers isolates packed documents by their
    ``position_ids`` only when there is none, even one of all ones.

    Returns, for B rows of L tokens, int64 tensors of shape ``(B, L)``:

    - ``input_ids``
    - ``position_ids``: restart at 0 at every segment, and at the padding
    - ``shift_labels``: the id that truly follows each position, -100 on padding
    - ``labels``: the same in the usual convention (position i holds the target of i - 1), for
      code that counts or shifts labels itself
    """

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        import torch

        input_ids = np.stack([row["input_ids"] for row in rows]).astype(np.int64)
        count, length = input_ids.shape
        lengths: list[int] = []
        targets: list[int] = []
        for row in rows:
            own = row["segment_lengths"]
            lengths.extend(own)
            targets.extend(row["segment_targets"])
            padding = length - int(np.sum(own))
            if padding:
                lengths.append(padding)
                targets.append(IGNORE)
        sizes = np.array(lengths, dtype=np.int64)
        goals = np.array(targets, dtype=np.int64)
        ends = np.cumsum(sizes)
        position_ids = np.arange(count * length) - np.repeat(ends - sizes, sizes)
        shift_labels = np.empty(count * length, dtype=np.int64)
        shift_labels[:-1] = input_ids.reshape(-1)[1:]
        shift_labels[ends - 1] = goals
        for end, size in zip(ends[goals == IGNORE], sizes[goals == IGNORE], strict=True):
            shift_labels[end - size : end] = IGNORE
        shift_labels = shift_labels.reshape(count, length)
        labels = np.empty_like(shift_labels)
        labels[:, 0] = IGNORE
        labels[:, 1:] = shift_labels[:, :-1]
        arrays = {
            "input_ids": input_ids,
            "position_ids": position_ids.reshape(count, length),
            "labels": labels,
            "shift_labels": shift_labels,
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
