"""Which documents are copies of one another, or nearly so, found from 528 bytes a document.

A document is a 16-byte hash of its text and a MinHash signature of its shingles (`rensa`): the share
of equal numbers in two signatures estimates the Jaccard similarity of the two sets of shingles, with a
standard error of at most 0.045. Pairs that can be similar are those that agree in a whole band of the
signature (locality-sensitive hashing; Leskovec et al., Mining of Massive Datasets, 3.4); each is then
looked at. Nothing depends on the order of the documents except the numbers they are called by.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmforge.data.hashing import mix
from llmforge.data.shingles import counted, text_shingles, window_hashes

#: Numbers in a signature.
PERMUTATIONS = 128
#: Raised whenever the same text would get another signature.
SIGNATURE_VERSION = 1
_SEED = 1
#: Share of the pairs just at the threshold that must come to be looked at.
_RECALL = 0.84
#: In a crowded bucket each signature is compared with so many others. What crowds a bucket is what many texts have,
#: and documents that are alike beyond it meet in other bands too.
_NEIGHBOURS = 64
_PAIRS_AT_ONCE = 1 << 15


def text_hash(content: str | np.ndarray) -> bytes:
    """16 bytes that tell one text, or one document of token ids, from another (BLAKE2b)."""
    return hashlib.blake2b(content_bytes(content), digest_size=16).digest()


def content_bytes(content: str | np.ndarray) -> bytes:
    """`content` as bytes: UTF-8, or 8 bytes a token id whatever the array's type."""
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    return np.ascontiguousarray(content, dtype="<u8").tobytes()


def signature(content: str | np.ndarray, shingle: int) -> np.ndarray:
    """The MinHash signature of a text or of token ids: uint32, ``(PERMUTATIONS,)``."""
    row: np.ndarray = signatures([content], shingle)[0]
    return row


def signatures(contents: Sequence[str] | Sequence[np.ndarray] | Sequence[str | np.ndarray], shingle: int) -> np.ndarray:
    """`signature` of many, which is several times as fast for short ones.

    Args:
        contents: Texts or arrays of token ids; give some hundred kilobytes at a time.
        shingle: Words, or tokens, in a shingle.

    Returns:
        uint32, ``(len(contents), PERMUTATIONS)``; without a single word, all ones in every bit.
    """
    found = np.empty((len(contents), PERMUTATIONS), dtype=np.uint32)
    texts = [place for place, content in enumerate(contents) if isinstance(content, str)]
    if texts:
        found[texts] = _digest(*text_shingles([str(contents[place]) for place in texts], shingle))
    for place, content in enumerate(contents):
        if not isinstance(content, str):
            words = mix(content.astype(np.uint64) + np.uint64(1))
            edges = np.array([0, len(words)])
            found[place] = _digest(*counted(window_hashes(words, edges, shingle), edges))
    return found


@functools.cache
def _min_hash() -> Any:
    """rensa's MinHash with a thread pool of one: a larger one would not survive a fork, and workers are processes."""
    from rensa import RMinHash

    name = "RAYON_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:  # the pool is started by the first large batch, and keeps its size
        many = np.arange(1 << 18, dtype=np.uint64)
        RMinHash.digest_matrix_from_flat_token_hashes(many, [0, len(many)], PERMUTATIONS, _SEED)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return RMinHash


def _digest(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    made = _min_hash().digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED)
    return np.array(made.to_rows(), dtype=np.uint32).reshape(-1, PERMUTATIONS)


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The estimated Jaccard similarity of each pair of rows."""
    return (first == second).mean(axis=-1)


def find_clusters(hashes: np.ndarray, signatures: np.ndarray | None, threshold: float = 1.0) -> np.ndarray:
    """Put documents that are copies, or similar by a chain of pairs, into clusters.

    Args:
        hashes: What `text_hash` gave, as uint64 ``(documents, 2)``.
        signatures: ``(documents, PERMUTATIONS)``; None looks for exact copies only.
        threshold: Estimated similarity from which a pair is near-duplicate.

    Returns:
        int64: for each document the smallest index in its cluster.
    """
    if not len(hashes):
        return np.zeros(0, dtype=np.int64)
    if signatures is None:
        keys = hashes[:, 0] ^ mix(hashes[:, 1])
        return _smallest_index(np.unique(keys, return_inverse=True)[1])
    first, node = _distinct(signatures)
    labels = np.arange(len(first))
    for left, right in _candidates(signatures, first, threshold):
        apart = np.flatnonzero(labels[left] != labels[right])
        left, right = left[apart], right[apart]
        near = similarity(signatures[first[left]], signatures[first[right]]) >= threshold
        _join(labels, left[near], right[near])
    return _smallest_index(labels[node])


def highest_near(signatures: np.ndarray, ranks: np.ndarray, threshold: float) -> np.ndarray:
    """The highest rank among each document and those similar to it, directly and not by a chain.

    Args:
        signatures: ``(documents, PERMUTATIONS)``.
        ranks: A small number for each document.
        threshold: Estimated similarity from which a pair is near-duplicate.

    Returns:
        int64 for each document.
    """
    if not len(ranks):
        return np.zeros(0, dtype=np.int64)
    first, node = _distinct(signatures)
    # Documents with one signature are similar to the same others, and to one another.
    top = np.full(len(first), np.iinfo(np.int64).min)
    np.maximum.at(top, node, ranks)
    above = top.copy()
    for left, right in _candidates(signatures, first, threshold):
        useful = np.flatnonzero((above[left] < top[right]) | (above[right] < top[left]))
        left, right = left[useful], right[useful]
        near = similarity(signatures[first[left]], signatures[first[right]]) >= threshold
        left, right = left[near], right[near]
        np.maximum.at(above, left, top[right])
        np.maximum.at(above, right, top[left])
    found: np.ndarray = above[node]
    return found


def _distinct(signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first index of each distinct signature, in an order of their own, and which of them each document has."""
    factors = mix(np.arange(1, signatures.shape[1] + 1, dtype=np.uint64))
    keys = np.zeros(len(signatures), dtype=np.uint64)
    for column, factor in enumerate(factors):
        keys += mix(signatures[:, column] + factor) * (factor | np.uint64(1))
    _, first, node = np.unique(keys, return_index=True, return_inverse=True)
    return first, node


def banding(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """Bands and rows: the longest bands by which enough of the pairs at `threshold` meet in one at least."""
    rows = max(
        rows for rows in range(1, permutations + 1) if rows == 1 or 1 - (1 - threshold**rows) ** (permutations // rows) >= _RECALL
    )
    return permutations // rows, rows


def _candidates(signatures: np.ndarray, first: np.ndarray, threshold: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of distinct signatures that agree in a band, some thousands at a time.

    Within a bucket a signature meets the next `_NEIGHBOURS` ones: all of them where the bucket is no larger.
    """
    bands, rows = banding(threshold)
    for band in range(bands):
        keys = _band_key(signatures, first, band * rows, rows)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        # Only what shares its bucket goes on: place is where it is in the order.
        places = np.arange(len(ordered) - 1)
        for ahead in range(1, _NEIGHBOURS + 1):
            places = places[places + ahead < len(ordered)]
            places = places[ordered[places] == ordered[places + ahead]]
            if not len(places):
                break
            for start in range(0, len(places), _PAIRS_AT_ONCE):
                chosen = places[start : start + _PAIRS_AT_ONCE]
                yield order[chosen], order[chosen + ahead]


def _band_key(signatures: np.ndarray, first: np.ndarray, start: int, rows: int) -> np.ndarray:
    key = np.zeros(len(first), dtype=np.uint64)
    for column in range(start, start + rows):
        key = mix(key + signatures[first, column])
    return key


def _join(labels: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Give both ends of each pair, and all that have their labels, the smaller label."""
    while len(left):
        low, high = np.minimum(labels[left], labels[right]), np.maximum(labels[left], labels[right])
        np.minimum.at(labels, high, low)
        while True:
            further = labels[labels]
            if np.array_equal(further, labels):
                break
            labels[:] = further
        apart = labels[left] != labels[right]
        left, right = left[apart], right[apart]


def _smallest_index(labels: np.ndarray) -> np.ndarray:
    """For each place the first place with the same label."""
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    return first[group].astype(np.int64)
