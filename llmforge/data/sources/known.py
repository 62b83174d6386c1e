"""What is known of files from the last time, so that one that has not changed is not read again to find that out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.errors import StorageError
from llmforge.storage.files import cache_root
from llmforge.storage.records import write_text

#: Raised whenever other units are made of the same files.
_VERSION = 1
#: Nanoseconds a file must have been left alone before it was read: its times may not tell a change right after.
_SETTLED = 2 * 10**9


class KnownFiles:
    """The units of a source's files, in the cache.

    As for git, a file is the same as long as its size, both its times and its number on the disk are: the time of
    its last change cannot be set back, whatever is done to the other.

    Args:
        source: Where the files are.
        folder: Where it is kept; by default in the cache.
    """

    def __init__(self, source: Source, folder: Path | None = None):
        what = [_VERSION, os.path.abspath(os.path.expanduser(source.path)), asdict(source)]
        key = hashlib.blake2b(json.dumps(what).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        self.path = (folder or cache_root() / "shards" / "files" / key[:2]) / f"{key}.json"
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self._old = found if isinstance(found, dict) else {}

    def find(self, path: str, status: os.stat_result) -> tuple[list[list[Any]], Account] | None:
        """The units of a file in plain values, and what was left out of it; None where it is not known as it is now."""
        entry = self._old.get(path)
        if not isinstance(entry, list) or len(entry) != 3 or entry[0] != _marks(status):
            return None
        self._new[path] = entry
        return entry[1], Account.from_json(entry[2]) if entry[2] else Account()

    def add(self, path: str, status: os.stat_result, read: int, units: Sequence[list[Any]], account: Account) -> None:
        """Remember the units of a file.

        Args:
            path: The file.
            status: What it was before it was read.
            read: When that was, `time.time_ns`.
            units: In plain values.
            account: What was left out of it.
        """
        if max(status.st_mtime_ns, status.st_ctime_ns) + _SETTLED < read:
            told = account.as_json()
            self._new[path] = [_marks(status), list(units), told if any(told.values()) else None]

    def save(self) -> None:
        """Keep what was found or added since it was opened; a cache that cannot be written is left as it is."""
        with suppress(StorageError, OSError):
            if self._new != self._old:
                write_text(self.path, json.dumps(self._new, separators=(",", ":")))
            else:
                os.utime(self.path)  # in use: not among what is swept from the cache


def _marks(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
