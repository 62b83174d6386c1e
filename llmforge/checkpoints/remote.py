"""A run's folder in a store (``gs://``, ``s3://``, ``file://``, whatever fsspec speaks); nothing else here opens one.

What arrived is compared with what was sent, both ways. A store that does not answer is waited for with a bound,
and what it says is told in one line without what it quotes, which may hold tokens or signed addresses.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from llmforge.checkpoints.checksums import PART, Digest, digest_file, told_checksum
from llmforge.checkpoints.failures import RemoteError, explain
from llmforge.checkpoints.manifest import check_name
from llmforge.checkpoints.stores import canonical, open_store, progress, require_protocol
from llmforge.configs.source import without_secrets
from llmforge.errors import ConfigError
from llmforge.runtime.logs import logger
from llmforge.storage import new_file

#: Seconds without a sign of life after which a request is given up; more for what is large.
PATIENCE = 30.0
#: Bytes a second of the slowest link that is waited for.
SLOWEST = 64 << 10
#: Files, and parts of large files, that are on their way at the same time.
WORKERS = 4
#: Below the folder: parts of files that are not put together yet.
PARTS = ".parts"
#: Objects that Google's store puts together at once.
_MOST_SOURCES = 32
#: Attempts at an object that does not arrive as it was sent.
_ATTEMPTS = 3


class _Torn(Exception):
    """What was downloaded is not what is stored."""


class RemoteFolder:
    """The folder at `url`; the store is first spoken to when something is asked of it. Threads may share one.

    Names are relative to it, with ``/`` between folders; one that could mean something outside of it is refused.

    Attributes:
        url: As it may be shown.
        moved: Bytes sent and received so far.

    Raises:
        ConfigError: No URL, an unknown protocol, or a package that is not installed.
        RemoteError: From every method, where the store fails; its `kind` says how.
    """

    def __init__(self, url: str):
        protocol, separator, rest = url.partition("://")
        self.protocol, self.url = canonical(protocol), without_secrets(url).rstrip("/")
        if not separator or not rest.strip("/"):
            raise ConfigError(f"{self.url} is no folder in a store.", "Give a URL as gs://bucket/prefix/run.")
        require_protocol(self.protocol, self.url)
        self._url = url.rstrip("/")
        self.moved = 0
        self._alive = 0.0  # when something last moved
        self._parts = ThreadPoolExecutor(WORKERS, thread_name_prefix="part")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        with explain(self.url, self.protocol):
            store, root = open_store(self.protocol, self._url)
            return store, str(root).rstrip("/")

    def _path(self, name: str) -> str:
        try:
            check_name(name)
        except ValueError as error:
            raise RemoteError(f"{self.url}: {error}.", kind="refused") from None
        return f"{self._opened[1]}/{name}"

    def _call(self, method: str, *args: Any, size: int = 0, **kwargs: Any) -> Any:
        """Call the store, and give up when nothing moves for as long as `size` bytes may take."""
        store = self._opened[0]
        if not getattr(store, "async_impl", False):
            return getattr(store, method)(*args, **kwargs)
        asked, limit = time.monotonic(), PATIENCE + size / SLOWEST
        future: Future[Any] = asyncio.run_coroutine_threadsafe(getattr(store, f"_{method}")(*args, **kwargs), store.loop)
        try:
            while not concurrent.futures.wait([future], timeout=1.0).done:
                if time.monotonic() - max(asked, self._alive) > limit:
                    raise TimeoutError
            return future.result()
        finally:
            future.cancel()

    def _count(self, size: int) -> None:
        self.moved += size
        self._alive = time.monotonic()

    def sizes(self, under: str = "") -> dict[str, int]:
        """Names and bytes of what is there, sorted; names that are refused are told and left out.

        Args:
            under: Only what is in this folder.
        """
        place = self._path(under) if under else self._opened[1]
        with explain(self.url, self.protocol):
            try:
                found = self._call("find", place, detail=True)
            except FileNotFoundError:
                return {}
        start, sizes = len(self._opened[1]) + 1, {}
        for path, info in sorted(found.items()):
            name = path[start:]
            try:
                check_name(name)
                sizes[name] = int(info.get("size") or 0)
            except ValueError as error:
                logger.warning("%s: %s, and is left alone", self.url, error)
        return sizes

    def names(self, under: str = "") -> list[str]:
        """What is there, without parts of files."""
        return [name for name in self.sizes(under) if not name.startswith(f"{PARTS}/")]

    def put(self, local: Path, name: str, digest: Digest | None = None, there: bool = False) -> int:
        """Upload a file, compare what the store holds with it, and return the bytes that had to be sent.

        What does not arrive as it was sent is deleted, and sent again a few times.

        Args:
            digest: Of the file, where it is known.
            there: Whether something is there that may be it, from an upload that was broken off.

        Raises:
            OSError: The file cannot be read.
        """
        path, size = self._path(name), local.stat().st_size
        known = digest or digest_file(local, self.protocol)
        if there and known.stored is not None and self._stored(name) == known.stored:
            return 0
        for attempt in range(_ATTEMPTS):
            with explain(f"{self.url}/{name}", self.protocol):
                if self.protocol == "gs" and size >= 2 * PART:
                    self._put_parts(local, name, size)
                else:
                    self._put_file(local, path, size)
            if self._arrived(name, known):
                return size
            logger.warning("%s/%s did not arrive as it was sent (attempt %d of %d)", self.url, name, attempt + 1, _ATTEMPTS)
            self.delete(name)
        raise RemoteError(f"{self.url}/{name} does not arrive as it is sent.", "Look at the network, a proxy for one.", "corrupt")

    def _put_file(self, local: Path, path: str, size: int) -> None:
        if self.protocol == "file":  # where others would see half a file
            with new_file(path) as temporary:
                self._call("put_file", str(local), str(temporary))
            self._count(size)
            return
        more = {"chunksize": PART, "max_concurrency": WORKERS} if self.protocol == "s3" else {}
        self._call("put_file", str(local), path, callback=progress(self._count), size=min(size, PART), **more)

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
                self._call("merge", self._path(target), [self._path(part) for part in group])
            names, level = targets, level + 1
        self.discard_parts(name)

    def _put_part(self, local: Path, folder: str, start: int, there: set[str]) -> str:
        with open(local, "rb") as file:
            file.seek(start)
            data = file.read(PART)
        digest = Digest(self.protocol, len(data))
        digest.update(data)
        name = f"{folder}/{start // PART:05d}-{digest.sha256[:16]}"
        if name not in there or self._stored(name) != digest.stored:
            with explain(f"{self.url}/{name}", self.protocol):
                self._call("pipe_file", self._path(name), data, chunksize=PART, size=len(data))
            self._count(len(data))
            if self._stored(name) != digest.stored:
                self.delete(name)
                raise RemoteError(f"{self.url}/{name} did not arrive as it was sent.", "It is sent again.", "corrupt")
        return name

    def discard_parts(self, name: str) -> None:
        """Delete the parts of a file, or of the files in a folder, that were not put together."""
        for part in self.sizes(f"{PARTS}/{name}"):
            self.delete(part)

    def _stored(self, name: str) -> str | None:
        """The checksum the store tells of an object; None where it tells none, or the object is not there."""
        with explain(f"{self.url}/{name}", self.protocol):
            try:
                return told_checksum(self.protocol, self._call("info", self._path(name)))
            except FileNotFoundError:
                return None

    def _arrived(self, name: str, digest: Digest) -> bool:
        told = self._stored(name)
        if told is not None and told == digest.stored:
            return True
        # An S3 bucket with keys of its own tells something else in the form of a checksum: only the bytes are certain.
        return (told is None or self.protocol == "s3") and self.sha256(name) == digest.sha256

    def sha256(self, name: str) -> str:
        """Of an object's bytes, all of which are read."""
        path, digest, start = self._path(name), Digest("", 0), 0
        with explain(f"{self.url}/{name}", self.protocol):
            size = int(self._call("info", path)["size"])
            while start < size:
                data = self._call("cat_file", path, start=start, end=min(start + PART, size), size=PART)
                if not data:
                    break
                digest.update(data)
                start += len(data)
                self._count(len(data))
        return digest.sha256

    def get(self, name: str, path: Path, sha256: str | None = None) -> None:
        """Download an object to `path`, which is replaced as a whole, once it is what the store holds.

        Args:
            sha256: What it must be, too.

        Raises:
            StorageError: It cannot be written here.
        """
        place = self._path(name)
        for attempt in range(_ATTEMPTS):
            with contextlib.suppress(_Torn), new_file(path) as temporary:
                with explain(f"{self.url}/{name}", self.protocol):
                    info = self._call("info", place)
                    more = {"concurrency": WORKERS, "chunk_size": PART} if self.protocol == "gs" else {}
                    self._call("get_file", place, str(temporary), callback=progress(self._count), size=PART, **more)
                digest, told = digest_file(temporary, self.protocol), told_checksum(self.protocol, info)
                as_stored = told is None or told == digest.stored or self.protocol == "s3"
                whole = temporary.stat().st_size == int(info["size"]) and as_stored
                if whole and sha256 in (None, digest.sha256):
                    return
                if whole and attempt:
                    raise RemoteError(f"{self.url}/{name} is damaged in the store.", "Take another checkpoint.", "corrupt")
                logger.warning("%s/%s did not come as it is stored (attempt %d of %d)", self.url, name, attempt + 1, _ATTEMPTS)
                raise _Torn
        raise RemoteError(f"{self.url}/{name} does not come as it is stored.", "Look at the network, a proxy for one.", "corrupt")

    def read(self, name: str, most: int = 1 << 24) -> bytes:
        """The bytes of a small object, compared with the store's checksum.

        Raises:
            RemoteError: It is larger than `most`, too.
        """
        path = self._path(name)
        for _ in range(_ATTEMPTS):
            with explain(f"{self.url}/{name}", self.protocol):
                info = self._call("info", path)
                if int(info["size"]) > most:
                    raise RemoteError(f"{self.url}/{name} is larger than {most} bytes.", kind="refused")
                data = bytes(self._call("cat_file", path))
            digest, told = Digest(self.protocol, len(data)), told_checksum(self.protocol, info)
            digest.update(data)
            if len(data) == int(info["size"]) and (told is None or told == digest.stored or self.protocol == "s3"):
                return data
        raise RemoteError(f"{self.url}/{name} does not come as it is stored.", "Look at the network, a proxy for one.", "corrupt")

    def delete(self, name: str) -> None:
        """Delete one object of this folder; one that is not there is none the less gone."""
        path = self._path(name)
        with explain(f"{self.url}/{name}", self.protocol), contextlib.suppress(FileNotFoundError):
            self._call("rm_file", path)

    def write(self, name: str, data: bytes) -> None:
        """Store a few bytes under a name, unverified."""
        with explain(f"{self.url}/{name}", self.protocol):
            self._call("pipe_file", self._path(name), data)

    def rename(self, name: str, new: str) -> None:
        """Give a small object another name."""
        self.write(new, self.read(name))
        self.delete(name)

    def each(self, work: Any, items: Iterable[Any]) -> list[Any]:
        """`work` done for all items, several at the same time; what the first one raises ends it."""
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="remote") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
