"""``uploads.json``: what has reached the store, what waits, what failed and why."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmforge.checkpoints.manifest import list_checkpoints
from llmforge.errors import DataError, LlmforgeError
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import DIVERGENCE, EXIT_RECORD, FINAL, METRICS, REPORT, RUN_RECORD, SAMPLES, timestamp
from llmforge.storage.records import read_json, write_json

UPLOADS = "uploads.json"
State = Literal["queued", "uploading", "done", "failed", "superseded", "deleted"]

#: Nothing is to be done any more for a checkpoint in one of these.
SETTLED = ("done", "superseded", "deleted")
#: What is mirrored besides checkpoints, in this order.
_FILES = (
    *(RUN_RECORD, METRICS, SAMPLES, DIVERGENCE, "eval.json", "task.yaml"),
    *("plots/*", "tokenizer/*", f"{FINAL}/*", REPORT, "run.log", EXIT_RECORD),
)
#: Written to the very end; nothing waits for them.
LAST_RECORDS = (REPORT, "run.log", EXIT_RECORD)
#: The last of a folder to go: without it a part of ``final/`` is no model.
_LAST = ("config.json",)


@dataclass
class Upload:
    """A checkpoint or another file of the run, on its way.

    Attributes:
        state: ``failed`` is tried again while the run goes on, and by the next start; ``superseded`` is not to go: newer ones
            came before its turn, its course was left, or it is half of one that another machine sent; ``deleted`` is what
            retention took out of the store again.
        bytes: That were sent; those that were there already not counted.
        seconds: That the last attempt took.
        attempts: So far.
        error: Of the last attempt, in one line.
        time: Of the last change, ISO 8601 in UTC.
        best: Of a checkpoint, the step of the best one when it was saved.
        stamp: Of another file, size and time as it was sent.
    """

    state: State = "queued"
    bytes: int = 0
    seconds: float = 0.0
    attempts: int = 0
    error: str | None = None
    time: str = ""
    best: int | None = None
    stamp: list[int] | None = None


@dataclass
class Record:
    """``uploads.json`` as it is on the disk; the attributes are those of `Uploads`."""

    remote: str = ""
    superseded: int = 0
    checkpoints: dict[str, Upload] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)


class Uploads:
    """The record of one run, kept on the disk at every change. A disk that is full holds up the file and nothing else.

    Threads may share one: all that looks at several entries, or adds and removes some, is done under one lock.

    Attributes:
        remote: The URL of the run's folder in the store, as it may be shown.
        superseded: Checkpoints that were never uploaded, since newer ones came before their turn.
        checkpoints: By name.
        files: By name relative to the run's folder.
    """

    def __init__(self, run_dir: Path, remote: str):
        self.path = run_dir / UPLOADS
        self._lock = threading.RLock()
        known = read_uploads(run_dir)
        # Of another place nothing is known.
        record = known if known is not None and known.remote == remote else Record(remote)
        self.remote, self.superseded, self.checkpoints, self.files = (
            *(record.remote, record.superseded),
            *(record.checkpoints, record.files),
        )
        for upload in (*self.checkpoints.values(), *self.files.values()):
            if upload.state == "uploading":  # when the process was killed
                upload.state = "queued"

    def checkpoint(self, name: str, state: State = "queued", best: int | None = None) -> Upload:
        """The entry of a checkpoint, made in this state where there is none."""
        with self._lock:
            return self.checkpoints.setdefault(name, Upload(state, best=best))

    def file(self, name: str) -> Upload:
        """The entry of another file, made where there is none."""
        with self._lock:
            return self.files.setdefault(name, Upload())

    def copy(self) -> Record:
        """The record as it is now, which does not change any more."""
        with self._lock:
            parts = ({name: replace(item) for name, item in part.items()} for part in (self.checkpoints, self.files))
            return Record(self.remote, self.superseded, *parts)

    def change(self, upload: Upload, state: State, **values: Any) -> None:
        """Set the state of an upload, and what else is given, and write the record."""
        with self._lock:
            upload.state, upload.time = state, timestamp()
            for name, value in values.items():
                setattr(upload, name, value)
            self.save()

    def leave_out(self, name: str) -> None:
        """Note that a checkpoint is not uploaded, since newer ones came before its turn."""
        with self._lock:
            self.superseded += 1
            self.change(self.checkpoints[name], "superseded")

    def gone(self, name: str, state: State) -> None:
        """Note why a checkpoint that was uploaded is in the store no more."""
        with self._lock:
            if name in self.checkpoints and self.checkpoints[name].state == "done":
                self.change(self.checkpoints[name], state)

    def forget_past(self, halves: Collection[str]) -> None:
        """Drop the entries of checkpoints that are neither here nor, whole or as `halves`, in the store."""
        with self._lock:
            past = [name for name, upload in self.checkpoints.items() if upload.state in ("deleted", "superseded")]
            for name in past:
                if name not in halves and not (self.path.parent / name).exists():
                    del self.checkpoints[name]
            self.save()

    def save(self) -> None:
        """Write the record."""
        with self._lock:
            try:
                write_json(self.path, asdict(self.copy()))
            except LlmforgeError as error:
                logger.warning("%s", error)


def read_uploads(run_dir: Path) -> Record | None:
    """The record in a run's folder; None where there is none, or none that can be read, which is warned of."""
    try:
        return parse_uploads(run_dir)
    except DataError as error:
        logger.warning("%s", error)
        return None


def parse_uploads(run_dir: Path) -> Record | None:
    """The record in a run's folder; None where there is none.

    Raises:
        DataError: It is damaged.
    """
    path = run_dir / UPLOADS
    if not path.exists():
        return None
    try:
        value = read_json(path)
        parts = {name: {key: Upload(**item) for key, item in value[name].items()} for name in ("checkpoints", "files")}
        return Record(str(value["remote"]), int(value["superseded"]), **parts)
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged and made anew: {error}") from error


def stamp_of(path: Path) -> list[int]:
    """Size and time of a file, by which a change is seen.

    Raises:
        OSError: It is not there.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def changed_files(run_dir: Path, record: Record) -> list[tuple[str, list[int]]]:
    """Names, and size and time, of a run's files besides checkpoints that changed since they were sent."""
    found = []
    for pattern in _FILES:
        for path in sorted(run_dir.glob(pattern), key=lambda path: (path.name in _LAST, path.name)):
            try:
                name, stamp = path.relative_to(run_dir).as_posix(), stamp_of(path)
            except OSError:  # replaced at this moment
                continue
            known = record.files.get(name)
            if path.is_file() and not path.name.startswith(".") and (known is None or known.stamp != stamp):
                found.append((name, stamp))
    return found


def undelivered(run_dir: Path, record: Record) -> list[str]:
    """What of a run's folder has not reached the store, as a record has it: this is what ``exit.json`` and `status` tell.

    Committed checkpoints that are neither in the store nor were left out, and other files as they are now; not the log
    and the record of the end, which are written to the very end.
    """
    settled = {name for name, upload in record.checkpoints.items() if upload.state in SETTLED}
    waiting = [path.name for path in list_checkpoints(run_dir) if path.name not in settled]
    return waiting + [name for name, _ in changed_files(run_dir, record) if name not in LAST_RECORDS]
