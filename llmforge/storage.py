"""The one way this library touches files: whole or not at all.

Writers put their bytes beside the target, sync them and rename, so that a reader
never sees half a file, and a process killed at any moment leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmforge.errors import DataError, StorageError

#: Folders that are still being written carry this prefix; nothing reads them.
PARTIAL_PREFIX = ".partial-"
#: Disk full, quota reached, file too large.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable (a no-op where folders cannot be opened)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path | str, text: str) -> Path:
    """Write `text` as UTF-8 atomically.

    Raises:
        StorageError: The file could not be written; what stood there before is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=PARTIAL_PREFIX, delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # NamedTemporaryFile makes private files; give this one the usual mode.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Free some space or choose another folder.",
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path | str, value: Any) -> Path:
    """Write `value` as indented JSON atomically; raises StorageError as `write_text` does."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read one JSON document.

    Raises:
        DataError: The file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    """Append one JSON object as a line.

    NaN and infinities are written as ``NaN`` and ``Infinity``, which Python and pandas
    read back: a diverging loss must be seen.
    """
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")


def keep_json_lines(path: Path | str, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON-lines file with only the objects for which `keep` is true."""
    path = Path(path)
    if path.exists():
        kept = [line for line in read_json_lines(path) if keep(line)]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def is_disk_full(error: BaseException) -> bool:
    """Whether there was no room left to write, also where a library says so in words of its own only."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    text = str(error)
    by_safetensors = re.search(rf"os error ({'|'.join(map(str, _NO_ROOM))})\b", text) is not None
    # torch.save: a short write, which it does not explain.
    return by_safetensors or (isinstance(error, RuntimeError) and "inline_container" in text and "unexpected pos" in text)


@contextlib.contextmanager
def new_folder(target: Path | str, replace: bool = False) -> Iterator[Path]:
    """Yield a staging folder that becomes `target` when the block ends without an exception.

    If `target` appeared meanwhile (another process made the same thing), that one stays,
    unless `replace` says that it is to go.

    Raises:
        StorageError: The folder could not be written; nothing is left behind.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{PARTIAL_PREFIX}{target.name}-"))
    except OSError as error:
        raise StorageError(f"Cannot make a folder in {target.parent}: {error.strerror or error}.") from error
    placing = False
    try:
        os.chmod(staging, 0o777 & ~_umask())
        yield staging  # an error of the caller's own reading passes through, unless the disk is full
        placing = True
        for path in staging.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            else:
                _sync_folder(path)
        _sync_folder(staging)
        if replace or not target.exists() or not any(target.iterdir()):
            _put_in_place(staging, target)
    except OSError as error:
        if not placing and error.errno not in _NO_ROOM:
            raise
        raise StorageError(
            f"Cannot write {target}: {error.strerror or error}.",
            "Free some space or choose another folder.",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, target: Path) -> None:
    # What stood there is moved aside before it is deleted: a kill in between tears nothing.
    trash = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{PARTIAL_PREFIX}old-"))
    old = trash / "old"
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(staging, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    finally:
        _sync_folder(target.parent)
        shutil.rmtree(trash, ignore_errors=True)


def cache_root() -> Path:
    """The folder of prepared data: ``$LLMFORGE_CACHE``, by default the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("LLMFORGE_CACHE") or platformdirs.user_cache_dir("llmforge"))
