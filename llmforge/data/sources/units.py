"""Units: the parts of a source that are read, and cached, each for itself.

A unit is a file, an archive, or a range of a large file; its digest says what is in it. So files can be read in
parallel, in bounded memory, and only those that changed are read again.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import FileIO
from typing import Any, BinaryIO, cast

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document, IdRange
from llmforge.data.sources import cutting
from llmforge.data.sources.archives import members
from llmforge.data.sources.cutting import cut_stream
from llmforge.data.sources.finding import FoundFile, find_files
from llmforge.data.sources.kinds import TEXTUAL, compression_of
from llmforge.data.sources.known import KnownFiles
from llmforge.data.sources.reading import Reading, by_paragraph, documents, finished
from llmforge.data.sources.streams import (
    BROKEN,
    CHUNK,
    broken,
    chunks,
    is_binary,
    reason_of,
    unpacked,
    unpacked_size,
    wide_encoding,
)
from llmforge.errors import DataError

_ARCHIVES = ("zip", "tar")
#: Reasons to leave out a file that hold as long as its content does.
_BY_CONTENT = {"empty", "binary"}


@dataclass(frozen=True)
class Unit:
    """What is read in one go.

    Attributes:
        source: Where it belongs, with the settings to read it by.
        name: Unique within the source: the file's name, for a range with ``@`` and its first byte, or ``:`` and its
            first line where lines are documents.
        kind: What it is read as: text, code, markdown, gutenberg, json, jsonl, csv, parquet, npz, zip, tar, hf, python.
        size: Its bytes, as they are stored; 0 where that is not known.
        digest: BLAKE2b of its bytes and its kind; empty where content is known only by reading.
        file: The name of its file, the same for all ranges of one.
        path: Where its bytes are on this machine.
        start: Its first byte in the file.
        line: Lines of the file before it.
        large: Whether it is part of a text that is too large for one document.
        modified: The file's time of change in nanoseconds, and with `total` what tells that it is still the same.
        total: The file's bytes.
    """

    source: Source
    name: str
    kind: str
    size: int
    digest: str
    file: str = ""
    path: str = ""
    start: int = 0
    line: int = 0
    large: bool = False
    modified: int = 0
    total: int = 0


def find_units(source: Source, account: Account, known: KnownFiles | None = None) -> Iterator[Unit]:
    """The units of `source`, sorted by file name and place; what is left out by name, as binary or as empty is counted.

    Finding reads every byte once, for the digests, and fetches what is remote.

    Args:
        source: Where to look.
        account: Counts what is left out.
        known: Spares the reading of what has not changed; what is found is added to it.

    Raises:
        DataError: There is nothing at the path or URL, or it cannot be fetched; with `source.strict`, the first file or
            folder that cannot be read.
    """
    if source.format in ("hf", "python"):
        yield _elsewhere(source)
        return
    count = 0
    for found in find_files(source, account):
        first = True
        for unit in _known_units(found, source, account, known) if known else _units_of(found, source, account, found.fetch()):
            count += first
            first = False
            yield unit
        if count == source.max_files:
            return


def _known_units(found: FoundFile, source: Source, account: Account, known: KnownFiles) -> list[Unit]:
    """`_units_of`, from memory where the file is as it was."""
    path, read = found.fetch(), time.time_ns()
    try:
        status = os.stat(path)
    except OSError as error:
        broken(source, account, reason_of(error), found.name)
        return []
    told = known.find(path, status)
    plain: list[list[Any]]
    if told is None:
        own = Account()
        units = list(_units_of(found, source, own, path))
        if units or own.skipped.keys() <= _BY_CONTENT:
            plain = [[unit.name, unit.size, unit.digest, unit.start, unit.line, unit.large] for unit in units]
            known.add(path, status, read, plain, own)
    else:
        plain, own = told
        size, changed = status.st_size, status.st_mtime_ns
        units = [
            Unit(source, name, found.kind, part, digest, found.name, path, start, line, large, changed, size)
            for name, part, digest, start, line, large in plain
        ]
    account.add(own)
    return units


def _elsewhere(source: Source) -> Unit:
    """The one unit of a source that is no files; a dataset on disk has content to go by."""
    path = os.path.expanduser(source.path)
    if source.format == "python" or not os.path.isdir(path):
        return Unit(source, source.name, source.format, 0, "")
    digest, size = _new_digest(source.format), 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            digest.update(f"{os.path.relpath(os.path.join(folder, name), path)}\0".encode("utf-8", "surrogateescape"))
            with open(os.path.join(folder, name), "rb") as file:
                size += _update(digest, file)
    return Unit(source, source.name, source.format, size, digest.hexdigest(), path=path)


def _units_of(found: FoundFile, source: Source, account: Account, path: str) -> Iterator[Unit]:
    name, kind = found.name, found.kind
    packed = bool(compression_of(name))
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                account.skip("no regular file", name)
                return
            head = file.read(min(status.st_size, cutting.RANGE_BYTES) + 1)
            if not head:
                account.skip("empty", name)
                return
            if kind in TEXTUAL and not packed and is_binary(head):
                account.skip("binary", name)
                return
            whole = Unit(
                source, name, kind, status.st_size, "", file=name, path=path, modified=status.st_mtime_ns, total=status.st_size
            )
            if _in_ranges(whole) and not packed and not wide_encoding(head):
                yield from _ranges(whole, chunks(file, head), account)
                return
            digest = _new_digest(kind)
            digest.update(head)
            if len(head) < status.st_size:
                _update(digest, file)
            yield replace(whole, digest=digest.hexdigest())
    except OSError as error:
        broken(source, account, reason_of(error), name)


def _in_ranges(unit: Unit) -> bool:
    """Whether a file is so large, and of such a kind, that it is read in ranges."""
    if unit.kind == "jsonl" or (unit.kind == "text" and by_paragraph(unit.kind, unit.source)):
        return unit.size > cutting.RANGE_BYTES
    return unit.kind in ("text", "code", "markdown", "gutenberg") and unit.size > cutting.WHOLE_BYTES


def _ranges(whole: Unit, parts: Iterator[bytes], account: Account) -> Iterator[Unit]:
    by_line = whole.kind == "jsonl"
    large = not by_line and not by_paragraph(whole.kind, whole.source)
    over_long = Reading(whole.source, account, whole.kind, whole.name).over_long
    for piece in cut_stream(parts, cutting.RANGE_BYTES, over_long, at_blank_lines=not by_line):
        digest = _new_digest(whole.kind)
        digest.update(piece.data)
        yield replace(
            whole,
            name=f"{whole.name}:{piece.line + 1}" if by_line else f"{whole.name}@{piece.start}",
            size=len(piece.data),
            digest=digest.hexdigest(),
            start=piece.start,
            line=piece.line,
            large=large,
        )


def _new_digest(kind: str) -> hashlib.blake2b:
    return hashlib.blake2b(f"{kind}\0".encode(), digest_size=16)


def _update(digest: hashlib.blake2b, file: BinaryIO | FileIO) -> int:
    size = 0
    while chunk := file.read(CHUNK):
        size += len(chunk)
        digest.update(chunk)
    return size


def read_unit(unit: Unit, account: Account, ids: IdRange | None = None) -> Iterator[Document]:
    """The documents of `unit`, in order; in memory for a few times `cutting.WHOLE_BYTES` at most.

    Args:
        ids: What token ids may be, for sources of those.

    Raises:
        DataError: The file changed since `find_units`; with `source.strict`, the first thing that is broken.
    """
    source = unit.source
    whole = Reading(source, account, unit.kind, unit.file, unit.start, unit.line, unit.large, ids)
    if unit.kind == "hf":
        from llmforge.data.formats import hub

        yield from finished(hub.documents(source, account), whole)
    elif unit.kind == "python":
        from llmforge.data.formats import python_source

        yield from finished(python_source.documents(source, account), whole)
    else:
        try:
            with open(unit.path, "rb") as file:
                _check_unchanged(unit, os.fstat(file.fileno()))
                if unit.kind in _ARCHIVES:
                    yield from _members(file, unit, account, ids)
                elif unit.size <= cutting.WHOLE_BYTES and not compression_of(unit.file):
                    file.seek(unit.start)
                    yield from _counted(io.BytesIO(file.read(unit.size)), whole, unit.size)
                else:
                    stream = unpacked(cast(BinaryIO, file), unit.file, unit.size)
                    yield from _counted(stream, whole, unit.size)
        except BROKEN as error:
            broken(source, account, reason_of(error), unit.name)


def _members(file: BinaryIO, unit: Unit, account: Account, ids: IdRange | None) -> Iterator[Document]:
    counted = False
    try:
        for name, kind, stream, size in members(file, unit.file, unit.size, unit.source, account):
            counted = False
            try:
                yield from _counted(stream, Reading(unit.source, account, kind, name, ids=ids), size)
            except BROKEN as error:
                broken(unit.source, account, reason_of(error), name)
                counted = True
    except BROKEN:
        # What breaks a tar breaks the member that it comes in first: that is told already.
        if not counted:
            raise


def _counted(stream: BinaryIO, reading: Reading, size: int) -> Iterator[Document]:
    """The documents of a stream; the account is told of the file if there are any."""
    any_yet = False
    for document in documents(stream, reading):
        if not any_yet:
            reading.account.files += not reading.start
            any_yet = True
        yield document
    if any_yet:
        reading.account.bytes += unpacked_size(stream, size)


def _check_unchanged(unit: Unit, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (unit.total, unit.modified):
        raise DataError(f"{unit.file} changed while it was being prepared.", "Run it again once nothing writes there.")
