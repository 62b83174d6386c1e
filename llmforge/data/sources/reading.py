"""Documents out of a stream of bytes whose kind is known."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal, cast

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document, IdRange
from llmforge.data.sources import cutting
from llmforge.data.sources.cutting import cut_stream, paragraphs
from llmforge.data.sources.kinds import TEXTUAL
from llmforge.data.sources.streams import PROBE, broken, chunks, decode, is_binary
from llmforge.errors import DataError

LARGE = f"larger than {cutting.WHOLE_BYTES >> 20} MB: cut into sections of about {cutting.LARGE_SECTION_BYTES >> 10} KB"
#: What is compressed, or a member of an archive, and can only be read by going to and fro in it is held up to this size.
SEEKABLE_BYTES = 256 << 20


@dataclass(frozen=True)
class Reading:
    """What is to be made of a stream.

    Attributes:
        source: Settings.
        account: Where to count what is left out or mended.
        kind: What the stream is.
        name: The file's name, or ``archive!/member``.
        start: Bytes of the file before the stream.
        line: Lines of the file before it.
        large: It is part of a text that is too large for one document.
        ids: What token ids may be.
    """

    source: Source
    account: Account
    kind: str
    name: str
    start: int = 0
    line: int = 0
    large: bool = False
    ids: IdRange | None = None

    def over_long(self, line: int) -> None:
        """Count a line that is too long; `line` counts from 1 within the stream."""
        broken(self.source, self.account, cutting.OVER_LONG, f"{self.name}:{self.line + line}")


def by_paragraph(kind: str, source: Source) -> bool:
    """Whether each block between blank lines of such a file is a document."""
    return source.segment == "paragraph" and kind in ("text", "gutenberg")


def documents(file: BinaryIO, reading: Reading) -> Iterator[Document]:
    """The documents of `file`, which goes from its current place to its end, with names and groups.

    Paragraphs and the sections of a text that is too large for one document are called after the byte where they
    start, ``notes.txt@1234``, counted in UTF-8 and for a book behind its header; lines of JSONL after their number,
    ``data.jsonl:17``.

    Raises:
        DataError: With `source.strict`, the first thing that is broken.
        OSError and the like (`streams.BROKEN`): The file is.
    """
    textual = reading.kind in ("text", "code", "markdown", "gutenberg")
    yield from finished(_texts(file, reading) if textual else _records(file, reading), reading)


def finished(found: Iterator[Document], reading: Reading) -> Iterator[Document]:
    """What a reader yields with the group that the source wants, without the empty ones."""
    group = _group(reading)
    for document in found:
        if group and not document.group:
            document = replace(document, group=group)
        if document.ids is None and (not document.text or document.text.isspace()):
            reading.account.skip("empty", document.name)
        else:
            yield document


def _group(reading: Reading) -> str:
    if reading.source.group_by == "file":
        return reading.name
    return reading.name.rpartition("/")[0] or "." if reading.source.group_by == "folder" else ""


def _texts(file: BinaryIO, reading: Reading) -> Iterator[Document]:
    account = reading.account
    data = file.read(cutting.WHOLE_BYTES + 1)
    if is_binary(data) and not reading.start:
        account.skip("binary", reading.name)
        return
    kind = cast(Literal["text", "code", "markdown"], "text" if reading.kind == "gutenberg" else reading.kind)
    if by_paragraph(reading.kind, reading.source):
        if reading.kind == "gutenberg" and reading.source.clean and len(data) <= cutting.WHOLE_BYTES:
            data = _book(decode(data, account, reading.name), account).encode("utf-8", "surrogatepass")
        for piece in cut_stream(chunks(file, data), cutting.RANGE_BYTES, reading.over_long):
            for start, block in paragraphs(piece):
                if not block.isspace():
                    yield Document(f"{reading.name}@{reading.start + start}", decode(block, account, reading.name), kind)
    elif reading.large or len(data) > cutting.WHOLE_BYTES:
        for piece in cut_stream(chunks(file, data), cutting.LARGE_SECTION_BYTES, reading.over_long):
            account.changed[LARGE] += not reading.start + piece.start
            yield Document(f"{reading.name}@{reading.start + piece.start}", decode(piece.data, account, reading.name), kind)
    else:
        yield Document(reading.name, decode(data, account, reading.name), kind)


def _book(text: str, account: Account) -> str:
    """A book without what Project Gutenberg put around it: that can be told only as long as it is whole."""
    from llmforge.data.gutenberg import removals, strip_gutenberg

    stripped, removed = strip_gutenberg(text)
    account.changed.update(removals(removed))
    return stripped


def _records(file: BinaryIO, reading: Reading) -> Iterator[Document]:
    """Records by the reader of their format; in a folder of all sorts, a file that is no corpus is counted, not refused."""
    source = reading.source
    try:
        yield from _by_format(file, reading)
    except DataError:
        if source.format != "auto" or source.strict or source.path.endswith(reading.name):
            raise
        reading.account.skip(f"{reading.kind} file without the fields that are asked for", reading.name)


def _by_format(file: BinaryIO, reading: Reading) -> Iterator[Document]:
    source, account, name = reading.source, reading.account, reading.name
    head = b""
    if reading.kind in TEXTUAL:
        head = file.read(PROBE)
        if is_binary(head) and not reading.start:
            account.skip("binary", name)
            return
    if reading.kind == "jsonl":
        yield from _lines(file, head, reading)
        return
    if not _seeks_slowly(file):
        file.seek(-len(head), io.SEEK_CUR)
    elif reading.kind == "csv":
        file = cast(BinaryIO, io.BufferedReader(_Chunked(chunks(file, head))))
    else:
        data = head + file.read(SEEKABLE_BYTES + 1 - len(head))
        if len(data) > SEEKABLE_BYTES:
            broken(source, account, f"compressed {reading.kind} larger than {SEEKABLE_BYTES >> 20} MB", name)
            return
        file = io.BytesIO(data)
    if reading.kind == "json":
        from llmforge.data.formats import json_file

        yield from json_file.read(file, name, source, account)
    elif reading.kind == "csv":
        from llmforge.data.formats import csv_file

        yield from csv_file.read(file, name, source, account)
    elif reading.kind == "parquet":
        from llmforge.data.formats import parquet

        yield from parquet.read(file, name, source, account)
    else:
        from llmforge.data.formats import npz

        known = {} if reading.ids is None else {key: getattr(reading.ids, key) for key in ("vocab_size", "separator", "pad")}
        yield from npz.read(file, name, source, account, **known)


def _lines(file: BinaryIO, head: bytes, reading: Reading) -> Iterator[Document]:
    """JSONL, a few megabytes at a time: a line is never longer than the reader can hold."""
    from llmforge.data.formats import jsonl

    for piece in cut_stream(chunks(file, head), cutting.RANGE_BYTES, reading.over_long, at_blank_lines=False):
        yield from jsonl.read(
            io.BytesIO(piece.data), reading.name, reading.source, reading.account, first_line=reading.line + piece.line + 1
        )


class _Chunked(io.RawIOBase):
    """A stream over chunks of bytes."""

    def __init__(self, parts: Iterator[bytes]):
        self._parts = parts
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._rest or next(self._parts, b"")
        count = min(len(data), len(buffer))
        buffer[:count], self._rest = data[:count], data[count:]
        return count


def _seeks_slowly(file: BinaryIO) -> bool:
    """Whether going back in it means unpacking it again, as in a member of an archive."""
    return not isinstance(file, io.BytesIO) and not isinstance(getattr(file, "raw", None), io.FileIO)
