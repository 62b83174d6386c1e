"""What a store says about the bytes that it holds, and the same made here, to compare.

A bit flipped on the way up is stored without an error, and one on the way down handed over without one: the
libraries do not look. Nothing is imported before a store that needs it is spoken to.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

#: Bytes read, and sent, at a time.
PART = 8 << 20
_ETAG = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")


class Hash(Protocol):
    """What `hashlib`'s and google_crc32c's objects have in common."""

    def update(self, data: bytes) -> Any: ...

    def digest(self) -> bytes: ...


class _ETag:
    """S3's: the MD5 of the bytes; of what was sent in parts, the MD5 of the parts' MD5s with their number behind it."""

    def __init__(self, parted: bool):
        self._parted, self._open, self._room = parted, hashlib.md5(usedforsecurity=False), PART
        self._parts: list[bytes] = []

    def update(self, data: bytes) -> None:
        while self._parted and len(data) >= self._room:
            self._open.update(data[: self._room])
            self._parts.append(self._open.digest())
            data, self._open, self._room = data[self._room :], hashlib.md5(usedforsecurity=False), PART
        self._open.update(data)
        self._room -= len(data)

    def value(self) -> str:
        if not self._parted:
            return self._open.hexdigest()
        parts = [*self._parts, *([self._open.digest()] if self._room < PART else [])]
        return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


class Digest:
    """Of some bytes: their SHA-256, and what the store of `protocol` will say of them.

    Args:
        protocol: As fsspec names it.
        size: Of all that is to come, in bytes.
    """

    def __init__(self, protocol: str, size: int):
        self._sha256 = hashlib.sha256()
        self._crc32c: Hash | None = None
        self._etag = _ETag(parted=size >= 2 * PART) if protocol == "s3" else None
        if protocol == "gs":
            import google_crc32c

            self._crc32c = google_crc32c.Checksum()

    def update(self, data: bytes) -> None:
        """Go on with `data`."""
        for each in (self._sha256, self._crc32c, self._etag):
            if each is not None:
                each.update(data)

    @property
    def sha256(self) -> str:
        """In hexadecimal, as manifests have it."""
        return self._sha256.hexdigest()

    @property
    def stored(self) -> str | None:
        """What the store is to say; None where it says nothing, and has to be read back."""
        if self._crc32c is not None:
            return base64.b64encode(self._crc32c.digest()).decode()
        return self._etag.value() if self._etag is not None else None


def digest_file(path: Path, protocol: str) -> Digest:
    """The digest of a file.

    Raises:
        OSError: It cannot be read.
    """
    made = Digest(protocol, path.stat().st_size)
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            made.update(data)
    return made


def told_checksum(protocol: str, info: Mapping[str, Any]) -> str | None:
    """What the store tells of an object, to be compared with `Digest.stored`; None where it is no checksum of the bytes."""
    if protocol == "gs":
        value = info.get("crc32c")
        return value if isinstance(value, str) and value else None
    value = str(info.get("ETag", "")).strip('"').lower() if protocol == "s3" else ""
    return value if _ETAG.fullmatch(value) else None
