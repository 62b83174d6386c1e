"""What makes a folder a committed checkpoint: ``manifest.json``, with the size and SHA-256 of every file.

It has a checksum of itself, too. It is written last, into a folder that nobody reads yet, and the folder
then renamed into place: where there is one, every file is there. Nothing here imports torch, and nothing
in a checkpoint is loaded to find out whether it is sound.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from llmforge.errors import CheckpointError
from llmforge.storage.records import write_text

MANIFEST = "manifest.json"
METADATA = "metadata.json"
#: In a store, what becomes of the manifest of a checkpoint of a course that was left: its files stay, and it exists no more.
SET_ASIDE_MANIFEST = "manifest-set-aside.json"

#: Of the layout of the manifest itself; one of a later version is refused, not guessed at.
_FORMAT = 1
_NAME = re.compile(r"checkpoint-([0-9]+)")
_HASH = re.compile(r"[0-9a-f]{64}")
#: A manifest of a checkpoint has some 20 entries of 100 bytes.
_MOST_BYTES = 1 << 24


@dataclass(frozen=True)
class FileEntry:
    """A file as it was committed: its size in bytes and the SHA-256 of its bytes, in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint was committed with.

    Attributes:
        run_id: Of the run it belongs to.
        step: Optimizer steps done.
        files: By name relative to the checkpoint, folders separated by ``/``; the manifest itself is not among them.
    """

    run_id: str
    step: int
    files: dict[str, FileEntry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def checkpoint_step(folder: Path) -> int | None:
    """The step in a checkpoint's name (``checkpoint-500``); None for a folder called otherwise."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else None


def is_committed(folder: Path) -> bool:
    """Whether `folder` was committed, that is, has a manifest; `verify` says whether it is still sound."""
    path = folder / MANIFEST
    return path.is_file() and not path.is_symlink()


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The committed checkpoints of a run, by step, the newest last."""
    found = [(step, path) for path in run_dir.glob("checkpoint-*") if (step := checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found) if is_committed(path)]


def write_manifest(folder: Path, run_id: str, step: int) -> Manifest:
    """Hash every file in `folder` and write its manifest, atomically and synced, as the last file.

    Raises:
        StorageError: It could not be written.
        OSError: A file could not be read.
    """
    files = {name: FileEntry(path.stat().st_size, _hash(path)) for name, path in _files(folder) if name != MANIFEST}
    entries = {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in files.items()}
    value = {"format": _FORMAT, "run_id": run_id, "step": step, "files": entries}
    write_text(folder / MANIFEST, _text(value | {"checksum": _checksum(value)}))
    return Manifest(run_id, step, files)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a committed checkpoint; nothing in it is trusted before it was looked at.

    Raises:
        CheckpointError: There is none, or it is damaged, of a later format, or names a file that no checkpoint has.
    """
    path = folder / MANIFEST
    if not is_committed(folder):
        raise CheckpointError(f"{folder} has no {MANIFEST}: it was never committed.")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, shown: str) -> Manifest:
    """A manifest from the bytes of its file, which lies at `shown`, here or in a store.

    Raises:
        CheckpointError: As `read_manifest`.
    """
    try:
        text = content.decode("utf-8")
        return _parse(json.loads(text, object_pairs_hook=_unique), text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{shown} is damaged: {error}.") from error


def verify(folder: Path, deep: bool = True) -> list[str]:
    """What is wrong with a checkpoint, a line each that names the file; empty when it is sound.

    Args:
        deep: Read and hash every file; otherwise only names and sizes are compared, which takes no time.
    """
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return [str(error)]
    problems = []
    step = checkpoint_step(folder)
    if step is not None and step != manifest.step:
        problems.append(f"{MANIFEST}: is of step {manifest.step}, not {step}")
    there = dict(_files(folder))
    for name, entry in manifest.files.items():
        path = there.pop(name, None)
        problem = "is missing" if path is None else _compare(path, entry, deep)
        if problem:
            problems.append(f"{name}: {problem}")
    problems += [f"{name}: is not in {MANIFEST}" for name in there if name != MANIFEST]
    return problems


def _compare(path: Path, entry: FileEntry, deep: bool) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "is no plain file"
    try:
        size = path.stat().st_size
        if size != entry.size:
            return f"has {size} bytes, not {entry.size}"
        return "has another SHA-256" if deep and _hash(path) != entry.sha256 else None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and path of everything in `folder` that is no folder; links are not followed."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted([*names, *links]):
            path = Path(place, name)
            yield path.relative_to(folder).as_posix(), path


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _checksum(value: dict[str, Any]) -> str:
    """Of the manifest itself: what else would tell that a bit of its run id has flipped?"""
    return hashlib.sha256(_text({name: item for name, item in value.items() if name != "checksum"}).encode()).hexdigest()


def _parse(value: Any, text: str) -> Manifest:
    """A `Manifest` from JSON; raises ValueError saying what it is not."""
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        raise ValueError("it lists no files")
    if value.get("format") != _FORMAT:
        raise ValueError(f"its format is {value.get('format')!r}, and this version knows {_FORMAT}")
    run_id, step = value.get("run_id"), value.get("step")
    if not isinstance(run_id, str) or not _is_count(step):
        raise ValueError("it has no run_id and step")
    files = {}
    for name, entry in value["files"].items():
        check_name(name)
        if name == MANIFEST:
            raise ValueError(f"{name!r} is no name of a file in a checkpoint")
        size, digest = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not _is_count(size) or not isinstance(digest, str) or not _HASH.fullmatch(digest):
            raise ValueError(f"{name!r} has no size and SHA-256")
        files[name] = FileEntry(size, digest)
    if len({name.casefold() for name in files}) != len(files):
        raise ValueError("two names differ in case only")
    if text != _text(value) or value.get("checksum") != _checksum(value):
        raise ValueError("it is not as it was written")
    return Manifest(run_id, step, files)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_name(name: str) -> None:
    """Refuse a name that could mean a file outside the folder it is in, here or where it is downloaded to.

    Raises:
        ValueError: It is absolute, leads upwards, or holds a backslash or a control character.
    """
    parts = PurePosixPath(name).parts
    plain = bool(name) and "/".join(parts) == name and not {".", ".."} & set(parts)
    if not plain or name.startswith("/") or re.search(r"[\\\x00-\x1f\x7f]|^[A-Za-z]:", name):
        raise ValueError(f"{name!r} is no name of a file in a checkpoint")
