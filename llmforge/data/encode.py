"""From the texts of a corpus to token ids in the cache, and from those to packed rows on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from llmforge.data.arrow import as_numpy
from llmforge.data.boilerplate import trim
from llmforge.data.corpus import Corpus
from llmforge.data.dataset_writer import SplitWriter
from llmforge.data.packing import Batch, pack_split, take
from llmforge.data.shards import IdsShard, TextShard, digest, shard_path, write_ids
from llmforge.fast_tokens import Encoder
from llmforge.storage.files import Placing, cache_root
from llmforge.tokenization import TextTokenizer

#: Bytes of text below which the fast encoder takes longer to load than it gains.
_WORTH_LOADING = 1_500_000
#: Bytes of text that are encoded together.
_TOGETHER = 8_000_000
#: Ids that are counted at a time: numpy makes eight bytes of each, which shall stay in the processor's cache.
_COUNTED_AT_ONCE = 2**18


class TokenizedCorpus:
    """The token ids of every document of a corpus, in shards that are made where the cache lacks them.

    Args:
        corpus: Its documents.
        tokenizer: What encodes them.
        tokenizer_hash: Stands for the tokenizer in the cache.
        blocks: By source, hashes of the blocks that are taken away before encoding.
        progress: Is told the bytes done and to do.

    Attributes:
        shards: One for each of the corpus's.
        lengths: Tokens of each document, without separators; int64.
        used: How often each id stands in the training split, once that is written; int64, by id up to the largest.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: TextTokenizer,
        tokenizer_hash: str,
        blocks: Mapping[int, frozenset[int]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        self.tokenizer = tokenizer
        self.used = np.zeros(0, dtype=np.int64)
        self.dtype = tokenizer.dtype
        paths: list[_Entry] = []
        start = 0
        for (source, shard), count in zip(corpus.shards, corpus.shard_sizes, strict=True):
            own = slice(start, start + count)
            taken = blocks.get(source, frozenset())
            key = digest([tokenizer_hash, corpus.hashes[own].tobytes(), repr(sorted(taken))])
            path = shard_path(cache_root(), "ids", key)
            is_ids = corpus.sources[source].format in ("npz", "python")
            paths.append(_Entry(path, shard, taken, int(corpus.sizes[own].sum()), is_ids))
            start += count
        self.shards = [IdsShard(entry.path) for entry in paths]
        missing = [entry for entry in paths if not entry.path.exists()]
        for path in {entry.path for entry in paths} - {entry.path for entry in missing}:
            path.touch()  # in use: not among what is swept from the cache
        self._encode(missing, progress)
        counted = [lengths for shard in self.shards for _, lengths in shard.arrays]
        self.lengths = np.concatenate([np.zeros(0, dtype=np.int64), *counted])

    def _encode(self, missing: list[_Entry], progress: Callable[[int, int], None]) -> None:
        total = sum(entry.size for entry in missing)
        encoder = Encoder(self.tokenizer, fast=total > _WORTH_LOADING) if missing else None
        done = 0
        with Placing() as placing:
            for group in _grouped(missing):
                assert encoder is not None
                if len(group) == 1:
                    entry = group[0]
                    found = (_encoded(batch, encoder, entry.blocks) for batch in entry.batches())
                    write_ids(entry.path, found, self.dtype, placing)
                else:
                    _encode_together(group, encoder, placing)
                done += sum(entry.size for entry in group)
                progress(done, total)

    def batches(self, repeats: np.ndarray, numbers: np.ndarray) -> Iterator[Batch]:
        """The documents, each as often as `repeats` says, in the corpus's order, pass by pass.

        Args:
            repeats: How often each document comes; integers, ``(documents,)``.
            numbers: What each is called in the rows.
        """
        for turn in range(int(repeats.max(initial=0))):
            start = 0
            for shard in self.shards:
                for ids, lengths in shard.arrays:
                    end = start + len(lengths)
                    chosen = np.flatnonzero(repeats[start:end] > turn)
                    if len(chosen):
                        yield take(Batch(ids, lengths, numbers[start:end]), chosen)
                    start = end

    def write_split(self, folder: Path, repeats: np.ndarray, numbers: np.ndarray, block_size: int, count: bool) -> SplitWriter:
        """Pack a split and write it into `folder`.

        Args:
            folder: The split's folder in the dataset.
            repeats: How often each document comes; integers, ``(documents,)``.
            numbers: What each is called in the rows.
            block_size: Tokens in a row.
            count: Whether `used` is counted.
        """

        def counted() -> Iterator[Batch]:
            for batch in self.batches(repeats, numbers):
                for start in range(0, len(batch.ids) if count else 0, _COUNTED_AT_ONCE):
                    counts = np.bincount(batch.ids[start : start + _COUNTED_AT_ONCE], minlength=len(self.used))
                    counts[: len(self.used)] += self.used
                    self.used = counts
                yield batch

        with SplitWriter(folder, block_size, self.dtype) as writer:
            for rows in pack_split(counted(), block_size, self.tokenizer.end_of_text, self.tokenizer.pad):
                writer.write(rows)
        return writer


class _Entry(NamedTuple):
    """A text shard to encode."""

    path: Path
    shard: TextShard
    blocks: frozenset[int]
    size: int
    is_ids: bool

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self.shard.batches(["kind", "text", "ids", "is_ids"])


def _grouped(entries: list[_Entry]) -> Iterator[list[_Entry]]:
    """Shards of texts in groups of some megabytes; those of ids, and large ones, alone."""
    group: list[_Entry] = []
    for entry in entries:
        if group and (entry.is_ids or sum(other.size for other in group) + entry.size > _TOGETHER):
            yield group
            group = []
        group.append(entry)
        if entry.is_ids:
            yield group
            group = []
    if group:
        yield group


def _encode_together(group: list[_Entry], encoder: Encoder, placing: Placing) -> None:
    """Encode small shards in one batch: each batch costs a comparison with the slow way."""
    texts = [[text for batch in entry.batches() for text in _texts(batch, entry.blocks)] for entry in group]
    flat, lengths = encoder.encode_batch([text for own in texts for text in own])
    ends = np.cumsum([0, *map(len, texts)])
    places = np.concatenate(([0], np.cumsum(lengths)))
    for entry, first, last in zip(group, ends[:-1], ends[1:], strict=True):
        own = flat[places[first] : places[last]], lengths[first:last]
        write_ids(entry.path, [own], encoder.dtype, placing)


def _texts(batch: pa.RecordBatch, blocks: frozenset[int]) -> list[str]:
    texts: list[str] = batch.column("text").to_pylist()
    if blocks:
        texts = [trim(text, blocks, kind) for text, kind in zip(texts, batch.column("kind").to_pylist(), strict=True)]
    return texts


def _encoded(batch: pa.RecordBatch, encoder: Encoder, blocks: frozenset[int]) -> tuple[np.ndarray, np.ndarray]:
    if len(batch) and batch.column("is_ids")[0].as_py():  # a source has texts or ids
        given = batch.column("ids")
        offsets = as_numpy(given.offsets)
        return as_numpy(given.values)[offsets[0] : offsets[-1]], np.diff(offsets)
    return encoder.encode_batch(_texts(batch, blocks))
