"""From packed rows to the tensors a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmforge.data.rows import RowBatch, gather_rows
from llmforge.losses import IGNORE


@dataclass
class PackedCollator:
    """Stacks packed rows and says where each document ends.

    No attention mask is made, on purpose: transformers isolates packed documents by their
    ``position_ids`` only when there is none, even one of all ones; and our attention takes
    ``segments`` instead of it.

    Takes what `PackedRows` gives for a batch, or any sequence of its rows. Returns, for B rows of
    L tokens, int64 tensors of shape ``(B, L)``:

    - ``input_ids``
    - ``position_ids``: restart at 0 at every segment, and at the padding
    - ``shift_labels``: the id that truly follows each position, -100 on padding
    - ``labels``: the same in the usual convention (position i holds the target of i - 1), for
      code that counts or shifts labels itself

    and ``segments``, a `Segments`: the same ends as numbers that the CPU knows, for our attention;
    a model without it takes no notice.
    """

    def __call__(self, rows: RowBatch | Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        from llmforge.segments import Segments

        batch = rows if isinstance(rows, RowBatch) else gather_rows(rows)
        input_ids = batch.input_ids
        count, length = shape = input_ids.shape
        total = count * length
        lengths, targets = batch.lengths, batch.targets
        gaps: list[tuple[int, int]] = []  # where padding begins and ends, counted over the whole batch
        if int(lengths.sum()) < total:
            # A row's padding goes on to its end and is one more segment, which predicts nothing.
            so_far = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.cumsum(lengths, out=so_far[1:])
            bounds = np.zeros(count + 1, dtype=np.int64)
            np.cumsum(batch.counts, out=bounds[1:])
            used = np.diff(so_far[bounds])
            (short,) = (used < length).nonzero()
            begins, stops = short * length + used[short], (short + 1) * length
            places = bounds[short + 1] + np.arange(len(short))
            kept = np.ones(len(lengths) + len(short), dtype=bool)
            kept[places] = False
            lengths, targets = (_spread(own, kept, rest) for own, rest in ((lengths, stops - begins), (targets, IGNORE)))
            gaps = list(zip(begins.tolist(), stops.tolist(), strict=True))
        ends = np.cumsum(lengths, dtype=np.int64)
        position_ids = np.arange(total)
        position_ids -= np.repeat(ends - lengths, lengths)
        # The target of a token is the next one, but for the last of each segment; shifted, they are the usual labels.
        shift_labels = np.empty(total, dtype=np.int64)
        shift_labels[:-1] = input_ids.reshape(-1)[1:]
        shift_labels[ends - 1] = targets
        for start, end in gaps:
            shift_labels[start:end] = IGNORE
        labels = np.empty(shape, dtype=np.int64)
        labels[:, 0] = IGNORE
        labels[:, 1:] = shift_labels.reshape(shape)[:, :-1]
        return {
            "input_ids": torch.from_numpy(input_ids),
            "position_ids": torch.from_numpy(position_ids.reshape(shape)),
            "labels": torch.from_numpy(labels),
            "shift_labels": torch.from_numpy(shift_labels.reshape(shape)),
            "segments": Segments(lengths.astype(np.int64, copy=False), (count, length)),
        }


def _spread(own: np.ndarray, kept: np.ndarray, rest: np.ndarray | int) -> np.ndarray:
    """`own` where `kept`, `rest` elsewhere; int64. `np.insert` does the same in ten times the time."""
    spread = np.empty(len(kept), dtype=np.int64)
    spread[kept] = own
    spread[~kept] = rest
    return spread
