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
    - ``shift_labels``: the id that truly follows each position, -100 on padding and where task data says that it is not learnt
    - ``labels``: the same in the usual convention (position i holds the target of i - 1), for
      code that counts or shifts labels itself

    and ``segments``, a `Segments`: the same ends as numbers that the CPU knows, for our attention;
    a model without it takes no notice.

    Attributes:
        pad: The id that fills rows up, where the model has no row in its embeddings for it.
        filler: What the model is given in its place; it predicts nothing there.
    """

    pad: int | None = None
    filler: int = 0

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> PackedCollator:
        """For rows made with `tokenizer`, whose padding may be one more token than `model` knows: published models have none."""
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id < model.config.vocab_size:
            return cls()
        return cls(tokenizer.pad_token_id, tokenizer.eos_token_id)

    def __call__(self, rows: RowBatch | Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        from llmforge.segments import Segments

        batch = rows if isinstance(rows, RowBatch) else gather_rows(rows)
        input_ids = batch.input_ids
        if self.pad is not None:
            input_ids[input_ids == self.pad] = self.filler
        count, length = shape = input_ids.shape
        total = count * length
        # A row's last place is for its padding, which goes on to the row's end and predicts nothing.
        stops = np.cumsum(batch.counts)
        padding = length - np.add.reduceat(batch.lengths, stops - batch.counts)
        lengths = batch.lengths.astype(np.int64)
        lengths[stops - 1] = padding
        real = lengths > 0
        lengths, targets = lengths[real], batch.targets[real]
        ends = np.cumsum(lengths)
        position_ids = np.arange(total)
        position_ids -= np.repeat(ends - lengths, lengths)
        # The target of a token is the next one, but for the last of each segment; shifted, they are the usual labels.
        shift_labels = np.empty(total, dtype=np.int64)
        shift_labels[:-1] = input_ids.reshape(-1)[1:]
        shift_labels[ends - 1] = targets
        for row, rest in enumerate(padding.tolist(), start=1):
            shift_labels[row * length - rest : row * length] = IGNORE
        if batch.learnt is not None:
            shift_labels[~batch.learnt.reshape(-1)] = IGNORE
        labels = np.empty(shape, dtype=np.int64)
        labels[:, 0] = IGNORE
        labels[:, 1:] = shift_labels.reshape(shape)[:, :-1]
        return {
            "input_ids": torch.from_numpy(input_ids),
            "position_ids": torch.from_numpy(position_ids.reshape(shape)),
            "labels": torch.from_numpy(labels),
            "shift_labels": torch.from_numpy(shift_labels.reshape(shape)),
            "segments": Segments(lengths, (count, length)),
        }
