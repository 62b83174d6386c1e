"""Packed rows as people read them: the text of each segment, where it is from, and what follows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmforge.data.prepared import PreparedDataset
from llmforge.tokenization import load


@dataclass
class ShownSegment:
    """A segment of a row, decoded.

    Attributes:
        document: Name of the document it is from.
        start: Its first position in the row.
        length: Its tokens.
        text: What they say, special tokens included.
        target: The token that follows the last one.
    """

    document: str
    start: int
    length: int
    text: str
    target: str


@dataclass
class ShownRow:
    """A row, decoded.

    Attributes:
        split: Its split.
        row: Its number there.
        segments: What stands in it.
        padding: Positions that are left over.
    """

    split: str
    row: int
    segments: list[ShownSegment]
    padding: int


def show_rows(prepared: PreparedDataset, count: int) -> list[ShownRow]:
    """`count` rows of each split, evenly spread, decoded."""
    backend = load(prepared.path / "tokenizer").backend
    shown = []
    for split in prepared.dataset:
        rows = prepared.rows(split)
        total = 0 if rows is None else len(rows)
        for number in np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist():
            assert rows is not None
            row = rows[number]
            names = prepared.document_names(row["segment_documents"].tolist())
            segments, start = [], 0
            for name, length, target in zip(names, row["segment_lengths"].tolist(), row["segment_targets"].tolist(), strict=True):
                ids = row["input_ids"][start : start + length].tolist()
                text = backend.decode(ids, skip_special_tokens=False)
                segments.append(ShownSegment(name, start, length, text, backend.decode([target], skip_special_tokens=False)))
                start += length
            shown.append(ShownRow(split, number, segments, prepared.block_size - start))
    return shown
