"""Files behind URLs, by fsspec: what there is, and where each one lies once it is fetched."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from llmforge.configs.source import Source, without_secrets
from llmforge.data.sources.clients import client_options
from llmforge.data.sources.kinds import harmless_name
from llmforge.data.sources.streams import CHUNK
from llmforge.data.sources.walk import fixed_part, has_magic
from llmforge.errors import DataError, StorageError
from llmforge.storage.files import PARTIAL_PREFIX, URL, cache_root, is_disk_full
from llmforge.storage.records import read_json, write_json

#: The package behind each protocol, and what to install for it.
PROTOCOLS = {
    "gs": ("gcsfs", "llmforge[gcs]"),
    "gcs": ("gcsfs", "llmforge[gcs]"),
    "s3": ("s3fs", "llmforge[s3]"),
    "s3a": ("s3fs", "llmforge[s3]"),
    "http": ("aiohttp", "aiohttp"),
    "https": ("aiohttp", "aiohttp"),
    "memory": ("fsspec", "fsspec"),
}
#: Other names of protocols.
_ALIASES = {"gcs": "gs", "s3a": "s3"}
#: What stores call the version of a file, best first; with its size it says whether the file is still the same.
_VERSIONS = (
    "etag ETag md5Hash Content-MD5 crc32c Digest generation VersionId LastModified last_modified Last-Modified updated mtime "
    "modified created"
).split()
#: Parameters of a query that sign it, new each time; all others say which file it is.
_SIGNING = re.compile(
    r"(?i)^(x-(amz|goog)-.+|signature|expires|awsaccesskeyid|googleaccessid|key-pair-id|policy|sig|se|st|sp|sv|sr|spr|sk[a-z]+)$"
)
#: Seconds before each further attempt at a download.
DELAYS = (0.5, 2.0)


def canonical(protocol: str) -> str:
    """One name for each protocol: ``gs`` for ``gcs``, ``s3`` for ``s3a``."""
    return _ALIASES.get(protocol.lower(), protocol.lower())


def check_protocol(url: str) -> None:
    """See that the URL's protocol can be spoken, without importing anything.

    Raises:
        DataError: An unknown protocol, or one whose package is not installed.
    """
    match = URL.match(url)
    known = PROTOCOLS.get(match[1].lower()) if match else None
    if known is None:
        raise DataError(f"{without_secrets(url)}: unknown protocol.", f"Use a path, or one of {', '.join(PROTOCOLS)}.")
    package, install = known
    if importlib.util.find_spec(package) is None:
        raise DataError(
            f"{without_secrets(url)} needs the package {package}, which is not installed.", f"Run pip install '{install}'."
        )


class RemoteFile:
    """A file in a store.

    Attributes:
        name: Its path within the folder or glob that was asked for, harmless as a path on this machine.
    """

    def __init__(self, store: Any, path: str, info: dict[str, Any], name: str):
        self.name = name
        self._store, self._path, self._info = store, path, info

    def fetch(self) -> Path:
        """Where it lies in ``downloads`` of the cache: as it was fetched before, if the store says it is the same.

        Raises:
            DataError: It cannot be fetched; what came of it is thrown away.
            StorageError: It cannot be written.
        """
        shown = without_secrets(cast(str, self._store.unstrip_protocol(self._path)))
        with _failures(shown):
            # A listing may leave out what only a look at the file itself tells.
            info = self._info if _version(self._info) else {**self._info, **self._store.info(self._path)}
        version, size = _version(info), info.get("size")
        path = cache_root() / "downloads" / _key(self._identity(), version, size)
        if version and _is_whole(path):
            os.utime(_notes(path))  # in use: not among what is swept from the cache
            return path
        for delay in (*DELAYS, None):
            try:
                with _failures(shown):
                    self._download(path, size, info, shown)
                return path
            except DataError:
                if delay is None:
                    raise
                time.sleep(delay)
        return path

    def _identity(self) -> str:
        url = cast(str, self._store.unstrip_protocol(self._path))
        _, mark, query = url.partition("?")
        kept = [part for part in query.split("&") if mark and not _SIGNING.match(part.partition("=")[0])]
        return json.dumps([without_secrets(url), sorted(kept)])

    def _download(self, path: Path, size: int | None, info: dict[str, Any], shown: str) -> None:
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PARTIAL_PREFIX, delete=False) as file:
                temporary = Path(file.name)
            self._store.get_file(self._path, str(temporary))
            got, digests = _measure(temporary)
            if size is not None and got != size:
                raise DataError(f"{shown}: {got:,} bytes came of {size:,}.", "Try again.")
            if (md5 := _md5(info)) not in (None, digests["md5"]):
                raise DataError(f"{shown} did not come as it is stored: its MD5 differs.", "Try again.")
            if md5 is None and (crc32c := info.get("crc32c")) not in (None, "") and crc32c != _crc32c(temporary):
                raise DataError(f"{shown} did not come as it is stored: its CRC32C differs.", "Try again.")
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            write_json(_notes(path), {"size": got, "blake2b": digests["blake2b"]})
        except OSError as error:
            if is_disk_full(error):
                raise StorageError(f"Cannot write {path}: {error.strerror}.", "Free some space, or move the cache.") from error
            raise
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _failures(shown: str) -> Iterator[None]:
    """Turn what a store raises into one line; what it says itself is left out, since it may hold signed URLs."""
    try:
        yield
    except (DataError, StorageError):
        raise
    except Exception as error:
        # Over HTTP fsspec calls every failure a missing file, and keeps the real one as its cause.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
        status = getattr(cause, "status", None)
        if isinstance(cause, FileNotFoundError) or status in (404, 410):
            raise DataError(f"{shown}: no such file or folder.", "Check the URL.") from None
        told, remedy = _in_words(type(cause).__name__, status)
        raise DataError(f"{shown} cannot be read: {told}.", remedy, "bucket-access") from None


def _in_words(kind: str, status: Any) -> tuple[str, str]:
    """What a store's failure means and what helps, by its class and HTTP status; nothing else of it may be shown."""
    if isinstance(status, int):
        told = f"the store answers {status}"
        if status in (401, 403):
            return f"{told}, it is not allowed", "Check the credentials, and that they may read there."
        return told, "Check URL and network, and try again; what was fetched is kept."
    if "DNS" in kind:
        return "its host is not found", "Check the URL and the network; behind a proxy, its settings."
    if "Credential" in kind:
        return "no credentials are found", "Set those of the store."
    if "Connect" in kind or "Timeout" in kind:
        return f"no connection ({kind})", "Check the network, and try again; what was fetched is kept."
    return kind, "Check URL, credentials and network; what was fetched is kept."


def _version(info: dict[str, Any]) -> list[str]:
    return [f"{key}={info[key]}" for key in _VERSIONS if info.get(key)]


def _md5(info: dict[str, Any]) -> str | None:
    """The MD5 that the store keeps, in hex; None where it keeps none that is certain."""
    given = info.get("md5Hash") or info.get("Content-MD5")
    try:
        return base64.b64decode(given, validate=True).hex() if given else None
    except (ValueError, TypeError):
        return None


def _crc32c(path: Path) -> str:
    """As Google's store tells it, which has no MD5 of what was uploaded in parts."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()


def _key(identity: str, version: list[str], size: int | None) -> str:
    return hashlib.blake2b(json.dumps([identity, version, size]).encode(), digest_size=20).hexdigest()


def _notes(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _measure(path: Path) -> tuple[int, dict[str, str]]:
    blake2b, md5 = hashlib.blake2b(digest_size=20), hashlib.md5(usedforsecurity=False)
    size = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            blake2b.update(chunk)
            md5.update(chunk)
    return size, {"blake2b": blake2b.hexdigest(), "md5": md5.hexdigest()}


def _is_whole(path: Path) -> bool:
    """Whether a file of the cache is there, and byte for byte what was fetched."""
    try:
        notes = read_json(_notes(path))
        size, digests = _measure(path)
        return notes == {"size": size, "blake2b": digests["blake2b"]}
    except (OSError, DataError):
        return False


def sweep_downloads(days: float) -> None:
    """Remove files that were fetched, and not used for so many days."""
    oldest = time.time() - days * 86_400
    for notes in (cache_root() / "downloads").glob("*.json"):
        with contextlib.suppress(OSError):
            if notes.stat().st_mtime < oldest:
                notes.unlink()
                notes.with_suffix("").unlink()


def _store(url: str) -> tuple[Any, str]:
    check_protocol(url)
    import fsspec

    options = client_options(canonical(url.partition("://")[0])) | {"skip_instance_cache": True}  # credentials as they are now
    if url.lower().startswith("http"):
        import aiohttp

        # By default a download may take five minutes in all, however large it is.
        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}}
    with _failures(without_secrets(url)):
        store, path = fsspec.core.url_to_fs(url, **options)
        store.invalidate_cache()  # of listings, which another call of this process may have left
    return store, path


def remote_file(url: str) -> RemoteFile:
    """The one file that `url` is.

    Raises:
        DataError: There is none, or the store cannot be reached.
    """
    store, path = _store(url)
    with _failures(without_secrets(url)):
        info = store.info(path)
    return RemoteFile(store, path, info, _last(path, url))


def remote_files(source: Source) -> tuple[list[RemoteFile], bool]:
    """The files of the URL `source.path`, sorted by name, and whether it is one file itself: a folder (over HTTP one that
    ends in ``/``) gives all that is under it, a glob what it matches.

    Raises:
        DataError: There is nothing there, or the store cannot be reached.
    """
    url = source.path
    store, path = _store(url)
    over_http = url.lower().startswith("http")
    address = path.partition("?")[0] if over_http else path
    # In a URL a question mark begins the query.
    is_glob = has_magic(address.replace("?", "")) or (not over_http and "?" in address)
    with _failures(without_secrets(url)):
        if is_glob:
            found, root = store.glob(path, detail=True), fixed_part(address)[0]
        elif over_http and not address.endswith("/"):
            return [RemoteFile(store, path, store.info(path), _last(path, url))], True
        else:
            info = None if over_http else store.info(path)
            if info is not None and info["type"] != "directory":
                return [RemoteFile(store, path, info, _last(path, url))], True
            found, root = store.find(path, detail=True), path
    files = []
    for place, info in found.items():
        # A page that lists nothing is listed itself; links with a query only sort it.
        listing = over_http and ("?" in place or place.endswith("/"))
        if info.get("type", "file") == "file" and not listing:
            rest = place[len(root) :] if place.startswith(root) else place
            files.append(RemoteFile(store, place, info, harmless_name(unquote(rest) if over_http else rest)))
    if not files:
        raise DataError(f"{without_secrets(url)}: nothing there.", "Check the URL.")
    return sorted(files, key=lambda file: file.name), False


def _last(path: str, url: str) -> str:
    over_http = url.lower().startswith("http")
    last = (path.partition("?")[0].partition("#")[0] if over_http else path).rstrip("/").rpartition("/")[2]
    return harmless_name(unquote(last) if over_http else last)
