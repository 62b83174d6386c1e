"""What a corpus is between its files and its dataset: cleaned texts and their token ids, in files of the cache.

A shard is named by what it was made from, so what has not changed is found and not made again,
also after a kill: each is written aside and renamed. Columns that concern every document of a
corpus are read alone; texts and ids are read batch by batch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmforge.data.documents import Account, Document
from llmforge.storage import new_file, sweep_partial

#: Bytes of text, or tokens, in a batch of a shard: the unit that is in memory at a time.
BATCH = 4 * 2**20
#: Days after which a shard that was not used is removed from the cache.
_KEPT_DAYS = 30
_ACCOUNT = b"account"
_SUFFIX = ".arrow"


def digest(parts: Iterable[str | bytes]) -> str:
    """32 hexadecimal digits of the parts and their borders."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()


def _text_schema(signature: int) -> pa.Schema:
    return pa.schema(
        {
            "name": pa.string(),
            "group": pa.string(),
            "kind": pa.string(),
            "text": pa.large_string(),
            "ids": pa.large_list(pa.uint32()),
            "size": pa.int64(),
            "hash": pa.binary(16),
            "position": pa.float64(),
            "signature": pa.list_(pa.uint32(), signature),
            "blocks": pa.list_(pa.uint64()),
        }
    )


@dataclass
class TextShardWriter:
    """Collects the documents of one shard; `text_shard` makes it."""

    sink: pa.ipc.RecordBatchFileWriter
    schema: pa.Schema
    account: Account = field(default_factory=Account)
    _columns: dict[str, list[Any]] = field(default_factory=dict)
    _pending: int = 0

    def add(self, document: Document, digest: bytes, position: float, signature: np.ndarray, blocks: np.ndarray) -> None:
        """Take `document` with its hash, its place among the splits, its MinHash signature and the hashes of its blocks."""
        size = len(document.text.encode())
        marks = (size, digest, position, signature, blocks)
        values = (document.name, document.group, document.kind, document.text, document.ids, *marks)
        for name, value in zip(self.schema.names, values, strict=True):
            self._columns.setdefault(name, []).append(value)
        self._pending += size + (0 if document.ids is None else 4 * len(document.ids))
        if self._pending >= BATCH:
            self._write()

    def _write(self, metadata: dict[bytes, bytes] | None = None) -> None:
        columns = [pa.array(self._columns.get(item.name, []), type=item.type) for item in self.schema]
        batch = pa.record_batch(columns, schema=self.schema)
        self.sink.write_batch(batch, custom_metadata=metadata)
        self._columns, self._pending = {}, 0

    def finish(self) -> None:
        """Write what is left, and the account."""
        self._write({_ACCOUNT: json.dumps(self.account.as_json()).encode()})


@contextmanager
def text_shard(path: Path, signature: int) -> Iterator[TextShardWriter]:
    """A writer of the text shard at `path`, which is there when the block has ended well.

    Args:
        path: Its file in the cache.
        signature: Length of the MinHash signatures; 0 where there are none.
    """
    schema = _text_schema(signature)
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with new_file(path) as temporary, pa.ipc.new_file(str(temporary), schema, options=options) as sink:
        writer = TextShardWriter(sink, schema)
        yield writer
        writer.finish()


class _Shard:
    """A shard's file, read a column and a batch at a time."""

    def __init__(self, path: Path):
        self.path = path

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The batches, with `columns` only."""
        with pa.memory_map(str(self.path)) as file:
            schema = pa.ipc.open_file(file).schema
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns], use_threads=False)
            reader = pa.ipc.open_file(file, options=options)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


class TextShard(_Shard):
    """Cleaned documents of a part of one source."""

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column; for the small ones."""
        batches = list(self.batches([name]))
        return pa.chunked_array([batch.column(0) for batch in batches])

    @cached_property
    def account(self) -> Account:
        """What was read for it and what was not."""
        with pa.memory_map(str(self.path)) as file:
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=[0]))
            _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        return Account.from_json(json.loads(metadata[_ACCOUNT]))


class IdsShard(_Shard):
    """The token ids of a text shard's documents, memory-mapped."""

    def arrays(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each batch the ids of its documents, one after the other, and how many each document has (int64)."""
        with pa.memory_map(str(self.path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                column = reader.get_batch(number).column("ids")
                offsets = column.offsets.to_numpy()
                yield column.values.to_numpy(zero_copy_only=True)[offsets[0] : offsets[-1]], np.diff(offsets)


def write_ids(path: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]], dtype: np.dtype[Any]) -> IdsShard:
    """Write the ids shard at `path` from flat ids and lengths, a batch at a time."""
    schema = pa.schema({"ids": pa.large_list(pa.from_numpy_dtype(dtype))})
    with new_file(path) as temporary, pa.ipc.new_file(str(temporary), schema) as sink:
        for flat, lengths in batches:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat.astype(dtype, copy=False)))
            sink.write_batch(pa.record_batch([column], schema=schema))
    return IdsShard(path)


def shard_path(root: Path, kind: str, key: str) -> Path:
    """Where the shard of `key` lies: in one of 256 folders, for file systems that mind many files in one."""
    return root / "shards" / kind / key[:2] / f"{key}{_SUFFIX}"


def sweep_shards(root: Path) -> None:
    """Remove shards that no dataset was made from for `_KEPT_DAYS`, and what killed processes left half-written."""
    oldest = time.time() - _KEPT_DAYS * 86_400
    for folder in (root / "shards").glob("*/*"):
        sweep_partial(folder)
        for path in folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
