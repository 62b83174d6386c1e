"""Bytes as they come out of a file: unpacked within bounds, decoded with what was mended told."""

from __future__ import annotations

import codecs
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from llmforge.data.documents import Account
from llmforge.data.sources.kinds import compression_of
from llmforge.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from llmforge.configs.source import Source

#: A NUL byte among the first bytes of a file means that it is not text.
PROBE = 8 * 1024
CHUNK = 1 << 20
#: What is unpacked may be so many times as large as it was packed: text hardly gets below a fiftieth.
MOST_RATIO = 200
#: Up to this size nothing is called a bomb, whatever the ratio.
ALWAYS_UNPACKED = 64 << 20

#: Longest marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class TooLarge(Exception):
    """What a compressed file unpacks to is out of all proportion; the text says so as a reason."""


#: What reading a broken file or archive can raise.
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, TooLarge)


def broken(source: Source, account: Account, reason: str, name: str) -> None:
    """Count what cannot be read, or stop at it where the source is strict.

    Raises:
        DataError: With `source.strict`.
    """
    if source.strict:
        raise DataError(f"{name}: {reason}.", "Mend or remove it, or leave --strict out.")
    account.skip(reason, name)


def reason_of(error: BaseException) -> str:
    """Why reading failed, in words that do not vary from file to file."""
    if isinstance(error, TooLarge):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.errno:
        return f"unreadable ({error.strerror})"
    return "broken compressed file or archive"


class _Bounded(io.RawIOBase):
    """Passes on what `file` unpacks to, until that is out of proportion to the `packed` bytes."""

    def __init__(self, file: BinaryIO, packed: int):
        self._file = file
        self._most = max(MOST_RATIO * packed, ALWAYS_UNPACKED)
        self.passed = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        self.passed += len(data)
        if self.passed > self._most:
            raise TooLarge(f"unpacks to more than {MOST_RATIO} times its size")
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def unpacked(file: BinaryIO, name: str, packed: int) -> BinaryIO:
    """`file`, which is `packed` bytes long, as a stream of what it unpacks to; itself where its name says it is not packed.

    Raises:
        TooLarge: While reading: more than `MOST_RATIO` times as much as went in.
    """
    suffix = compression_of(name)
    if not suffix:
        return file
    stream: object
    if suffix == ".gz":
        import gzip

        stream = gzip.GzipFile(fileobj=file)
    elif suffix == ".bz2":
        import bz2

        stream = bz2.BZ2File(file)
    elif suffix == ".xz":
        stream = lzma.LZMAFile(file)  # noqa: SIM115 (closed with what wraps it)
    else:
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
    return cast(BinaryIO, io.BufferedReader(_Bounded(cast(BinaryIO, stream), packed), CHUNK))


def unpacked_size(stream: BinaryIO, size: int) -> int:
    """Bytes that have come out of a stream of `unpacked`; `size` where it is not packed."""
    raw = getattr(stream, "raw", None)
    return raw.passed if isinstance(raw, _Bounded) else size


def wide_encoding(head: bytes) -> str | None:
    """``utf-16`` or ``utf-32`` where the first bytes carry its mark."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def is_binary(head: bytes) -> bool:
    """Whether the first `PROBE` bytes of a file show that it is no text."""
    return b"\0" in head[:PROBE] and wide_encoding(head) is None


def chunks(file: BinaryIO, head: bytes = b"") -> Iterator[bytes]:
    """`head`, then the rest of `file` piece by piece, as UTF-8 where it is UTF-16 or UTF-32."""
    head = head or file.read(PROBE)
    raw = _raw_chunks(file, head)
    encoding = wide_encoding(head)
    return raw if encoding is None else _recoded(raw, encoding)


def _raw_chunks(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    if head:
        yield head
    while chunk := file.read(CHUNK):
        yield chunk


def _recoded(raw: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for chunk in raw:
        if text := decoder.decode(chunk):
            yield text.encode("utf-8", "replace")
    if text := decoder.decode(b"", final=True):
        yield text.encode("utf-8", "replace")


def decode(data: bytes, account: Account, name: str) -> str:
    """The text of `data`, without its byte-order mark; undecodable bytes are replaced, and told of the file `name`."""
    encoding = wide_encoding(data) or "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        account.change("undecodable bytes replaced", name)
        return data.decode(encoding, errors="replace")
