"""Small records: JSON, lines of JSON and texts, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmforge.errors import DataError
from llmforge.storage.files import new_file


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` as UTF-8 atomically.

    Raises:
        StorageError: The file could not be written; what stood there before is untouched.
    """
    path = Path(path)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def json_text(value: Any) -> str:
    """`value` as the indented JSON of every file that people may read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` as indented JSON atomically; raises StorageError as `write_text` does."""
    return write_text(path, json_text(value))


def read_json(path: Path | str) -> Any:
    """Read one JSON document.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Cannot read {path} as JSON: {error}.") from error


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """Read a JSON-lines file of our own; a missing file is empty, a torn last line is left out."""
    lines = []
    path = Path(path)
    if path.exists():
        # In bytes: a torn line may end inside a character. Not splitlines, which would cut at U+2028.
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line.decode("utf-8")))
    return lines


def append_json_line(path: Path | str, value: dict[str, Any]) -> None:
    """Append one JSON object as a line, whole or not at all.

    NaN and infinities are written as ``NaN`` and ``Infinity``, which Python and pandas
    read back: a diverging loss must be seen.
    """
    line = (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8")
    with open(path, "ab", buffering=0) as file:
        begun = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(begun)  # half a line would spoil the next one
            raise


def keep_json_lines(path: Path | str, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON-lines file with only the objects for which `keep` is true."""
    path = Path(path)
    if path.exists():
        kept = [line for line in read_json_lines(path) if keep(line)]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
