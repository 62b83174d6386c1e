"""Bytes of any Unicode encoding as UTF-8, and lines of them, neither held as a whole."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

#: Bytes of one record (a line of JSONL, a field of CSV, an element of a JSON array) that are held at most.
MAX_RECORD = 64 * 2**20
#: What `account.changed` calls a document whose bytes were no UTF-8 in places.
REPLACED = "undecodable bytes replaced"
_CHUNK = 2**18

#: Byte-order mark → decoder; UTF-32's little-endian mark begins with UTF-16's, so it comes first.
_MARKS: tuple[tuple[bytes, Callable[..., tuple[str, int]] | None], ...] = (
    (codecs.BOM_UTF8, None),
    (codecs.BOM_UTF32_LE, codecs.utf_32_le_decode),
    (codecs.BOM_UTF32_BE, codecs.utf_32_be_decode),
    (codecs.BOM_UTF16_LE, codecs.utf_16_le_decode),
    (codecs.BOM_UTF16_BE, codecs.utf_16_be_decode),
)


class Utf8Stream(io.RawIOBase):
    """`file` from where it stands, as valid UTF-8.

    A byte-order mark is dropped, UTF-16 and UTF-32 with one are decoded, undecodable bytes are replaced.

    Attributes:
        replaced: Whether any were, so far.
    """

    def __init__(self, file: BinaryIO, *, replace: bool = True):
        self.replaced = False
        self._file = file
        self._rest = b""  # read, not yet decoded
        self._ready = b""  # decoded
        self._given = 0  # bytes of it that were given
        self._ended = False
        self._decode: Callable[..., tuple[str, int]] | None = None
        self._through = not replace
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._given == len(self._ready) and not self._ended:
            self._given = 0
            self._ready = b""
            self._fill()
        part = memoryview(self._ready)[self._given : self._given + len(buffer)]
        buffer[: len(part)] = part
        self._given += len(part)
        return len(part)

    def _fill(self) -> None:
        data = self._file.read(_CHUNK)
        self._ended = not data
        self._rest += data
        if not self._begun:
            if len(self._rest) < 4 and data:
                return
            self._begin()
        if self._decode is None and self._through:
            self._ready, self._rest = self._rest, b""
            return
        decode = self._decode or codecs.utf_8_decode
        try:
            text, used = decode(self._rest, "strict", self._ended)
        except UnicodeDecodeError:
            self.replaced = True
            text, used = decode(self._rest, "replace", self._ended)
            self._ready = text.encode()
        else:
            self._ready = text.encode() if self._decode is not None else self._rest[:used]
        self._rest = self._rest[used:]

    def _begin(self) -> None:
        self._begun = True
        for mark, decode in _MARKS:
            if self._rest.startswith(mark):
                self._rest = self._rest[len(mark) :]
                self._decode = decode
                return


def lines(file: BinaryIO, limit: int = MAX_RECORD) -> Iterator[bytes | None]:
    """Lines of `file` without their ``\\n``, which alone ends one; None stands for a line longer than `limit`.

    Such a line is read past, never held.
    """
    held: list[bytes] = []  # a line's beginning
    size = 0
    while chunk := file.read(_CHUNK):
        first, *others = chunk.split(b"\n")
        size += len(first)
        if size <= limit:
            held.append(first)
        else:
            held = []
        if not others:
            continue
        yield b"".join(held) if size <= limit else None
        for line in others[:-1]:
            yield line if len(line) <= limit else None
        held, size = [others[-1]], len(others[-1])
    if size:
        yield b"".join(held) if size <= limit else None
