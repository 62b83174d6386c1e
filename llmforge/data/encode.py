"""From the texts of a corpus to token ids in the cache, and from those to packed rows on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from llmforge.data.boilerplate import trim
from llmforge.data.corpus import Corpus
from llmforge.data.dataset_writer import SplitWriter
from llmforge.data.packing import Batch, pack_split, take
from llmforge.data.shards import IdsShard, TextShard, digest, shard_path, write_ids
from llmforge.fast_tokens import Encoder
from llmforge.storage import cache_root
from llmforge.tokenization import TextTokenizer

#: Bytes of text below which the fast encoder takes longer to load than it gains.
_WORTH_LOADING = 1_500_000


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
        self.shards: list[IdsShard] = []
        paths: list[tuple[Path, TextShard, frozenset[int], int]] = []
        start = 0
        for (source, shard), count in zip(corpus.shards, corpus.shard_sizes, strict=True):
            own = slice(start, start + count)
            taken = blocks.get(source, frozenset())
            key = digest([tokenizer_hash, corpus.hashes[own].tobytes(), repr(sorted(taken))])
            paths.append((shard_path(cache_root(), "ids", key), shard, taken, int(corpus.sizes[own].sum())))
            start += count
        missing = sum(size for path, _, _, size in paths if not path.exists())
        encoder, done = None, 0
        for path, shard, taken, size in paths:
            if path.exists():
                path.touch()  # in use: not among what is swept from the cache
                self.shards.append(IdsShard(path))
                continue
            encoder = encoder or Encoder(tokenizer, fast=missing > _WORTH_LOADING)
            self.shards.append(write_ids(path, _encoded(shard, encoder, taken), self.dtype))
            done += size
            progress(done, missing)
        counted = [lengths for shard in self.shards for _, lengths in shard.arrays()]
        self.lengths = np.concatenate([np.zeros(0, dtype=np.int64), *counted])

    def batches(self, repeats: np.ndarray, numbers: np.ndarray) -> Iterator[Batch]:
        """The documents, each as often as `repeats` says, in the corpus's order, pass by pass.

        Args:
            repeats: How often each document comes; integers, ``(documents,)``.
            numbers: What each is called in the rows.
        """
        for turn in range(int(repeats.max(initial=0))):
            start = 0
            for shard in self.shards:
                for ids, lengths in shard.arrays():
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
                if count:
                    counts = np.bincount(batch.ids, minlength=len(self.used))
                    counts[: len(self.used)] += self.used
                    self.used = counts
                yield batch

        with SplitWriter(folder, block_size, self.dtype) as writer:
            for rows in pack_split(counted(), block_size, self.tokenizer.end_of_text, self.tokenizer.pad):
                writer.write(rows)
        return writer


def _encoded(shard: TextShard, encoder: Encoder, blocks: frozenset[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in shard.batches(["kind", "text", "ids", "is_ids"]):
        if len(batch) and batch.column("is_ids")[0].as_py():  # a source has texts or ids
            given = batch.column("ids")
            offsets = given.offsets.to_numpy()
            yield given.values.to_numpy()[offsets[0] : offsets[-1]], np.diff(offsets)
            continue
        texts = batch.column("text").to_pylist()
        if blocks:
            texts = [trim(text, blocks, kind) for text, kind in zip(texts, batch.column("kind").to_pylist(), strict=True)]
        yield encoder.encode_batch(texts)
