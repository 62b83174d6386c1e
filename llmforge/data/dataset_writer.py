"""Writing packed rows as a `datasets.DatasetDict` on disk, block by block and without importing `datasets`.

The layout is the one of ``DatasetDict.save_to_disk`` (datasets 5): ``dataset_dict.json``, and a folder a split with
``dataset_info.json``, ``state.json`` and Arrow streams ``data-00000-of-00001.arrow``. What is held is the block at hand.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.data.arrow import numbers
from llmforge.data.packing import Rows
from llmforge.storage.records import json_text

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes after which a split goes on in another file: what `datasets` takes for its own.
FILE_BYTES = 500_000_000
_SEGMENT_COLUMNS = ("segment_lengths", "segment_targets", "segment_documents")


def write_dataset_dict(folder: Path, splits: list[str]) -> None:
    """Say which splits lie in `folder`, so that `datasets.load_from_disk` finds them."""
    (folder / "dataset_dict.json").write_text(json_text({"splits": splits}), encoding="utf-8")


def features(block_size: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """The columns of a packed dataset as `datasets` spells them in JSON."""
    columns: dict[str, Any] = {
        "input_ids": {"feature": {"dtype": dtype.name, "_type": "Value"}, "length": block_size, "_type": "List"}
    }
    for name in _SEGMENT_COLUMNS:
        columns[name] = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"}
    return columns


class SplitWriter:
    """Writes the rows of one split; a context manager.

    ::

        with SplitWriter(folder / "train", block_size=1024, dtype=np.dtype("uint16")) as writer:
            for rows in pack_split(batches, 1024, separator, pad):
                writer.write(rows)

    The files get their names, and the split its ``state.json``, at the end of a block without an exception.

    Args:
        folder: The split's folder; must not hold anything yet.
        block_size: Tokens in a row.
        dtype: Type of the ids.
        file_bytes: Bytes after which another file is begun.

    Attributes:
        rows: Rows written so far.
        tokens: Tokens in them that are no padding, separators included.

    Raises:
        OSError: The disk is full, say; `storage.new_folder` around it takes away what was written.
    """

    def __init__(self, folder: Path, block_size: int, dtype: np.dtype[Any], file_bytes: int = FILE_BYTES):
        self.folder = folder
        self.rows = 0
        self.tokens = 0
        self._block_size = block_size
        self._dtype = np.dtype(dtype)
        self._file_bytes = file_bytes
        self._features = features(block_size, self._dtype)
        self._digest = hashlib.blake2b(json.dumps(self._features).encode(), digest_size=8)
        self._files: list[Path] = []
        self._size = 0
        self._sink: Any = None
        self._stream: Any = None

    def __enter__(self) -> SplitWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        if kind is None:
            self._finish()

    def write(self, rows: Rows) -> None:
        """Append `rows`, all of them to one file."""
        import pyarrow as pa

        if not len(rows):
            return
        ids = np.ascontiguousarray(rows.input_ids, dtype=self._dtype).reshape(-1)
        segments = [np.ascontiguousarray(values, dtype=np.int32) for values in (rows.lengths, rows.targets, rows.documents)]
        offsets = np.ascontiguousarray(rows.offsets, dtype=np.int32)
        size = ids.nbytes + 3 * (segments[0].nbytes + offsets.nbytes)
        if self._size and self._size + size > self._file_bytes:
            self._close()
            self._open()
        columns = [pa.FixedSizeListArray.from_arrays(numbers(ids), self._block_size)]
        columns += [pa.ListArray.from_arrays(numbers(offsets), numbers(values)) for values in segments]
        self._stream.write_batch(pa.record_batch(columns, schema=self._schema()))
        for values in (ids, offsets, *segments):
            self._digest.update(values.data)
        self._size += size
        self.rows += len(rows)
        self.tokens += rows.tokens

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        fields = [pa.field("input_ids", pa.list_(pa.from_numpy_dtype(self._dtype), self._block_size))]
        fields += [pa.field(name, pa.list_(pa.int32())) for name in _SEGMENT_COLUMNS]
        return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": self._features}})})

    def _open(self) -> None:
        import pyarrow as pa

        # How many files there will be, which their names tell, is known at the end.
        path = self.folder / f"data-{len(self._files):05d}.arrow"
        self._files.append(path)
        self._sink = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, self._schema())
        self._size = 0

    def _close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._sink.close()

    def _finish(self) -> None:
        names = [f"data-{number:05d}-of-{len(self._files):05d}.arrow" for number in range(len(self._files))]
        for path, name in zip(self._files, names, strict=True):
            path.rename(self.folder / name)
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            # The name under which `datasets` caches what is made of these rows: the same for the same content.
            "_fingerprint": self._digest.hexdigest(),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        info = {"citation": "", "description": "", "features": self._features, "homepage": "", "license": ""}
        for name, value in {"dataset_info.json": info, "state.json": state}.items():
            (self.folder / name).write_text(json_text(value), encoding="utf-8")
