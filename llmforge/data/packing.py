"""Packing documents into rows of one length. Pure functions on token ids.

With rows of 6, ``^`` for the separator, and the documents ``abc``, ``defghij`` and ``k``::

    input_ids          segment_lengths   segment_targets
    ^ d e f g h        [6]               [i]      a piece's target is the token that really follows
    ^ a b c i j        [4, 2]            [^, ^]   a document ends with the separator as target;
    ^ k _ _ _ _        [2]               [^]      a later piece carries none; _ is padding

No label is lost at the end of a row, and no document is cut unless it is longer than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Rows:
    """Packed rows, as arrays.

    Attributes:
        input_ids: ``(rows, block_size)``, filled up with the pad id.
        segment_lengths: Per row, the lengths of its segments.
        segment_targets: Per row, the id that follows each segment's last token.
        segment_documents: Per row, the number of the document each segment is from.
    """

    input_ids: np.ndarray
    segment_lengths: list[list[int]]
    segment_targets: list[list[int]]
    segment_documents: list[list[int]]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: which items go into which bin.

    Each item goes into the fullest bin it fits in. The bins in use at each remaining
    capacity are lists, and which lists are not empty is one integer's bits, so that the
    tightest one is found by arithmetic instead of a search.

    Args:
        lengths: Sizes of the items, each at least 1 and at most `capacity`.
        capacity: Size of a bin.

    Returns:
        Indices of the items of each bin, in order of placement; the same for the same lengths.
    """
    bins: list[list[int]] = []
    free: list[list[int]] = [[] for _ in range(capacity + 1)]
    occupied = 0
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    for item in order.tolist():
        size = int(lengths[item])
        fitting = occupied >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            number = free[room].pop()
            if not free[room]:
                occupied &= ~(1 << room)
            bins[number].append(item)
        else:
            room, number = capacity, len(bins)
            bins.append([item])
        if room > size:
            free[room - size].append(number)
            occupied |= 1 << (room - size)
    return bins


def pack(documents: Sequence[np.ndarray], numbers: Sequence[int], block_size: int, separator: int, pad: int) -> Rows:
    """Pack documents into rows of `block_size`.

    Args:
        documents: The ids of each document, without a separator; an empty one is a lone separator.
        numbers: What each document is called in `segment_documents`.
        block_size: Tokens in a row.
        separator: Starts every document, and is the target of every document's last token.
        pad: Fills rows up; never a target.
    """
    dtype = np.result_type(*{document.dtype for document in documents}) if documents else np.uint16
    pieces: list[tuple[np.ndarray, int, int]] = []  # ids, target, document number
    for document, number in zip(documents, numbers, strict=True):
        ids = np.concatenate([np.array([separator], dtype=dtype), document])
        for start in range(0, len(ids), block_size):
            piece = ids[start : start + block_size]
            following = start + block_size
            pieces.append((piece, int(ids[following]) if following < len(ids) else separator, number))
    bins = best_fit([len(piece) for piece, _, _ in pieces], block_size)
    rows = Rows(np.full((len(bins), block_size), pad, dtype=dtype), [], [], [])
    for row, members in zip(rows.input_ids, bins, strict=True):
        chosen = [pieces[member] for member in members]
        filled = np.concatenate([piece for piece, _, _ in chosen])
        row[: len(filled)] = filled
        rows.segment_lengths.append([len(piece) for piece, _, _ in chosen])
        rows.segment_targets.append([target for _, target, _ in chosen])
        rows.segment_documents.append([number for _, _, number in chosen])
    return rows
