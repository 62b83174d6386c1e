"""A run's folder in a store (``gs://``, ``s3://``, ``file://``, whatever fsspec speaks); nothing else here opens one.

What arrived is compared with what was sent, both ways. A store that does not answer is waited for with a bound,
and what it says is told in one line without what it quotes, which may hold tokens or signed addresses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmforge.checkpoints.checksums import PART, Digest, digest_file, told_checksum
from llmforge.checkpoints.failures import RemoteError, explain
from llmforge.checkpoints.objects import ATTEMPTS, CHUNK, PARTS, WORKERS, RemoteObjects
from llmforge.checkpoints.stores import progress
from llmforge.runtime.logs import logger
from llmforge.storage.files import new_file

#: Objects that Google's store puts together at once.
_MOST_SOURCES = 32


class _Torn(Exception):
    """What was downloaded is not what is stored."""


@contextlib.contextmanager
def _torn_if_corrupt() -> Iterator[None]:
    """A download that the store's own library found to be corrupt is tried again like one that was found so here."""
    try:
        yield
    except RemoteError as error:
        if error.kind != "corrupt":
            raise
        logger.warning("%s", error)
        raise _Torn from None


class RemoteFolder(RemoteObjects):
    """The folder at `url`; the store is first spoken to when something is asked of it. Threads may share one.

    Raises:
        ConfigError, RemoteError: As `RemoteObjects`.
    """

    def __init__(self, url: str):
        super().__init__(url)
        self._parts = ThreadPoolExecutor(WORKERS, thread_name_prefix="part")

    def put(self, local: Path, name: str, digest: Digest | None = None, there: bool = False) -> int:
        """Upload a file, compare what the store holds with it, and return the bytes that had to be sent.

        What does not arrive as it was sent is deleted, and sent again a few times.

        Args:
            digest: Of the file, where it is known.
            there: Whether something is there that may be it, from an upload that was broken off.

        Raises:
            OSError: The file cannot be read.
        """
        path, size = self.path(name), local.stat().st_size
        known = digest or digest_file(local, self.protocol)
        if there and known.stored is not None and self.stored(name) == known.stored:
            return 0
        for attempt in range(ATTEMPTS):
            with explain(f"{self.url}/{name}", self.protocol):
                if self.protocol == "gs" and size >= 2 * PART:
                    self._put_parts(local, name, size)
                else:
                    self._put_file(local, path, size)
            if self._arrived(name, known):
                return size
            logger.warning("%s/%s did not arrive as it was sent (attempt %d of %d)", self.url, name, attempt + 1, ATTEMPTS)
            self.delete(name)
        raise RemoteError(f"{self.url}/{name} does not arrive as it is sent.", "Look at the network, a proxy for one.", "corrupt")

    def _put_file(self, local: Path, path: str, size: int) -> None:
        if self.protocol == "file":  # where others would see half a file
            with new_file(path) as temporary:
                self.call("put_file", str(local), str(temporary))
            self.count(size)
            return
        more = {"gs": {"chunksize": PART}, "s3": {"chunksize": PART, "max_concurrency": WORKERS}}.get(self.protocol, {})
        self.call("put_file", str(local), path, callback=progress(self.count), size=min(size, PART), **more)

    def _put_parts(self, local: Path, name: str, size: int) -> None:
        """Parts side by side, put together by the store: one connection is a fraction of what the link can do.

        A part that arrived before this process was killed is not sent again.
        """
        folder = f"{PARTS}/{name}"
        there = set(self.sizes(folder))
        sent = [self._parts.submit(self._put_part, local, folder, start, there) for start in range(0, size, PART)]
        try:
            names = [future.result() for future in sent]
        finally:
            for future in sent:
                future.cancel()
        level = 0
        while len(names) > 1:
            groups = [names[start : start + _MOST_SOURCES] for start in range(0, len(names), _MOST_SOURCES)]
            targets = [f"{folder}/{level}-{number}" for number in range(len(groups))] if len(groups) > 1 else [name]
            for group, target in zip(groups, targets, strict=True):
                self.call("merge", self.path(target), [self.path(part) for part in group])
            names, level = targets, level + 1
        self.discard_parts(name)

    def _put_part(self, local: Path, folder: str, start: int, there: set[str]) -> str:
        with open(local, "rb") as file:
            file.seek(start)
            data = file.read(PART)
        digest = Digest(self.protocol, len(data))
        digest.update(data)
        name = f"{folder}/{start // PART:05d}-{digest.sha256[:16]}"
        if name not in there or self.stored(name) != digest.stored:
            with explain(f"{self.url}/{name}", self.protocol):
                self.call("pipe_file", self.path(name), data, chunksize=PART, size=len(data))
            self.count(len(data))
            if self.stored(name) != digest.stored:
                self.delete(name)
                raise RemoteError(f"{self.url}/{name} did not arrive as it was sent.", "It is sent again.", "corrupt")
        return name

    def discard_parts(self, name: str) -> None:
        """Delete the parts of a file, or of the files in a folder, that were not put together."""
        for part in self.sizes(f"{PARTS}/{name}") if self.protocol == "gs" else ():
            self.delete(part)

    def _arrived(self, name: str, digest: Digest) -> bool:
        told = self.stored(name)
        if told is not None and told == digest.stored:
            return True
        # An S3 bucket with keys of its own tells something else in the form of a checksum: only the bytes are certain.
        return (told is None or self.protocol == "s3") and self.sha256(name) == digest.sha256

    def get(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Download an object to `path`, which is replaced as a whole, once it is what the store holds.

        Args:
            sha256: What it must be, too.

        Raises:
            StorageError: It cannot be written here.
        """
        place = self.path(name)
        for attempt in range(ATTEMPTS):
            with contextlib.suppress(_Torn), new_file(path) as temporary:
                with _torn_if_corrupt(), explain(f"{self.url}/{name}", self.protocol):
                    info = self.call("info", place)
                    more = {"concurrency": WORKERS, "chunk_size": CHUNK} if self.protocol == "gs" else {}
                    size = min(int(info["size"]), CHUNK)
                    self.call("get_file", place, str(temporary), callback=progress(self.count), size=size, **more)
                digest, told = digest_file(temporary, self.protocol), told_checksum(self.protocol, info)
                as_stored = told is None or told == digest.stored or self.protocol == "s3"
                whole = temporary.stat().st_size == int(info["size"]) and as_stored
                if whole and sha256 in (None, digest.sha256):
                    return
                if whole and attempt:
                    raise RemoteError(f"{self.url}/{name} is damaged in the store.", "Take another checkpoint.", "corrupt")
                logger.warning("%s/%s did not come as it is stored (attempt %d of %d)", self.url, name, attempt + 1, ATTEMPTS)
                raise _Torn
        raise RemoteError(f"{self.url}/{name} does not come as it is stored.", "Look at the network, a proxy for one.", "corrupt")
