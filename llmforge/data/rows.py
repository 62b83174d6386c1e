"""The row format on disk, and reading it without copying.

Rows lie in Arrow files that `datasets.load_from_disk` memory-maps. Reading one through
Python lists takes milliseconds; here a row is a view into the map.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.data.arrow import lists
from llmforge.data.packing import Rows
from llmforge.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

_SEGMENT_COLUMNS = ("segment_lengths", "segment_targets", "segment_documents")
#: The column of task data: how many positions in turn have a target that is not learnt and one that is, up to the last learnt.
LOSS_MASK = "loss_mask"
#: The index of a row that holds nothing but padding; it fills up the last step of an epoch.
BLANK = -1
#: What stands for a row's padding in a `RowBatch`: not yet a length, and torch's mark for no target.
_NO_LENGTH, _NO_TARGET = np.array([0], dtype=np.int32), np.array([-100], dtype=np.int32)


def features(block_size: int, dtype: np.dtype[Any], masked: bool = False) -> Features:
    """The columns of a packed dataset; `masked` adds that of task data."""
    from datasets import Features, List, Value

    names = (*_SEGMENT_COLUMNS, LOSS_MASK) if masked else _SEGMENT_COLUMNS
    return Features({"input_ids": List(Value(dtype.name), length=block_size)} | {name: List(Value("int32")) for name in names})


def mask_pieces(learnt: np.ndarray) -> np.ndarray:
    """A row's mask as a `LOSS_MASK`: of ``[no, no, yes, yes, no]`` it is ``[2, 2]``.

    Args:
        learnt: bool, ``(block_size,)``.
    """
    edges = np.flatnonzero(np.diff(learnt.astype(np.int8), prepend=0, append=0))  # where it turns, beginning with a no
    return np.diff(edges, prepend=0).astype(np.int32)


def mask_of(pieces: np.ndarray, block_size: int) -> np.ndarray:
    """The reverse of `mask_pieces`."""
    learnt = np.zeros(block_size, dtype=bool)
    known = np.repeat(np.arange(len(pieces)) % 2 == 1, pieces)
    learnt[: len(known)] = known
    return learnt


def to_dataset(rows: Rows) -> Dataset:
    """`rows` as a Hugging Face dataset in memory."""
    import pyarrow as pa
    from datasets import Dataset

    block_size = rows.input_ids.shape[1]
    schema = features(block_size, rows.input_ids.dtype, masked=rows.learnt is not None)
    columns = [pa.FixedSizeListArray.from_arrays(pa.array(rows.input_ids.reshape(-1)), block_size)]
    columns += [pa.ListArray.from_arrays(rows.offsets, values) for values in (rows.lengths, rows.targets, rows.documents)]
    if rows.learnt is not None:
        columns.append(lists([mask_pieces(row) for row in rows.learnt], np.int32))
    table = pa.Table.from_arrays(columns, schema=schema.arrow_schema)
    return Dataset(table)


@dataclass(eq=False)
class RowBatch(Sequence[dict[str, np.ndarray]]):
    """Rows of one batch, fetched together; to others than our collator, a sequence of rows.

    Attributes:
        input_ids: int64, ``(rows, block_size)``.
        counts: Segments of each row and one more, for its padding; ``(rows,)``.
        lengths: ``segment_lengths`` of all rows, one after the other, each followed by a 0 for the padding.
        targets: ``segment_targets``, likewise, with -100 for the padding.
        row: The row at a place of the batch, as `PackedRows` gives it.
        learnt: Of task data, bool ``(rows, block_size)``: which positions have a target that is learnt; None is all.
    """

    input_ids: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    row: Callable[[int], dict[str, np.ndarray]]
    learnt: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, place: Any) -> Any:
        chosen = range(len(self))[place]
        return self.row(chosen) if isinstance(chosen, int) else [self.row(one) for one in chosen]


def gather_rows(rows: Sequence[dict[str, Any]]) -> RowBatch:
    """`rows` as one batch."""
    return RowBatch(
        np.stack([row["input_ids"] for row in rows]).astype(np.int64),
        np.array([len(row["segment_lengths"]) + 1 for row in rows]),
        np.concatenate([part for row in rows for part in (row["segment_lengths"], _NO_LENGTH)]),
        np.concatenate([part for row in rows for part in (row["segment_targets"], _NO_TARGET)]),
        rows.__getitem__,
        _gather_masks(rows) if any(LOSS_MASK in row for row in rows) else None,
    )


def _gather_masks(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    size = len(rows[0]["input_ids"])
    masks = [mask_of(np.asarray(row[LOSS_MASK]), size) if LOSS_MASK in row else np.ones(size, dtype=bool) for row in rows]
    return np.stack(masks)


class PackedRows:
    """A packed split, row by row or batch by batch, as views into the memory map.

    A row is a dict of 1-D arrays: ``input_ids`` (``block_size``) and, as long as the row has
    segments, ``segment_lengths``, ``segment_targets``, ``segment_documents``. Row `BLANK` has none. Rows of
    task data have a ``loss_mask`` as well.

    Args:
        dataset: A split that `llmforge prepare` made.
        pad: The id that blank rows are filled with.
        most: Take only so many rows, evenly spread over the split.

    Raises:
        DataError: The dataset has other columns.
    """

    def __init__(self, dataset: Dataset, pad: int, most: int | None = None):
        missing = {"input_ids", *_SEGMENT_COLUMNS} - set(dataset.column_names)
        if missing:
            raise DataError(f"The dataset has no column {sorted(missing)[0]}.", "Make it with `llmforge prepare`.")
        if dataset._indices is not None:  # select() and shuffle() leave the table as it is
            dataset = dataset.flatten_indices()
        self.dataset = dataset
        self.pad = pad
        total = len(dataset)
        self.total = total
        self._chosen = np.linspace(0, total - 1, most).round().astype(np.int64) if most and most < total else None
        self.block_size = int(dataset.features["input_ids"].length)
        self._columns = (*_SEGMENT_COLUMNS, LOSS_MASK) if LOSS_MASK in dataset.column_names else _SEGMENT_COLUMNS
        self._open()

    def _open(self) -> None:
        table = self.dataset.data.table
        self._ids: list[np.ndarray] = []
        self._segments: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in self._columns}
        self._starts: list[int] = []
        start = 0
        for chunk in table.column("input_ids").chunks:
            self._starts.append(start)
            start += len(chunk)
            self._ids.append(chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.block_size))
        # Every column is cut into the same chunks: they were written batch by batch.
        for name in self._columns:
            for chunk in table.column(name).chunks:
                self._segments[name].append((chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True)))
        dtype = self._ids[0].dtype if self._ids else np.dtype(np.uint16)
        nothing = np.zeros(0, dtype=np.int32)
        self._blank = {"input_ids": np.full(self.block_size, self.pad, dtype=dtype)} | dict.fromkeys(self._columns, nothing)

    def __len__(self) -> int:
        return self.total if self._chosen is None else len(self._chosen)

    def _find(self, index: int) -> tuple[int, int]:
        """The chunk that holds row `index`, and its place there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._chosen is not None:
            index = int(self._chosen[index])
        chunk = bisect.bisect_right(self._starts, index) - 1
        return chunk, index - self._starts[chunk]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index == BLANK:
            return self._blank
        chunk, local = self._find(index)
        row = {"input_ids": self._ids[chunk][local]}
        for name in self._columns:
            offsets, values = self._segments[name][chunk]
            row[name] = values[offsets[local] : offsets[local + 1]]
        return row

    def __getitems__(self, indices: list[int]) -> RowBatch:
        """A batch of rows; `torch.utils.data` calls this where there is one."""
        input_ids = np.empty((len(indices), self.block_size), dtype=np.int64)
        counts = np.ones(len(indices), dtype=np.int64)
        lengths: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        own_lengths, own_targets = self._segments["segment_lengths"], self._segments["segment_targets"]
        for place, index in enumerate(indices):
            if index == BLANK:
                input_ids[place] = self.pad
                lengths.append(_NO_LENGTH)
                targets.append(_NO_TARGET)
                continue
            chunk, local = self._find(index)
            input_ids[place] = self._ids[chunk][local]
            offsets, values = own_lengths[chunk]
            start, end = offsets[local], offsets[local + 1]
            lengths += (values[start:end], _NO_LENGTH)
            counts[place] += end - start
            offsets, values = own_targets[chunk]
            targets += (values[offsets[local] : offsets[local + 1]], _NO_TARGET)
        learnt = np.stack([self._mask(index) for index in indices]) if LOSS_MASK in self._columns else None
        return RowBatch(
            input_ids, counts, np.concatenate(lengths), np.concatenate(targets), lambda place: self[indices[place]], learnt
        )

    def _mask(self, index: int) -> np.ndarray:
        if index == BLANK:
            return np.zeros(self.block_size, dtype=bool)
        chunk, local = self._find(index)
        offsets, values = self._segments[LOSS_MASK][chunk]
        return mask_of(values[offsets[local] : offsets[local + 1]], self.block_size)

    def __getstate__(self) -> dict[str, Any]:
        # A loader worker opens the map itself instead of receiving a copy of it.
        kept = ("dataset", "pad", "total", "_chosen", "block_size", "_columns")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
