"""Blocks that many documents share: licence headers, notices, navigation.

A header that stands in every file is learnt at once, lowers perplexity on both sides of any split, and
tells nothing of how well a model knows the rest. A block is a paragraph of a text; of code it is a
comment, for other code that many files share (imports, say) is code. Only the first and last few blocks
of a document are looked at, as that is where boilerplate stands.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator
from hashlib import blake2b

import numpy as np

#: Blocks looked at from either end of a document.
FIRST_BLOCKS = 8
LAST_BLOCKS = 4
#: A block of fewer letters and digits says too little to be a notice.
_LEAST = 40
#: Longer blocks are no notices, and are not gone through.
_MOST = 20_000
#: The last blocks are looked for in so many characters.
_TAIL = 8192
#: In at least so many documents, and such a share of them, a block is common.
COMMON_DOCUMENTS = 10
COMMON_SHARE = 0.005

_PARAGRAPH = re.compile(r"(?:[^\n]*\S[^\n]*(?:\n|\Z))+")
_BLANK_LINES = re.compile(r"(?:[ \t]*\n)*")
# Lines between comments at the head of code that a tool or the interpreter reads: they are passed over, and stay.
_HEEDED = (
    r"[ \t]*(?:\#!|<\?|<!doctype|//(?:go:|export\ |line\ )|//[ \t]*\+build|\#.*coding[:=]"
    r"|\#[ \t]*(?:include|define|undef|ifn?def|if|elif|else|endif|pragma|error|warning|import|line)\b"
    r"|\#[ \t]*(?:type|mypy|ruff|flake8|pylint|syntax|escape):)[^\n]*(?:\n|\Z)"
)
_NO_COMMENT = re.compile(rf"(?:[ \t]*\n|{_HEEDED})*", re.VERBOSE | re.IGNORECASE)
# A run of line comments, or one comment between signs with nothing behind it.
_COMMENT = re.compile(
    rf"""(?:(?!{_HEEDED})[ \t]*(?://|\#(?=[ \t#]|$)|--(?=[ \t-]|$)|;|%(?=[ \t%]|$)|!(?=[ \t]|$))[^\n]*(?:\n|\Z))+
    | [ \t]*(?>/\*(?s:.*?)\*/|<!--(?s:.*?)-->|\(\*(?s:.*?)\*\)|\{{-(?s:.*?)-\}}|\"\"\"(?s:.*?)\"\"\"|'''(?s:.*?)''')
      [ \t]*(?:\n|\Z)
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_COPYRIGHT = re.compile(rb"^[^\n]*copyright[^\n]*", re.IGNORECASE | re.MULTILINE)
#: Letters in lower case, bytes of other scripts as they are, all else a space.
_LETTERS = bytes(code if code >= 128 else code | 32 if chr(code).isalpha() else 32 for code in range(256))


def block_hashes(text: str, kind: str = "text") -> np.ndarray:
    """What the blocks of a document are found again by, ``uint64[≤ 12]``, sorted, each once.

    Two blocks have one hash when they differ in nothing but spaces, punctuation, comment signs, case, numbers and the
    lines that say whose the copyright is, so that one licence with many holders and years is one block.

    Args:
        text: A document with ``\\n`` line ends.
        kind: Its kind; "code" takes comments alone.
    """
    found = {value for _, _, value in _blocks(text, kind)}
    return np.array(sorted(found), dtype=np.uint64)


def common_blocks(hashes: np.ndarray, documents: int) -> dict[int, int]:
    """Hash → documents that have the block, for blocks that stand in many, the most frequent first.

    Args:
        hashes: `block_hashes` of all documents, one behind the other, ``uint64[n]``.
        documents: Number of documents.
    """
    values, counts = np.unique(hashes, return_counts=True)
    common = counts >= max(COMMON_DOCUMENTS, COMMON_SHARE * documents)
    order = np.argsort(-counts[common], kind="stable")
    return dict(zip(values[common][order].tolist(), counts[common][order].tolist(), strict=True))


def trim(text: str, blocks: Collection[int], kind: str = "text") -> str:
    """`text` without those of its blocks whose hash is in `blocks`, and without the blank lines behind them.

    All other lines stay as they are, in their order.

    Args:
        text: A document as `block_hashes` saw it.
        blocks: Keys of `common_blocks`, best as a set.
        kind: The document's kind.
    """
    pieces, done = [], 0
    for start, stop, value in _blocks(text, kind):
        if value in blocks:
            pieces.append(text[done:start])
            blank = _BLANK_LINES.match(text, stop)
            done = blank.end() if blank else stop
    return "".join([*pieces, text[done:]])


def find_block(text: str, block: int, kind: str = "text") -> str | None:
    """The block of `text` with that hash as it stands there, to show what a hash means; None if it has none."""
    return next((text[start:stop].strip("\n") for start, stop, value in _blocks(text, kind) if value == block), None)


def _blocks(text: str, kind: str) -> Iterator[tuple[int, int, int]]:
    """Start, stop (behind the line end) and hash of each block looked at, in order."""
    for start, stop in _comments(text) if kind == "code" else _paragraphs(text):
        if stop - start <= _MOST:
            words = _words(text[start:stop].encode(errors="replace"))
            if len(words) >= _LEAST:
                yield start, stop, int.from_bytes(blake2b(words, digest_size=8).digest(), "little")


def _words(block: bytes) -> bytes:
    """The words of a block; without the lines that say whose the copyright is, where others are left."""
    if b"opyright" in block:
        words = _words_of(_COPYRIGHT.sub(b"", block))
        if len(words) >= _LEAST:
            return words
    return _words_of(block)


def _words_of(block: bytes) -> bytes:
    return b" ".join(block.translate(_LETTERS).split())


def _comments(text: str) -> Iterator[tuple[int, int]]:
    """The comments that code begins with."""
    place = 0
    for _ in range(FIRST_BLOCKS):
        between = _NO_COMMENT.match(text, place)
        block = _COMMENT.match(text, between.end() if between else place)
        if block is None:
            return
        place = block.end()
        yield block.span()


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """The first and last runs of lines that are not blank."""
    place = 0
    for block in itertools.islice(_PARAGRAPH.finditer(text), FIRST_BLOCKS):
        place = block.end()
        yield block.span()
    # Behind a blank line, so that no paragraph is entered in its middle.
    window = text.find("\n\n", max(place - 1, len(text) - _TAIL)) + 1
    if window:
        yield from [block.span() for block in _PARAGRAPH.finditer(text, window)][-LAST_BLOCKS:]
