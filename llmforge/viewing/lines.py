"""Files that a run appends to, read as they grow."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llmforge.viewing.text import shown

#: Bytes of a line of JSON that are read; what a run writes stays far below.
_LONGEST = 1 << 22
#: Of the end of run.log that is looked at.
_TAIL_BYTES = 1 << 18
_MESSAGE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:,\d{3})? (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)", re.DOTALL)


class GrowingLines:
    """A file of JSON lines, of which each reading gives what is new.

    A line that is half written is read when it is whole; one that is no JSON object, or longer than any a run writes, is
    left out. A file that was
    written anew (a resumed run drops what it does again) is read from its start, which `restarted` tells.

    Attributes:
        restarted: Whether the last reading began at the start: what was read before is to be forgotten.
        overlong: Lines that were left out for their length.
    """

    def __init__(self, path: Path):
        self.path = path
        self.restarted = True
        self.overlong = 0
        self._inside = False  # of one of those
        self._place = 0
        self._file: tuple[int, int] | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        """The objects that were added since the last reading; none where the file is missing or cannot be read."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115  closed where it was read to its end
            status = os.fstat(file.fileno())
        except OSError:
            self.restarted, self._place, self._file = True, 0, None
            return iter(())
        identity = (status.st_dev, status.st_ino)
        self.restarted = identity != self._file or status.st_size < self._place
        if self.restarted:
            self._place, self.overlong, self._inside = 0, 0, False
        self._file = identity
        return self._new(file)

    def _new(self, file: BinaryIO) -> Iterator[dict[str, Any]]:
        with file, contextlib.suppress(OSError):
            file.seek(self._place)
            while line := file.readline(_LONGEST):
                whole = line.endswith(b"\n")
                if not whole and not self._inside and len(line) < _LONGEST:  # half written
                    break
                self._place += len(line)
                if self._inside or not whole:
                    self.overlong += not self._inside
                    self._inside = not whole
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(value, dict):
                    yield value


@dataclass(frozen=True)
class Message:
    """One message of ``run.log``.

    Attributes:
        time: As written there, in the time of that machine: ``2026-01-31 12:00:00``.
        level: ``INFO``, ``WARNING``, ``ERROR``.
        text: May have several lines.
    """

    time: str
    level: str
    text: str


def tail(path: Path, lines: int | None = None) -> list[str]:
    """The last lines of a text file that may be growing, half written or missing; at most 256 KiB of it are read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            data = file.read(_TAIL_BYTES)
    except OSError:
        return []
    found = data.decode("utf-8", "replace").split("\n")
    if size > _TAIL_BYTES and len(found) > 1:
        found = found[1:]  # the middle of a line
    found = found[:-1] if found and not found[-1] else found
    return [shown(line, 2000) for line in (found if lines is None else found[-lines:])]


def messages(path: Path) -> list[Message]:
    """The messages at the end of ``run.log``, oldest first; a line without a time belongs to the message before it."""
    found: list[Message] = []
    for line in tail(path):
        match = _MESSAGE.match(line)
        if match:
            found.append(Message(match[1], match[2], match[3]))
        elif found and line.strip() and found[-1].text.count("\n") < 40:
            found[-1] = Message(found[-1].time, found[-1].level, f"{found[-1].text}\n{line}")
    return found
