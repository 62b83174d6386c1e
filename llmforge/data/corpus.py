"""A corpus as shards in the cache: its documents as columns, whatever has made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from llmforge.configs.source import Source
from llmforge.data.arrow import as_numpy
from llmforge.data.documents import Account
from llmforge.data.shards import TextShard


@dataclass
class Corpus:
    """The cleaned documents of all sources, in order of source and name.

    Attributes:
        sources: Where they come from.
        shards: Their shards, each with the number of its source.
        sections: Characters of the sections that few documents were cut into; 0 where they were not.
        found: What was left out before anything was read, by source.
    """

    sources: list[Source]
    shards: list[tuple[int, TextShard]]
    sections: int
    found: list[Account] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sizes)

    def _column(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([chunk for _, shard in self.shards for chunk in shard.column(name).chunks])

    def _numbers(self, name: str, dtype: Any) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *map(as_numpy, self._column(name).chunks)])

    @cached_property
    def sizes(self) -> np.ndarray:
        """UTF-8 bytes of each document; int64."""
        return self._numbers("size", np.int64)

    @cached_property
    def names(self) -> pa.ChunkedArray:
        """Names of the documents."""
        return self._column("name")

    @cached_property
    def kinds(self) -> pa.ChunkedArray:
        """Kinds of the documents."""
        return self._column("kind")

    def blocks(self, source: int) -> np.ndarray:
        """Hashes of the blocks of a source's documents, one behind the other; uint64."""
        own = (shard for number, shard in self.shards if number == source)
        chunks = [as_numpy(chunk.flatten()) for shard in own for chunk in shard.column("blocks").chunks]
        return np.concatenate([np.zeros(0, np.uint64), *chunks])

    def first_with(self, block: int) -> int:
        """The first document that has `block`.

        Raises:
            KeyError: There is none.
        """
        start = 0
        for _, shard in self.shards:
            for chunk in shard.column("blocks").chunks:
                places = np.flatnonzero(as_numpy(chunk.flatten()) == np.uint64(block))
                if len(places):
                    offsets = as_numpy(chunk.offsets)
                    return start + int(np.searchsorted(offsets - offsets[0], places[0], side="right")) - 1
                start += len(chunk)
        raise KeyError(block)

    @cached_property
    def groups(self) -> pa.ChunkedArray:
        """What must not be parted by a split; empty for most."""
        return self._column("group")

    @cached_property
    def hashes(self) -> np.ndarray:
        """Text hashes; uint64, ``(documents, 2)``."""
        chunks = [
            np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * 16 :][: len(chunk) * 16]
            for chunk in self._column("hash").chunks
        ]
        return np.concatenate([np.zeros(0, np.uint8), *chunks]).view(np.uint64).reshape(-1, 2)

    @cached_property
    def positions(self) -> np.ndarray:
        """Places among the splits, in [0, 1); float64."""
        return self._numbers("position", np.float64)

    @cached_property
    def signatures(self) -> np.ndarray:
        """MinHash signatures; uint32, ``(documents, length)``."""
        chunks = [as_numpy(chunk.flatten()) for chunk in self._column("signature").chunks]
        return np.concatenate([np.zeros(0, np.uint32), *chunks]).reshape(len(self), -1)

    @cached_property
    def shard_sizes(self) -> list[int]:
        """Documents in each shard."""
        return [len(shard.column("size")) for _, shard in self.shards]

    @cached_property
    def source_numbers(self) -> np.ndarray:
        """The source of each document; int64."""
        return np.repeat([number for number, _ in self.shards], self.shard_sizes)

    def account(self, source: int) -> Account:
        """What was read of a source and what was not."""
        total = Account()
        total.add(self.found[source])
        for number, shard in self.shards:
            if number == source:
                total.add(shard.account)
        return total

    def texts(self, chosen: np.ndarray | None = None) -> Iterator[tuple[int, str]]:
        """Number and text of each document, or of those where the mask `chosen` is true, a batch in memory at a time."""
        start = 0
        for _, shard in self.shards:
            for batch in shard.batches(["text"]):
                column = batch.column(0)
                wanted = np.arange(len(column)) if chosen is None else np.flatnonzero(chosen[start : start + len(column)])
                for place in wanted.tolist():
                    yield start + place, column[place].as_py()
                start += len(column)
