"""The log of a run as it is written, as `tail -f` shows it."""

from __future__ import annotations

import os
from pathlib import Path

from llmforge.viewing.text import shown

#: More than that is not read at once; what was skipped is told.
_MOST_BYTES = 1 << 18
#: Characters of one line.
_MOST_CHARACTERS = 2000


class Log:
    """Reads ``run.log``: first its end, then what is added.

    Args:
        path: The file; it may come later.
        lines: So many of those that are there already.
    """

    def __init__(self, path: Path, lines: int):
        self.path = path
        self._lines = lines
        self._begun = False
        self._place = 0
        self._file: tuple[int, int] | None = None
        self._half = b""

    def read(self) -> list[str]:
        """Whole lines that are new, fit to be shown; a file that was written anew is read from its start."""
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._file or status.st_size < self._place:
                    self._file, self._place, self._half = identity, 0, b""
                skipped = max(status.st_size - self._place - _MOST_BYTES, 0)
                file.seek(self._place + skipped)
                data = file.read(_MOST_BYTES)
                self._place = file.tell()
        except OSError:
            return []
        if skipped:
            _, _, data = data.partition(b"\n")  # the middle of a line
            self._half = b""
        *found, self._half = (self._half + data).split(b"\n")
        lines = list(map(_shown, found))
        if not self._begun:
            self._begun = True
            return lines[len(lines) - self._lines :] if len(lines) > self._lines else lines
        return [f"… {skipped:,} bytes left out", *lines] if skipped else lines

    def rest(self) -> list[str]:
        """What stands at the end without an end of line: the last word of a run that was killed."""
        half, self._half = self._half, b""
        return [_shown(half)] if half.strip() else []


def _shown(line: bytes) -> str:
    return shown(line.decode("utf-8", "replace").rstrip("\r"), _MOST_CHARACTERS)
