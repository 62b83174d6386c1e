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

from llmforge.data.arrow import as_numpy, lists, numbers, strings
from llmforge.data.documents import Account, Document
from llmforge.storage.files import Placing, new_file, sweep_partial

#: Bytes of text, or tokens, in a batch of a shard: the unit that is in memory at a time.
BATCH = 4 * 2**20
#: Days after which what was not used is removed from the cache.
KEPT_DAYS = 30
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
            "is_ids": pa.uint8(),
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
    signature: int
    account: Account = field(default_factory=Account)
    _waiting: list[tuple[Document, bytes, float, np.ndarray, np.ndarray]] = field(default_factory=list)
    _size: int = 0

    def add(self, document: Document, digest: bytes, position: float, signature: np.ndarray, blocks: np.ndarray) -> None:
        """Take `document` with its hash, its place among the splits, its MinHash signature and the hashes of its blocks."""
        self._waiting.append((document, digest, position, signature, blocks))
        self._size += len(document.text) + (0 if document.ids is None else 4 * len(document.ids))
        if self._size >= BATCH:
            self._write()

    def _write(self, metadata: dict[bytes, bytes] | None = None) -> None:
        documents = [waiting[0] for waiting in self._waiting]
        digests = [digest for _, digest, _, _, _ in self._waiting]
        positions = np.array([position for _, _, position, _, _ in self._waiting], dtype=np.float64)
        blocks = [found for _, _, _, _, found in self._waiting]
        texts = strings([document.text for document in documents], pa.large_string())
        ids = [np.zeros(0, np.uint32) if document.ids is None else document.ids for document in documents]
        columns = {
            "name": strings([document.name for document in documents], pa.string()),
            "group": strings([document.group for document in documents], pa.string()),
            "kind": strings([document.kind for document in documents], pa.string()),
            "text": texts,
            "ids": lists(ids, np.uint32, large=True),
            "is_ids": numbers(np.array([document.ids is not None for document in documents], dtype=np.uint8)),
            "size": numbers(np.diff(np.frombuffer(texts.buffers()[1], np.int64))),
            "hash": pa.Array.from_buffers(pa.binary(16), len(documents), [None, pa.py_buffer(b"".join(digests))]),
            "position": numbers(positions),
            "signature": self._signatures([signature for _, _, _, signature, _ in self._waiting]),
            "blocks": lists(blocks, np.uint64),
        }
        schema = _text_schema(self.signature)
        self.sink.write_batch(pa.record_batch([columns[name] for name in schema.names], schema=schema), custom_metadata=metadata)
        self._waiting, self._size = [], 0

    def _signatures(self, values: Sequence[np.ndarray]) -> pa.Array:
        kind = pa.list_(pa.uint32(), self.signature)
        if not self.signature:
            return pa.nulls(len(values), kind)
        flat = np.concatenate([np.zeros(0, np.uint32), *values]).astype(np.uint32, copy=False)
        return pa.FixedSizeListArray.from_arrays(numbers(flat), type=kind)

    def finish(self) -> None:
        """Write what is left, and the account."""
        self._write({_ACCOUNT: json.dumps(self.account.as_json()).encode()})


@contextmanager
def text_shard(path: Path, signature: int, placing: Placing | None = None) -> Iterator[TextShardWriter]:
    """A writer of the text shard at `path`, which is there when the block has ended well.

    Args:
        path: Its file in the cache.
        signature: Length of the MinHash signatures; 0 where there are none.
        placing: Puts it in place later, with others.
    """
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with new_file(path, placing) as temporary, pa.ipc.new_file(str(temporary), _text_schema(signature), options=options) as sink:
        writer = TextShardWriter(sink, signature)
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

    @cached_property
    def _small(self) -> tuple[pa.Table, Account]:
        # All that concerns every document, and the account, from one look at the file.
        with pa.memory_map(str(self.path)) as file:
            schema = pa.ipc.open_file(file).schema
            wanted = [place for place, name in enumerate(schema.names) if name not in ("text", "ids")]
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False))
            found = [reader.get_batch_with_custom_metadata(number) for number in range(reader.num_record_batches)]
        return pa.Table.from_batches([batch for batch, _ in found]), Account.from_json(json.loads(found[-1][1][_ACCOUNT]))

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column; not of the texts."""
        return self._small[0].column(name)

    @property
    def account(self) -> Account:
        """What was read for it and what was not."""
        return self._small[1]


class IdsShard(_Shard):
    """The token ids of a text shard's documents, memory-mapped."""

    @cached_property
    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each batch the ids of its documents, one after the other, and how many each document has (int64)."""
        found = []
        with pa.memory_map(str(self.path)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                column = reader.get_batch(number).column("ids")
                offsets = as_numpy(column.offsets)
                found.append((as_numpy(column.values)[offsets[0] : offsets[-1]], np.diff(offsets)))
        return found


def write_ids(
    path: Path, batches: Iterable[tuple[np.ndarray, np.ndarray]], dtype: np.dtype[Any], placing: Placing | None = None
) -> IdsShard:
    """Write the ids shard at `path` from flat ids and lengths, a batch at a time."""
    schema = pa.schema({"ids": pa.large_list(pa.from_numpy_dtype(dtype))})
    with new_file(path, placing) as temporary, pa.ipc.new_file(str(temporary), schema) as sink:
        for flat, lengths in batches:
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            column = pa.LargeListArray.from_arrays(numbers(offsets), numbers(flat.astype(dtype, copy=False)))
            sink.write_batch(pa.record_batch([column], schema=schema))
    return IdsShard(path)


def shard_path(root: Path, kind: str, key: str) -> Path:
    """Where the shard of `key` lies: in one of 256 folders, for file systems that mind many files in one."""
    return root / "shards" / kind / key[:2] / f"{key}{_SUFFIX}"


def sweep_shards(root: Path) -> None:
    """Remove shards that no dataset was made from for `KEPT_DAYS`, and what killed processes left half-written."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for folder in (root / "shards").glob("*/*"):
        sweep_partial(folder)
        for path in folder.glob("*.*"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()
