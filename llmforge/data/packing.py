"""Packing documents into rows of one length. Pure functions on token ids.

With rows of 6, ``^`` for the separator, and the documents ``abc``, ``defghij`` and ``k``::

    input_ids          segment_lengths   segment_targets
    ^ d e f g h        [6]               [i]      a piece's target is the token that really follows
    ^ a b c i j        [4, 2]            [^, ^]   a document ends with the separator as target;
    ^ k _ _ _ _        [2]               [^]      a later piece carries none; _ is padding

No label is lost at the end of a row, and no document is cut unless it is longer than one.

Documents come as flat ids and their lengths, in batches of any size, and are packed in windows:
what is in memory is one window, however large the corpus.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmforge.data.bins import first_places

#: Tokens that are packed together unless told otherwise; memory is some six bytes for each.
WINDOW_TOKENS = 2**26
#: Tokens of the rows that are made at a time; the numpy index that gathers them takes eight bytes each.
_BLOCK_TOKENS = 2**20
#: Tokens from which a run is copied as one; shorter ones are gathered token by token.
_LONG_RUN = 80


@dataclass
class Rows:
    """Packed rows, as arrays. Segment columns are flat; row ``i`` has those from ``offsets[i]`` to ``offsets[i + 1]``.

    Attributes:
        input_ids: ``(rows, block_size)``, filled up with the pad id.
        offsets: Where each row's segments begin and the last one's end; int32, ``(rows + 1,)``.
        lengths: Length of each segment; int32.
        targets: The id that follows each segment's last token; int32.
        documents: The number of the document that each segment is from; int32.
        learnt: Of task data, which positions have a target that is learnt; bool, ``(rows, block_size)``. None is all.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    learnt: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def tokens(self) -> int:
        """Tokens that are no padding, separators included."""
        return int(self.lengths.sum(dtype=np.int64))

    @property
    def segment_lengths(self) -> list[list[int]]:
        """Per row, the lengths of its segments."""
        return self._by_row(self.lengths)

    @property
    def segment_targets(self) -> list[list[int]]:
        """Per row, the id that follows each segment's last token."""
        return self._by_row(self.targets)

    @property
    def segment_documents(self) -> list[list[int]]:
        """Per row, the number of the document each segment is from."""
        return self._by_row(self.documents)

    def _by_row(self, values: np.ndarray) -> list[list[int]]:
        flat = values.tolist()
        return [flat[start:end] for start, end in itertools.pairwise(self.offsets.tolist())]


@dataclass
class Batch:
    """Some documents.

    Attributes:
        ids: Their ids one after the other, without separators; integers, may be memory-mapped.
        lengths: Tokens of each; int64. Their sum is the length of `ids`.
        numbers: What each is called in a row's ``segment_documents``.
    """

    ids: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)


def take(batch: Batch, chosen: np.ndarray) -> Batch:
    """The documents at the places `chosen`, in that order; a place may come several times."""
    ends = np.cumsum(batch.lengths)
    lengths = batch.lengths[chosen]
    ids = np.empty(int(lengths.sum()), dtype=batch.ids.dtype)
    # A run of neighbours is copied as one: most documents of a corpus are of the training split.
    cuts = np.flatnonzero(np.diff(chosen) != 1) + 1
    place = 0
    for first, last in zip(np.r_[0, cuts], np.r_[cuts, len(chosen)], strict=True) if len(chosen) else ():
        start = int(ends[chosen[first]] - batch.lengths[chosen[first]])
        run = batch.ids[start : int(ends[chosen[last - 1]])]
        ids[place : place + len(run)] = run
        place += len(run)
    return Batch(ids, lengths, batch.numbers[chosen])


def pack_split(
    batches: Iterable[Batch], block_size: int, separator: int, pad: int, window_tokens: int = WINDOW_TOKENS
) -> Iterator[Rows]:
    """Pack documents that come in batches, a window of them at a time.

    A window ends before the document that would make it larger than `window_tokens`, so that the rows depend on the
    documents and their order alone, not on how they were batched. In memory are a window, the batch at hand, and a
    few MiB of rows; a single document longer than a window is a window of its own.

    Args:
        batches: Documents in order.
        block_size: Tokens in a row.
        separator: Starts every document, and is the target of every document's last token.
        pad: Fills rows up; never a target.
        window_tokens: Tokens, separators included, that are packed together.

    Yields:
        Rows, some thousands at a time.
    """
    waiting: list[Batch] = []
    size = 0
    for batch in batches:
        sums = np.cumsum(batch.lengths + 1)
        places = np.concatenate(([0], np.cumsum(batch.lengths)))
        done = 0
        while done < len(batch):
            before = int(sums[done - 1]) if done else 0
            fits = int(np.searchsorted(sums, before + window_tokens - size, side="right"))
            if fits <= done:
                if waiting:
                    yield from _pack_window(waiting, block_size, separator, pad)
                    waiting, size = [], 0
                    continue
                fits = done + 1
            ids = batch.ids[places[done] : places[fits]]
            waiting.append(Batch(ids, batch.lengths[done:fits], batch.numbers[done:fits]))
            size += int(sums[fits - 1]) - before
            done = fits
    if waiting:
        yield from _pack_window(waiting, block_size, separator, pad)


def pack(documents: Sequence[np.ndarray], numbers: Sequence[int], block_size: int, separator: int, pad: int) -> Rows:
    """Pack documents into rows of `block_size`, all at once.

    Args:
        documents: The ids of each document, without a separator; an empty one is a lone separator.
        numbers: What each document is called in `segment_documents`.
        block_size: Tokens in a row.
        separator: Starts every document, and is the target of every document's last token.
        pad: Fills rows up; never a target.
    """
    dtype = np.result_type(*{document.dtype for document in documents}) if documents else np.dtype(np.uint16)
    ids = np.concatenate([np.zeros(0, dtype), *documents], dtype=dtype)
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    batch = Batch(ids, lengths, np.asarray(numbers, dtype=np.int64))
    parts = list(pack_split([batch], block_size, separator, pad, int(lengths.sum()) + len(lengths)))
    if not parts:
        nothing = np.zeros(0, dtype=np.int32)
        return Rows(np.zeros((0, block_size), dtype=dtype), np.zeros(1, dtype=np.int32), nothing, nothing, nothing)
    starts = np.cumsum([0, *(len(part.lengths) for part in parts)])
    return Rows(
        np.concatenate([part.input_ids for part in parts]),
        np.concatenate([[0], *(part.offsets[1:] + start for part, start in zip(parts, starts, strict=False))]).astype(np.int32),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("lengths", "targets", "documents")),
    )


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: which items go into which bin.

    Args:
        lengths: Sizes of the items, each at least 1 and at most `capacity`.
        capacity: Size of a bin.

    Returns:
        Indices of the items of each bin, in order of placement; the same for the same lengths.
    """
    bins, places = first_places(np.asarray(lengths, dtype=np.int64), capacity)
    order = np.lexsort((places, bins))
    ends = np.searchsorted(bins[order], np.arange(1, bins.max(initial=-1) + 1))
    return [members.tolist() for members in np.split(order, ends)] if len(order) else []


def _cut(ids: np.ndarray, lengths: np.ndarray, block_size: int, separator: int) -> dict[str, np.ndarray]:
    """The pieces that documents with their separators are cut into, a value each of every array.

    ``length`` counts the separator, which is there where ``opens``; ``source`` is where the rest begins in `ids`.
    """
    counts = lengths // block_size + 1  # the separator counts: (lengths + 1) / block_size, rounded up
    document = np.repeat(np.arange(len(lengths)), counts)
    ordinal = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    opens = ordinal == 0
    begins = (np.cumsum(lengths) - lengths)[document]
    source = begins + ordinal * block_size - ~opens
    length = np.minimum(lengths[document] + 1 - ordinal * block_size, block_size)
    target = np.full(len(document), separator, dtype=np.int32)
    cut = ordinal < counts[document] - 1
    target[cut] = ids[source[cut] + length[cut] - opens[cut]]
    return {"document": document, "opens": opens, "source": source, "length": length, "target": target}


def _gather(into: np.ndarray, goals: np.ndarray, ids: np.ndarray, sources: np.ndarray, counts: np.ndarray) -> None:
    """Copy runs of ids: `counts` of them, from `sources` to `goals`."""
    if counts.sum() > _LONG_RUN * len(counts):
        for goal, source, count in zip(goals.tolist(), sources.tolist(), counts.tolist(), strict=True):
            into[goal : goal + count] = ids[source : source + count]
        return
    before = np.cumsum(counts) - counts
    every = np.arange(int(counts.sum()))
    # Each token of a run lies as far from the run's first one as before.
    into[np.repeat(goals - before, counts) + every] = ids[np.repeat(sources - before, counts) + every]


def _pack_window(parts: list[Batch], block_size: int, separator: int, pad: int) -> Iterator[Rows]:
    ids = parts[0].ids if len(parts) == 1 else np.concatenate([part.ids for part in parts])
    lengths = np.concatenate([part.lengths for part in parts])
    numbers = np.concatenate([part.numbers for part in parts]).astype(np.int32)
    parts.clear()  # the window's own copy is enough
    pieces = _cut(ids, lengths, block_size, separator)
    bins, places = first_places(pieces["length"], block_size)
    goals = bins * block_size + places
    order = np.argsort(goals)
    goals = goals[order]
    ends = np.concatenate(([0], np.cumsum(np.bincount(bins))))
    step = max(_BLOCK_TOKENS // block_size, 1)
    for first in range(0, len(ends) - 1, step):
        last = min(first + step, len(ends) - 1)
        own = slice(int(ends[first]), int(ends[last]))
        piece = {name: values[order[own]] for name, values in pieces.items()}
        starts = goals[own] - first * block_size
        flat = np.full((last - first) * block_size, pad, dtype=ids.dtype)
        flat[starts[piece["opens"]]] = separator
        copied = piece["length"] - piece["opens"]
        _gather(flat, starts + piece["opens"], ids, piece["source"], copied)
        yield Rows(
            flat.reshape(-1, block_size),
            (ends[first : last + 1] - ends[first]).astype(np.int32),
            piece["length"].astype(np.int32),
            piece["target"],
            numbers[piece["document"]],
        )
