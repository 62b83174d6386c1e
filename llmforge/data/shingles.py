"""Text as sets of hashed shingles, runs of neighbouring words, which is what near-duplicates share.

A word is a run of ASCII letters, digits and ``_`` with the letters of other alphabets; any other
symbol, and each character of three or more bytes (Chinese, Japanese, Korean, punctuation, emoji), is
a word of its own. Case and white space do not count. The second time that a shingle occurs it is
another element, and so on: in a long table with few different shingles each edit else outweighs
hundreds of them. All of it is numpy on bytes: a regular expression alone takes three times as long.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np

from llmforge.data.hashing import mix

_SPACE, _LETTER, _SINGLE, _INSIDE, _INSIDE_SINGLE = range(5)
#: Bytes that are looked at together: what numpy holds of them stays in tens of megabytes.
_PIECE = 1 << 19
#: A word's hash is the sum of its bytes' numbers times powers of this, modulo 2**64; odd, so that it has an inverse.
_BASE = 0x9E3779B97F4A7C15
_STEP = np.uint64(0xD6E8FEB86659FD93)
#: How often one shingle counts at most.
_OCCURRENCES = 1024
_HEAD = 4000
_COMMENT = re.compile(r"\s*(?://|/\*|#|\*|--|;|%|<!--|\"\"\"|'''|\(\*|\{-|@rem\b)", re.IGNORECASE)
_LICENCE = re.compile(r"[cdlprsw](?:opyright|icen[cs]e|ights reserved|arrant(?:y|ies)|iabilit|amages?\b|oftware\b|ermission|pdx)")
_MORE_COMMENT = re.compile(r"[ \t]*[/#*;%\-!\"'][^\n]{0,400}\n")
#: Characters between two such words of one licence; further apart, the second is none of it.
_LICENCE_GAP = 400


class _Tables:
    """Lookup tables, made at first use."""

    _made: _Tables | None = None

    def __init__(self) -> None:
        kinds = np.full(256, _SINGLE, dtype=np.uint8)
        kinds[:0x21] = kinds[0x7F] = _SPACE
        kinds[[byte for byte in range(128) if chr(byte).isalnum() or chr(byte) == "_"]] = _LETTER
        kinds[0x80:0xC0] = _INSIDE
        kinds[0xC0:0xE2] = _LETTER  # the lead bytes of two-byte characters, and of Indic and Thai ones
        values = mix(np.arange(1, 257, dtype=np.uint64))
        values[ord("A") : ord("Z") + 1] = values[ord("a") : ord("z") + 1]
        values[kinds == _SPACE] = 0
        self.kinds, self.values = kinds, values
        inverse = pow(_BASE, -1, 1 << 64)
        self.powers = np.cumprod(np.full(_PIECE, _BASE, dtype=np.uint64))
        self.inverses = np.cumprod(np.full(_PIECE, inverse, dtype=np.uint64))

    @classmethod
    def get(cls) -> _Tables:
        """The tables of this process."""
        cls._made = cls._made or cls()
        return cls._made


def text_shingles(texts: Sequence[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of several texts, each with its licence header left out.

    A header stands for nothing of its document: on Go's sources it alone makes nine in ten of the pairs
    that share two fifths of their shingles. A text of fewer than `size` words is shingles of what there is.

    Args:
        texts: Any; together some megabytes at most, except for a single one.
        size: Words in a shingle, at least 1.

    Returns:
        uint64 hashes of the elements of each text's set, and int64 offsets ``(len(texts) + 1,)`` of each text's.
    """
    parts = [text[licence_end(text) :].encode("utf-8", "surrogatepass") for text in texts]
    hashes, counts = [], []
    start = 0
    while start < len(parts):
        stop, length = start, 0
        while stop < len(parts) and length + len(parts[stop]) + 1 <= _PIECE:
            length += len(parts[stop]) + 1
            stop += 1
        if stop == start:
            hashes.append(_long_shingles(parts[start], size))
            counts.append(np.array([len(hashes[-1])]))
            start += 1
            continue
        starts, words = _words(np.frombuffer(b"\n".join(parts[start:stop]), dtype=np.uint8))
        edges = np.cumsum([0] + [len(part) + 1 for part in parts[start:stop]])
        firsts = np.searchsorted(starts, edges)
        found, places = counted(window_hashes(words, firsts, size), firsts)
        hashes.append(found)
        counts.append(np.diff(places))
        start = stop
    flat = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
    return flat, np.concatenate([[0], np.cumsum(np.concatenate(counts))]) if counts else np.zeros(1, dtype=np.int64)


def window_hashes(words: np.ndarray, firsts: np.ndarray, size: int) -> np.ndarray:
    """A hash for each word and the `size` - 1 after it; past the end of its document there are blanks.

    Args:
        words: uint64 hashes of the words of several documents, one after the other.
        firsts: Where each document's words start, and the end of all.
        size: Words in a window.
    """
    owner = np.repeat(np.arange(len(firsts) - 1), np.diff(firsts))
    found = words.copy()
    for ahead in range(1, size):
        found *= _STEP
        found[:-ahead] += np.where(owner[ahead:] == owner[:-ahead], words[ahead:], np.uint64(0))
    return mix(found)


def counted(hashes: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each document's shingles with their occurrences told apart, the first `_OCCURRENCES` of each; and where they start.

    Args:
        hashes: uint64 shingles of several documents, one after the other; they are sorted in place.
        firsts: Where each document's start, and the end of all.
    """
    for start, stop in itertools.pairwise(firsts.tolist()):
        hashes[start:stop].sort()
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = hashes[1:] != hashes[:-1]
    new[firsts[firsts < len(hashes)]] = True
    place = np.arange(len(hashes))
    occurrence = place - np.maximum.accumulate(np.where(new, place, 0))
    kept = occurrence < _OCCURRENCES
    elements = mix(hashes + occurrence.astype(np.uint64) * _STEP)[kept]
    return elements, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept)])[firsts]


def licence_end(text: str) -> int:
    """Where the licence or copyright comment that `text` starts with ends; 0 where it starts with none.

    The end is that of the last line that speaks of it, so that a comment that was edited a little still goes.
    """
    head = text[:_HEAD]
    if not any(_COMMENT.match(line) for line in head.split("\n", 3)[:3]):
        return 0
    lower = head.lower()
    last = 0
    while found := _LICENCE.search(lower, last, last + _LICENCE_GAP):
        last = found.end()
    if not last:
        return 0
    end = text.find("\n", last, last + _LICENCE_GAP)
    # The rest of the comment too: what stood there may have been edited.
    while end >= 0 and (more := _MORE_COMMENT.match(text, end + 1)):
        end = more.end() - 1
    return end + 1 if end >= 0 and text[end:].strip() else 0


def _words(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each word of UTF-8 `data` starts, and a hash of it; at most `_PIECE` bytes."""
    tables = _Tables.get()
    kinds = tables.kinds[data]
    if data.size and data.max() >= 0x80:
        # A byte inside a character is what its first one is; a character has four at most.
        inside = np.flatnonzero(kinds == _INSIDE)
        for _ in range(3):
            before = kinds[inside - 1]
            kinds[inside] = np.where(before == _LETTER, _LETTER, np.where(before == _INSIDE, _INSIDE, _INSIDE_SINGLE))
            inside = inside[before == _INSIDE]
    starting = kinds == _SINGLE
    letters = kinds == _LETTER
    starting[:1] |= letters[:1]
    starting[1:] |= letters[1:] & ~letters[:-1]
    starts = np.flatnonzero(starting)
    values = tables.values[data]
    values *= tables.powers[: len(data)]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(values, dtype=np.uint64)])
    ends = np.append(starts[1:], len(data))
    # White space adds nothing to a sum, so a word may be taken to reach up to the next one.
    return starts, mix((sums[ends] - sums[starts]) * tables.inverses[starts])


def _long_shingles(data: bytes, size: int) -> np.ndarray:
    """The elements of one long document; of each piece at most `_OCCURRENCES` of a shingle are kept."""
    carried = np.zeros(0, dtype=np.uint64)
    found = []
    for piece in _pieces(data):
        words = np.concatenate([carried, _words(np.frombuffer(piece, dtype=np.uint8))[1]])
        whole = max(len(words) - size + 1, 0)
        hashes = np.sort(window_hashes(words, np.array([0, len(words)]), size)[:whole])
        found.append(hashes[: max(len(hashes) - _OCCURRENCES, 0)][hashes[:-_OCCURRENCES] != hashes[_OCCURRENCES:]])
        found.append(hashes[-_OCCURRENCES:])
        carried = words[whole:]
    found.append(window_hashes(carried, np.array([0, len(carried)]), size))
    hashes = np.concatenate(found)
    return counted(hashes, np.array([0, len(hashes)]))[0]


def _pieces(data: bytes) -> Iterator[bytes]:
    """`data` in pieces of at most `_PIECE` bytes that end at a line's end or a space, where there is one."""
    start = 0
    while start < len(data):
        stop = min(start + _PIECE, len(data))
        if stop < len(data):
            cut = max(data.rfind(b"\n", start, stop), data.rfind(b" ", start, stop))
            stop = cut + 1 if cut > start else stop
        yield data[start:stop]
        start = stop
