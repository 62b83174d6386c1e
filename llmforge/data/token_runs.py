"""Sequences of tokens out of any dataset, and the runs of tokens in them, as hashes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS = 1000
_PIECES = ("input_ids", "segment_lengths", "segment_documents")


@dataclass
class Part:
    """Some sequences of one split.

    Attributes:
        tokens: Integers, all of them one after the other.
        edges: Where each sequence starts, and the end of all.
        documents: The number of the document that each is of.
        excerpt: The text from one place of `tokens` to another.
    """

    tokens: np.ndarray
    edges: np.ndarray
    documents: np.ndarray
    excerpt: Callable[[int, int], str]


def find_runs(part: Part, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of the runs of `n` tokens of each sequence, where they start, and how long they are.

    A sequence that is shorter is one run. Runs of one token over and over, such as padding, are none.
    """
    count = len(part.tokens)
    left = np.repeat(part.edges[1:], np.diff(part.edges)) - np.arange(count)  # tokens up to the sequence's end
    power = _join(part.tokens.astype(np.uint64) + np.uint64(1), np.uint64(0))
    whole, done, size = np.zeros(count, dtype=np.uint64), 0, 1
    while True:
        if n & size:
            whole = _join(_ahead(power, done, left), whole)
            done += size
        if done == n:
            break
        power = _join(_ahead(power, size, left), power)
        size *= 2
    first = np.zeros(count, dtype=bool)
    first[part.edges[:-1][np.diff(part.edges) > 0]] = True
    starts = np.flatnonzero((left >= n) | first)
    sizes = np.minimum(left[starts], n)
    changes = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(part.tokens[1:] != part.tokens[:-1]), np.zeros(1, np.int64)])
    varied = (changes[starts + sizes - 1] > changes[starts]) | (n == 1)
    return whole[starts[varied]], starts[varied], sizes[varied]


def _ahead(values: np.ndarray, by: int, left: np.ndarray) -> np.ndarray:
    """What stands `by` places further on in the same sequence, else 0."""
    if by == 0:
        return values
    moved = np.zeros_like(values)
    moved[:-by] = values[by:]
    moved[left <= by] = 0
    return moved


def _join(values: np.ndarray, before: np.ndarray | np.uint64) -> np.ndarray:
    """A hash of two hashes, in their order."""
    joined = values * np.uint64(0xC2B2AE3D27D4EB4F) + before * np.uint64(0x165667B19E3779F9)
    joined ^= joined >> np.uint64(29)
    joined *= np.uint64(0x9FB21C651E98DF25)
    joined ^= joined >> np.uint64(32)
    return joined


def read_parts(split: Dataset, column: str, decode: Callable[[list[int]], str] | None) -> Iterator[Part]:
    """The split in parts of some thousand rows."""
    packed = column == _PIECES[0] and set(_PIECES) <= set(split.column_names)
    wanted = list(_PIECES) if packed else [column]
    arrow = split.select_columns(wanted).with_format("arrow")
    for start in range(0, len(split), _ROWS):
        table = arrow[start : start + _ROWS]
        columns = {name: table.column(name).combine_chunks() for name in wanted}
        rows = np.arange(start, start + table.num_rows)
        if column != _PIECES[0]:
            yield _text_part(columns[column].to_pylist(), rows)
            continue
        lengths = columns[column].value_lengths().to_numpy(zero_copy_only=False)
        tokens = columns[column].flatten().to_numpy(zero_copy_only=False)
        if packed:
            tokens, lengths, rows = _segments(tokens, lengths, columns)
        yield Part(tokens, _edges(lengths), rows, _decoder(tokens, decode))


def _segments(tokens: np.ndarray, lengths: np.ndarray, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of packed rows without padding, each segment's length, and its document."""
    pieces = columns["segment_lengths"].flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    counts = columns["segment_lengths"].value_lengths().to_numpy(zero_copy_only=False)
    filled = np.zeros(len(lengths), dtype=np.int64)
    np.add.at(filled, np.repeat(np.arange(len(lengths)), counts), pieces)
    places = np.arange(len(tokens)) - np.repeat(_edges(lengths)[:-1], lengths)
    documents = columns["segment_documents"].flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return tokens[places < np.repeat(filled, lengths)], pieces, documents


def _text_part(texts: Sequence[str | None], rows: np.ndarray) -> Part:
    """Texts as numbers of words; where those are 20 characters long on average, as in Chinese, of characters."""
    words: list[str] = []
    lengths = []
    for text in texts:
        found = (text or "").split()
        if sum(map(len, found)) > 20 * len(found):
            found = list("".join(found))
        lengths.append(len(found))
        words += found
    numbers = np.fromiter(
        (zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), dtype=np.uint64, count=len(words)
    )
    return Part(numbers, _edges(np.array(lengths, dtype=np.int64)), rows, lambda start, stop: " ".join(words[start:stop]))


def _decoder(tokens: np.ndarray, decode: Callable[[list[int]], str] | None) -> Callable[[int, int], str]:
    return lambda start, stop: decode(tokens[start:stop].tolist()) if decode else " ".join(map(str, tokens[start:stop].tolist()))


def _edges(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])
