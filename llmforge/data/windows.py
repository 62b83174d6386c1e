"""Rows for sliding-window evaluation: every token is predicted once, and with some context at least.

With windows of 6 and a stride of 2, of the document ``^abcdefgh`` (``^`` is the separator)::

    ^ a b c d e  →  predicts a b c d e f
        b c d e f g  →  predicts     g h      the context of what the first window saw, and two targets more
            d e f g h  →  predicts       ^

Without it a document longer than the context is cut into pieces, and the first tokens of each piece are predicted
from nearly nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmforge.data.collate import PackedCollator
from llmforge.data.packing import Rows, best_fit
from llmforge.data.rows import PackedRows, to_dataset
from llmforge.losses import IGNORE


@dataclass
class WindowRows:
    """Packed windows, for `WindowCollator`.

    Attributes:
        packed: The rows; a segment is a window.
        skips: For each row, how many targets at the start of each segment an earlier window has predicted.
    """

    packed: PackedRows
    skips: list[list[int]]

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.packed[index] | {"segment_skips": self.skips[index]}


@dataclass
class WindowCollator:
    """As `PackedCollator`, but that targets which an earlier window has predicted are none."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = PackedCollator()(rows)
        for number, row in enumerate(rows):
            start = 0
            for length, skip in zip(row["segment_lengths"].tolist(), row["segment_skips"], strict=True):
                batch["shift_labels"][number, start : start + skip] = IGNORE
                start += length
        batch["labels"][:, 1:] = batch["shift_labels"][:, :-1]
        return batch


def slide(
    documents: Sequence[np.ndarray], numbers: Sequence[int], block_size: int, stride: int, separator: int, pad: int
) -> WindowRows:
    """Cut documents into windows and pack those.

    Args:
        documents: The ids of each document, without a separator.
        numbers: What each is called in ``segment_documents``.
        block_size: Tokens in a window and in a row.
        stride: Targets that each later window adds, from 1 to `block_size`; with `block_size` windows do not overlap.
        separator: Starts every document, and is the target of every document's last token.
        pad: Fills rows up.
    """
    pieces: list[tuple[np.ndarray, int, int, int]] = []  # ids, target of the last, targets to skip, number
    for document, number in zip(documents, numbers, strict=True):
        whole = np.concatenate([[separator], document, [separator]]).astype(np.int64)
        done = 0
        while done < len(whole) - 1:
            start = done - (block_size - stride) if done else 0
            end = min(start + block_size, len(whole) - 1)
            pieces.append((whole[start:end], int(whole[end]), done - start, number))
            done = end
    bins = best_fit([len(ids) for ids, *_ in pieces], block_size)
    input_ids = np.full((len(bins), block_size), pad, dtype=np.uint32)
    for row, members in enumerate(bins):
        joined = np.concatenate([pieces[member][0] for member in members])
        input_ids[row, : len(joined)] = joined
    order = [member for members in bins for member in members]
    columns = ([len(pieces[i][0]) for i in order], [pieces[i][1] for i in order], [pieces[i][3] for i in order])
    offsets = np.cumsum([0, *map(len, bins)]).astype(np.int32)
    rows = Rows(input_ids, offsets, *(np.array(column, dtype=np.int32) for column in columns))
    return WindowRows(PackedRows(to_dataset(rows), pad=pad), [[pieces[member][2] for member in members] for members in bins])
