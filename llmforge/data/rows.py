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

from llmforge.data.packing import Rows
from llmforge.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

_SEGMENT_COLUMNS = ("segment_lengths", "segment_targets", "segment_documents")
#: The index of a row that holds nothing but padding; it fills up the last step of an epoch.
BLANK = -1
#: What stands for a row's padding in a `RowBatch`: not yet a length, and torch's mark for no target.
_NO_LENGTH, _NO_TARGET = np.array([0], dtype=np.int32), np.array([-100], dtype=np.int32)


def features(block_size: int, dtype: np.dtype[Any]) -> Features:
    """The columns of a packed dataset."""
    from datasets import Features, List, Value

    return Features(
        {"input_ids": List(Value(dtype.name), length=block_size)} | {name: List(Value("int32")) for name in _SEGMENT_COLUMNS}
    )


def to_dataset(rows: Rows) -> Dataset:
    """`rows` as a Hugging Face dataset in memory."""
    import pyarrow as pa
    from datasets import Dataset

    block_size = rows.input_ids.shape[1]
    schema = features(block_size, rows.input_ids.dtype)
    columns = [pa.FixedSizeListArray.from_arrays(pa.array(rows.input_ids.reshape(-1)), block_size)]
    columns += [pa.ListArray.from_arrays(rows.offsets, values) for values in (rows.lengths, rows.targets, rows.documents)]
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
    """

    input_ids: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    row: Callable[[int], dict[str, np.ndarray]]

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
    )


class PackedRows:
    """A packed split, row by row or batch by batch, as views into the memory map.

    A row is a dict of 1-D arrays: ``input_ids`` (``block_size``) and, as long as the row has
    segments, ``segment_lengths``, ``segment_targets``, ``segment_documents``. Row `BLANK` has none.

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
        self._open()

    def _open(self) -> None:
        table = self.dataset.data.table
        self._ids: list[np.ndarray] = []
        self._segments: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in _SEGMENT_COLUMNS}
        self._starts: list[int] = []
        start = 0
        for chunk in table.column("input_ids").chunks:
            self._starts.append(start)
            start += len(chunk)
            self._ids.append(chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.block_size))
        # Every column is cut into the same chunks: they were written batch by batch.
        for name in _SEGMENT_COLUMNS:
            for chunk in table.column(name).chunks:
                self._segments[name].append((chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True)))
        dtype = self._ids[0].dtype if self._ids else np.dtype(np.uint16)
        nothing = np.zeros(0, dtype=np.int32)
        self._blank = {"input_ids": np.full(self.block_size, self.pad, dtype=dtype)} | dict.fromkeys(_SEGMENT_COLUMNS, nothing)

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
        for name in _SEGMENT_COLUMNS:
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
        return RowBatch(input_ids, counts, np.concatenate(lengths), np.concatenate(targets), lambda place: self[indices[place]])

    def __getstate__(self) -> dict[str, Any]:
        # A loader worker opens the map itself instead of receiving a copy of it.
        kept = ("dataset", "pad", "total", "_chosen", "block_size")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()
