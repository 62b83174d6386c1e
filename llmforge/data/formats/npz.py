"""Token-id shards: arrays of ids in ``.npz`` or ``.npy`` files, read in pieces and never unpickled."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

import numpy as np

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import leave_out, listed
from llmforge.errors import DataError

#: Bytes of an array that are held at a time.
_CHUNK = 2**20
#: Ids that one document may have: it is held as a whole.
MAX_DOCUMENT_IDS = 2**28
#: Ids that an array may promise.
MAX_IDS = 2**36
#: Bytes that the description of an array may have, as numpy has it.
_MAX_HEADER = 10_000
_NPY_MAGIC = b"\x93NUMPY"
_DEFAULT_ARRAY = "input_ids"
#: What reading a torn or foreign zip, or a member of one, raises.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)


class _Refused(Exception):
    """Why the file is not used: words that add up, and this file's own."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.detail = detail


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # byte of the member that its data begins at

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read(
    file: BinaryIO,
    name: str,
    source: Source,
    account: Account,
    *,
    vocab_size: int | None = None,
    separator: int | None = None,
    pad: int | None = None,
) -> Iterator[Document]:
    """The documents of a shard, as ids, each called ``name#number`` from 1.

    The array is `source.array`, else ``input_ids``, else the only one. A 1-D array is a stream that is cut at the
    separators; a row of a 2-D array is a document, or several where it holds separators. The file is gone through
    once before anything is given, so that a file with an impossible id or a broken end gives nothing.

    Args:
        file: Binary, at the start, seekable.
        name: What the file is called.
        source: Names the array.
        account: Counts what is left out.
        vocab_size: Ids from this on are impossible; None knows no bound but that of 32 bits.
        separator: Id between documents, which is dropped; None takes a 1-D array as one document.
        pad: Id that rows are filled up with, dropped from their ends.

    Yields:
        Documents with `ids` of shape ``(tokens,)``, uint16 where the vocabulary fits and else uint32.

    Raises:
        DataError: There is no such array; or the file is broken or refused, and the source is strict.
    """
    limit = 2**32 if vocab_size is None else vocab_size
    number = 0
    try:
        with _open(file, source, name) as (member, size):
            header = _header(member, size)
            _check(member, header, limit)
        file.seek(0)
        with _open(file, source, name) as (member, _):
            member.read(header.start)
            dtype = np.uint16 if limit <= 2**16 or header.dtype == np.uint16 else np.uint32
            for ids in _documents(member, header, separator, pad):
                number += 1
                if len(ids):
                    yield Document(f"{name}#{number}", "", ids=ids.astype(dtype))
                else:
                    account.skip("empty", f"{name}#{number}")
            if number == 0:
                account.skip("empty", name)
    except _Refused as error:
        leave_out(source, account, str(error), name, error.detail)
    except _BROKEN as error:
        leave_out(source, account, "broken array file", name, ascii(" ".join(str(error).split())[:200])[1:-1])


@contextlib.contextmanager
def _open(file: BinaryIO, source: Source, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """The array's ``.npy`` stream and the bytes it has."""
    start = file.tell()
    magic = file.read(len(_NPY_MAGIC))
    size = file.seek(0, 2) - start
    file.seek(start)
    if magic == _NPY_MAGIC:
        yield file, size
        return
    with zipfile.ZipFile(file) as archive:
        arrays = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
        wanted = source.array or (
            _DEFAULT_ARRAY if _DEFAULT_ARRAY in arrays else next(iter(arrays), "") if len(arrays) == 1 else ""
        )
        if wanted not in arrays:
            problem = f"{name} has no array {source.array!r}" if source.array else f"{name} has no array {_DEFAULT_ARRAY!r}"
            raise DataError(f"{problem}; it has {listed(list(arrays))}.", "Name one of them with --array.")
        info = arrays[wanted]
        with archive.open(info) as member:
            yield member, info.file_size


def _header(member: IO[bytes], size: int) -> _Header:
    """The header of an ``.npy`` stream, believed only as far as its bytes go."""
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise _Refused("array of an unknown .npy version", ".".join(map(str, version)))
    width = 2 if version == (1, 0) else 4
    length = member.read(width)
    promised = int.from_bytes(length, "little")
    if promised > _MAX_HEADER:  # numpy would read it before it looks
        raise _Refused("array whose header promises too much", f"a header of {promised:,} bytes")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read_header(io.BytesIO(length + member.read(promised)))
    except Exception as error:  # numpy has Python's own parser read it, which raises a dozen things
        raise _Refused("array whose header cannot be read", type(error).__name__) from None
    if dtype.kind not in "iu":
        raise _Refused("array of another type than integers", f"{dtype}"[:100])
    if len(shape) not in (1, 2):
        raise _Refused("array that is neither 1-D nor 2-D", f"shape {shape}"[:100])
    count = math.prod(shape)
    if fortran and len(shape) > 1 and count:
        raise _Refused("array in Fortran order", "save numpy.ascontiguousarray of it")
    if min(shape) < 0 or count > MAX_IDS:
        raise _Refused("array whose header promises too much", f"shape {shape}"[:100])
    start = len(_NPY_MAGIC) + 2 + width + promised
    if start + count * dtype.itemsize != size:
        raise _Refused(
            "array whose header is not what the file holds", f"{count * dtype.itemsize:,} bytes, but there are {size - start:,}"
        )
    if len(shape) == 2 and shape[1] > MAX_DOCUMENT_IDS:
        raise _Refused("array with rows that are too long", f"shape {shape}"[:100])
    return _Header(tuple(shape), dtype, start)


def _pieces(member: IO[bytes], header: _Header) -> Iterator[np.ndarray]:
    """The array's ids in order, flat, a piece at a time; whole rows of a 2-D array."""
    row = math.prod(header.shape[1:]) * header.dtype.itemsize
    step = max(1, _CHUNK // max(row, 1)) * row
    left = header.count * header.dtype.itemsize
    while left:
        wanted = min(step, left)
        parts = []
        while wanted:
            data = member.read(min(wanted, _CHUNK))
            if not data:
                raise EOFError("the data ends too early")
            parts.append(data)
            wanted -= len(data)
            left -= len(data)
        yield np.frombuffer(b"".join(parts), dtype=header.dtype)
    if member.read(1):  # at the end a zip's checksum is looked at
        raise EOFError("there is more data than the header says")


def _check(member: IO[bytes], header: _Header, limit: int) -> None:
    """Go through all ids, held a piece at a time.

    Raises:
        _Refused: Some are negative, or not below `limit`; the worst, its place and their number are told.
    """
    place, bad = 0, 0
    worst, worst_place = 0, 0
    for piece in _pieces(member, header):
        lowest, highest = int(piece.min()), int(piece.max())
        if lowest < 0 or highest >= limit:
            bad += int(np.count_nonzero((piece < 0) | (piece >= limit)))
            # How far outside: -1 and `limit` are one off.
            for value, where in ((lowest, piece.argmin()), (highest, piece.argmax())):
                if _outside(value, limit) > _outside(worst, limit):
                    worst, worst_place = value, place + int(where)
        place += len(piece)
    if bad:
        index = tuple(int(part) for part in np.unravel_index(worst_place, header.shape))
        at = index[0] if len(index) == 1 else index
        bound = f"0 to {limit - 1}"
        raise _Refused("ids outside the vocabulary", f"{bad:,} of {header.count:,} not in {bound}, the worst {worst} at {at}")


def _outside(value: int, limit: int) -> int:
    return -value if value < 0 else max(0, value - limit + 1)


def _documents(member: IO[bytes], header: _Header, separator: int | None, pad: int | None) -> Iterator[np.ndarray]:
    if len(header.shape) == 2:
        for piece in _pieces(member, header):
            for row in piece.reshape(-1, header.shape[1]):
                if pad is not None:
                    filled = np.flatnonzero(row != pad)
                    row = row[: filled[-1] + 1] if len(filled) else row[:0]
                yield from _cut(row, separator)
        return
    held: list[np.ndarray] = []
    for piece in _pieces(member, header):
        *ended, rest = _split(piece, separator)
        for ids in ended:
            if held or len(ids):
                yield np.concatenate([*held, ids])
            held = []
        held += [rest] if len(rest) else []
        if sum(map(len, held)) > MAX_DOCUMENT_IDS:
            raise _Refused(
                "document with too many ids", f"more than {MAX_DOCUMENT_IDS:,}; give the tokenizer that separates them"
            )
    if held:
        yield np.concatenate(held)


def _cut(row: np.ndarray, separator: int | None) -> Iterator[np.ndarray]:
    """A row's documents; a row of nothing is one empty one."""
    found = [ids for ids in _split(row, separator) if len(ids)]
    yield from found or [row[:0]]


def _split(ids: np.ndarray, separator: int | None) -> list[np.ndarray]:
    """What stands before, between and after the separators; the first and the last may be empty, the others are not."""
    if separator is None:
        return [ids]
    cuts = np.flatnonzero(ids == separator)
    starts, ends = np.append(0, cuts + 1), np.append(cuts, len(ids))
    kept = ends > starts
    kept[[0, -1]] = True
    return [ids[start:end] for start, end in zip(starts[kept], ends[kept], strict=True)]
