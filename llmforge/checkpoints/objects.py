"""Objects in a folder of a store: their names, sizes and checksums, small ones read and written, deletion.

A store that does not answer is waited for with a bound.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from llmforge.checkpoints.checksums import Digest, told_checksum
from llmforge.checkpoints.failures import RemoteError, explain
from llmforge.checkpoints.manifest import check_name
from llmforge.checkpoints.stores import open_store, require_protocol
from llmforge.configs.remote import shown_url
from llmforge.data.sources.remote import canonical
from llmforge.errors import ConfigError
from llmforge.runtime.logs import logger

T = TypeVar("T")
R = TypeVar("R")

#: Seconds without a sign of life after which a request is given up; more for what is large.
PATIENCE = 30.0
#: Bytes a second of the slowest link that is waited for.
SLOWEST = 64 << 10
#: Files, and parts of large files, that are on their way at the same time.
WORKERS = 4
#: Below the folder: parts of files that are not put together yet.
PARTS = ".parts"
#: Bytes of a download between two signs of life.
CHUNK = 2 << 20
#: Attempts at an object that does not arrive as it was sent.
ATTEMPTS = 3


class RemoteObjects:
    """What `RemoteFolder` is made on.

    Names are relative to the folder, with ``/`` between folders; one that could mean something outside of it is refused.

    Attributes:
        url: As it may be shown.
        protocol: As fsspec names it, ``gs``, ``s3`` or ``file``.
        moved: Bytes sent and received so far.

    Raises:
        ConfigError: No URL, an unknown protocol, or a package that is not installed.
        RemoteError: From every method, where the store fails; its `kind` says how.
    """

    def __init__(self, url: str):
        protocol, separator, rest = url.partition("://")
        self.protocol, self.url = canonical(protocol), shown_url(url)
        if not separator or not rest.strip("/"):
            raise ConfigError(f"{self.url} is no folder in a store.", "Give a URL as gs://bucket/prefix/run.")
        require_protocol(self.protocol, self.url)
        self._url = url.rstrip("/")
        self.moved = 0
        self._alive = 0.0  # when something last moved

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        with explain(self.url, self.protocol):
            store, root = open_store(self.protocol, self._url)
            return store, str(root).rstrip("/")

    def path(self, name: str) -> str:
        """What the store calls an object of this folder."""
        try:
            check_name(name)
        except ValueError as error:
            raise RemoteError(f"{self.url}: {error}.", kind="refused") from None
        return f"{self._opened[1]}/{name}"

    def call(self, method: str, *args: Any, size: int = 0, **kwargs: Any) -> Any:
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

    def count(self, size: int) -> None:
        """Note that bytes moved."""
        self.moved += size
        self._alive = time.monotonic()

    def sizes(self, under: str = "") -> dict[str, int]:
        """Names and bytes of what is there, sorted; names that are refused are told and left out.

        Args:
            under: Only what is in this folder.

        Raises:
            RemoteError: There is no such bucket, too.
        """
        place = self.path(under) if under else self._opened[1]
        with explain(self.url, self.protocol):
            try:
                found = self.call("find", place, detail=True)
            except FileNotFoundError:
                if self.protocol in ("gs", "s3"):  # which list an empty folder like any other
                    bucket = self._opened[1].partition("/")[0]
                    raise RemoteError(
                        f"{self.url}: there is no bucket {bucket}.", "Check its name, and that it was made.", "missing"
                    ) from None
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

    def stored(self, name: str) -> str | None:
        """The checksum the store tells of an object; None where it tells none, or the object is not there."""
        with explain(f"{self.url}/{name}", self.protocol):
            try:
                return told_checksum(self.protocol, self.call("info", self.path(name)))
            except FileNotFoundError:
                return None

    def sha256(self, name: str) -> str:
        """Of an object's bytes, all of which are read."""
        path, digest, start = self.path(name), Digest("", 0), 0
        with explain(f"{self.url}/{name}", self.protocol):
            size = int(self.call("info", path)["size"])
            while start < size:
                data = self.call("cat_file", path, start=start, end=min(start + CHUNK, size), size=CHUNK)
                if not data:
                    break
                digest.update(data)
                start += len(data)
                self.count(len(data))
        return digest.sha256

    def read(self, name: str, most: int = 1 << 24) -> bytes:
        """The bytes of a small object, compared with the store's checksum.

        Raises:
            RemoteError: It is larger than `most`, too.
        """
        path = self.path(name)
        for _ in range(ATTEMPTS):
            with explain(f"{self.url}/{name}", self.protocol):
                info = self.call("info", path)
                if int(info["size"]) > most:
                    raise RemoteError(f"{self.url}/{name} is larger than {most} bytes.", kind="refused")
                data = bytes(self.call("cat_file", path))
            digest, told = Digest(self.protocol, len(data)), told_checksum(self.protocol, info)
            digest.update(data)
            if len(data) == int(info["size"]) and (told is None or told == digest.stored or self.protocol == "s3"):
                return data
        raise RemoteError(f"{self.url}/{name} does not come as it is stored.", "Look at the network, a proxy for one.", "corrupt")

    def delete(self, name: str) -> None:
        """Delete one object of this folder; one that is not there is none the less gone."""
        path = self.path(name)
        with explain(f"{self.url}/{name}", self.protocol), contextlib.suppress(FileNotFoundError):
            self.call("rm_file", path)

    def write(self, name: str, data: bytes) -> None:
        """Store a few bytes under a name, unverified."""
        with explain(f"{self.url}/{name}", self.protocol):
            self.call("pipe_file", self.path(name), data)

    def rename(self, name: str, new: str) -> None:
        """Give a small object another name."""
        self.write(new, self.read(name))
        self.delete(name)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`work` done for all items, several at the same time; what the first one raises ends it."""
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="remote") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
