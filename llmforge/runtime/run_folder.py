"""The folder of one run and the records that say what it is and how it ended."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.errors import ConfigError, StorageError
from llmforge.runtime.versions import installed_versions
from llmforge.storage.records import read_json, write_json

RUN_RECORD = "run.json"
EXIT_RECORD = "exit.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
DIVERGENCE = "divergence.json"
REPORT = "report.html"
FINAL = "final"
RUNS_ROOT = Path("runs")

_SECRET = re.compile(r"token$|key$|secret|password", re.IGNORECASE)


def reserve(name: str, root: Path = RUNS_ROOT) -> Path:
    """Make and return a new folder ``root/<name>-<NNN>``, numbered after the last one there.

    Raises:
        StorageError: The folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            path = root / f"{name}-{_next_number(name, root):03d}"
            try:
                path.mkdir()
                return path
            except FileExistsError:  # another process was quicker
                continue
    except OSError as error:
        raise StorageError(f"Cannot make a run folder in {root}: {error.strerror}.", "Give --output_dir.") from error


def _next_number(name: str, root: Path) -> int:
    pattern = re.compile(re.escape(name) + r"-(\d+)$")
    matches = (pattern.fullmatch(item.name) for item in root.iterdir())
    return max((int(match[1]) for match in matches if match), default=0) + 1


def holds_a_run(path: Path) -> bool:
    """Whether `path` is the folder of a run that has begun."""
    return (path / RUN_RECORD).exists() or any(path.glob("checkpoint-*"))


def refuse_used_folder(path: Path) -> None:
    """Refuse to start a new run in a folder that holds another.

    Raises:
        ConfigError: It does, or `path` is a file.
    """
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--output_dir {path} is a file.", "Give a folder.")
    if path.exists() and holds_a_run(path):
        raise ConfigError(
            f"--output_dir {path} already holds a run.", "Give --resume to go on with it, or another folder to start anew."
        )


class RunFolder:
    """Where a run writes, and its two records: ``run.json`` (what it is) and ``exit.json`` (how it ended).

    Attributes:
        path: The folder.
        run_id: The run's identity, kept when it is resumed.
        checkpoint: The checkpoint to resume from, None for a fresh start.
        is_main: Whether this process writes the records.
        callbacks: What is to hear of its training, for `build_trainer`: the mirror in a store, where there is one.
    """

    def __init__(self, path: Path, is_main: bool = True, checkpoint: Path | None = None):
        self.path = Path(path)
        self.is_main = is_main
        self.checkpoint = checkpoint
        self.started = time.time()
        self.callbacks: list[Any] = []
        record = self.path / RUN_RECORD
        self.run_id: str = read_json(record)["run_id"] if record.exists() else uuid.uuid4().hex[:12]

    def write_record(self, **fields: Any) -> None:
        """Merge `fields` into ``run.json``."""
        if self.is_main:
            path = self.path / RUN_RECORD
            known = read_json(path) if path.exists() else {"run_id": self.run_id, "starts": 1, **_surroundings()}
            write_json(path, {**known, **redact(fields)})

    def begin(self) -> None:
        """Forget how it ended the last time: a kill must not leave the record of another end.

        In ``run.json`` its `starts` are counted, and ``exit.json`` says of which one it is the end: where a copy of that
        could not be deleted, it is seen to be an old one.

        Raises:
            OSError: The folder cannot be written.
        """
        if self.is_main:
            for name in (EXIT_RECORD, DIVERGENCE):
                (self.path / name).unlink(missing_ok=True)
            if (self.path / RUN_RECORD).exists():
                record = read_json(self.path / RUN_RECORD)
                record.pop("final", None)
                write_json(self.path / RUN_RECORD, record | {"starts": _starts(record) + 1})

    def write_exit(
        self,
        code: int,
        reason: str,
        step: int | None = None,
        heard: bool = False,
        newest: str | None = None,
        undelivered: Sequence[str] = (),
        finished: bool = False,
    ) -> bool:
        """Write ``exit.json``: exit code, reason, last step, newest committed checkpoint, what is undelivered of the mirror.

        Of several processes the one that failed knows why; the others only see that it is gone. So
        one that knows (`heard`) writes whatever its rank, and the first record of an end stays.

        Args:
            finished: Whether the training came to its end; then nothing but an upload can be missing.

        Returns:
            Whether it was written.
        """
        if not (self.is_main or heard) or not self.path.is_dir() or (self.path / EXIT_RECORD).exists():
            return False
        write_json(
            self.path / EXIT_RECORD,
            {
                "exit_code": code,
                "reason": reason,
                "finished": finished,
                "step": step,
                "newest_checkpoint": newest,
                "undelivered_uploads": list(undelivered),
                "starts": _starts(read_json(self.path / RUN_RECORD)) if (self.path / RUN_RECORD).exists() else 1,
                "seconds": round(time.time() - self.started, 1),
                "time": timestamp(),
            },
        )
        return True


def correct_exit(path: Path, undelivered: Sequence[str], code: int | None = None, reason: str | None = None) -> bool:
    """Put right in ``exit.json`` of a run's folder what is undelivered; a training that had finished is, once nothing is.

    Args:
        code, reason: Of the end, where they became others.

    Returns:
        Whether anything changed.

    Raises:
        DataError, StorageError: It is damaged, or cannot be written.
    """
    if not (path / EXIT_RECORD).exists():
        return False
    known = read_json(path / EXIT_RECORD)
    changes: dict[str, Any] = {"undelivered_uploads": list(undelivered)}
    if known.get("finished") and not undelivered:
        changes |= {"exit_code": 0, "reason": "finished"}
    elif code is not None:
        changes |= {"exit_code": code, "reason": reason}
    if all(known.get(name) == value for name, value in changes.items()):
        return False
    write_json(path / EXIT_RECORD, known | changes)
    return True


def is_end_of(end: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether what ``exit.json`` says is not of a start before the one that ``run.json`` tells of last."""
    return bool(end) and ("starts" not in end or _starts(end) >= _starts(record))


def _starts(record: Mapping[str, Any]) -> int:
    starts = record.get("starts")
    return starts if isinstance(starts, int) and not isinstance(starts, bool) else 1


def timestamp(moment: float | None = None) -> str:
    """A moment in seconds since the epoch, or now, as ISO 8601 in UTC to the second; text that sorts by time."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def redact(value: Any, key: str = "") -> Any:
    """`value` without anything whose name says that it is a secret."""
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, key) for item in value]
    return "<redacted>" if value and isinstance(value, str) and _SECRET.search(key) else value


def _command_line() -> str:
    words = list(sys.argv)
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name.startswith("--") and _SECRET.search(name) and name not in ("--special_tokens", "--special-tokens"):
            if value:
                words[i] = f"{name}=<redacted>"
            elif i + 1 < len(words) and name.endswith(("token", "key", "secret", "password")):
                words[i + 1] = "<redacted>"
    return shlex.join(words)


def _surroundings() -> dict[str, Any]:
    return {
        "created": timestamp(),
        "command": _command_line(),
        "folder": os.getcwd(),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }
