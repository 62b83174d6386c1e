"""Long texts in pieces: ranges of a large file, sections, paragraphs; cut at blank lines wherever there are any."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from llmforge.data.documents import Document

#: A corpus of fewer documents than this is cut into sections first, or its splits would be empty.
FEW_DOCUMENTS = 50
#: About this many characters make a section.
SECTION_LENGTH = 8 * 1024
#: A text larger than this is no single document: nothing that is read is ever larger.
WHOLE_BYTES = 32 << 20
#: About this many bytes make a section of such a text.
LARGE_SECTION_BYTES = 64 * 1024
#: Bytes of a range, the unit in which a large file is read.
RANGE_BYTES = 16 << 20
#: A line longer than this is left out.
LINE_BYTES = WHOLE_BYTES
OVER_LONG = f"line longer than {LINE_BYTES >> 20} MB"

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\r?\n)+")
_BLANK_LINES_IN_BYTES = re.compile(rb"\n((?:[ \t]*\r?\n)+)")
_LEADING_BLANK_LINES = re.compile(rb"(?:[ \t]*\r?\n)*")
#: A cut is looked for among so many of the last bytes first, and in the whole piece only if there is none.
_TAIL = 64 * 1024
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """Some whole lines of a stream.

    Attributes:
        start: Bytes of the stream before it.
        line: Lines of the stream before it.
        data: Its bytes.
    """

    start: int
    line: int
    data: bytes


def cut_stream(
    chunks: Iterable[bytes], length: int, over_long: Callable[[int], None], at_blank_lines: bool = True
) -> Iterator[Piece]:
    """Cut a stream into pieces of at most `length` bytes, in memory for a few of them.

    A cut depends only on what stands before it, so that what is appended to a stream changes its last piece alone.

    Args:
        over_long: Called with the number of each line (from 1) that is longer than `LINE_BYTES`, and so is left out.
        at_blank_lines: Cut after the last blank line, and only without one after the last line. A line longer than
            `length` makes a piece by itself.
    """
    source = iter(chunks)
    buffer = bytearray()
    start = line = 0
    ended = False
    while True:
        while not ended and len(buffer) <= length:
            chunk = next(source, b"")
            ended = not chunk
            buffer += chunk
        if len(buffer) <= length:
            if buffer:
                yield Piece(start, line, bytes(buffer))
            return
        cut = _last_cut(buffer, length, at_blank_lines)
        searched = length
        while not cut and len(buffer) > searched:
            cut = buffer.find(b"\n", searched) + 1
            searched = len(buffer)
            if not cut and searched <= LINE_BYTES:
                chunk = next(source, b"")
                buffer += chunk
                cut = 0 if chunk else len(buffer)
        if cut and cut <= max(length, LINE_BYTES):
            data = bytes(buffer[:cut])
            yield Piece(start, line, data)
            line += data.count(b"\n")
        else:
            over_long(line + 1)
            while not (cut := buffer.find(b"\n") + 1):
                start += len(buffer)
                buffer = bytearray(next(source, b""))
                if not buffer:
                    return
            line += 1
        start += cut
        del buffer[:cut]


def _last_cut(buffer: bytearray, limit: int, at_blank_lines: bool) -> int:
    """Where the last whole block before `limit` ends, or the last line; 0 where there is neither."""
    if at_blank_lines:
        for begin in (max(limit - _TAIL, 0), 0):
            ends = [match.end() for match in _BLANK_LINES_IN_BYTES.finditer(buffer, begin, limit)]
            if ends:
                return ends[-1]
    return buffer.rfind(b"\n", 0, limit) + 1


def paragraphs(piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Where each block between blank lines starts in the stream, and its bytes up to and with its last line's end."""
    lead = _LEADING_BLANK_LINES.match(piece.data)
    start = lead.end() if lead else 0
    for blank in _BLANK_LINES_IN_BYTES.finditer(piece.data, start):
        yield piece.start + start, piece.data[start : blank.start(1)]
        start = blank.end()
    if start < len(piece.data):
        yield piece.start + start, piece.data[start:]


def cut_sections(document: Document, length: int = SECTION_LENGTH) -> list[Document]:
    """Cut a long document at blank lines into sections of about `length` characters, which keep its group.

    Nothing is lost: the sections joined are the document. A block longer than `length` is kept whole, and so is a
    fenced block of Markdown.
    """
    text = document.text
    if len(text) <= length:
        return [document]
    cuts = [match.end() for match in _BLANK_LINES.finditer(text)]
    if document.kind == "markdown":
        cuts = _outside_fences(cuts, text)
    sections, start = [], 0
    for here, following in itertools.pairwise([*cuts, len(text)]):
        if following - start > length and here > start:
            sections.append(text[start:here])
            start = here
    if not sections:
        return [document]
    sections.append(text[start:])
    return [replace(document, name=f"{document.name}#{i}", text=part) for i, part in enumerate(sections) if part.strip()]


def _outside_fences(cuts: list[int], text: str) -> list[int]:
    """The places that are in no fenced block; one that is never closed goes on to the end, as CommonMark has it."""
    fences: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        mark, rest = match.groups()
        if opened is None:
            # A line of backticks with more of them further on is a code span.
            opened = match if mark[0] == "~" or "`" not in rest else None
        elif mark.startswith(opened[1]) and not rest.strip():
            fences.append((opened.start(), match.end()))
            opened = None
    if opened is not None:
        fences.append((opened.start(), len(text)))
    outside, following = [], 0
    for cut in cuts:
        while following < len(fences) and fences[following][1] < cut:
            following += 1
        if following == len(fences) or cut <= fences[following][0]:
            outside.append(cut)
    return outside
