"""``uploads.json``: what has reached the store, what waits, what failed and why."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmforge.checkpoints.manifest import list_checkpoints
from llmforge.errors import DataError, LlmforgeError
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import timestamp
from llmforge.storage import read_json, write_json

UPLOADS = "uploads.json"
State = Literal["queued", "uploading", "done", "failed", "superseded", "deleted"]

#: Nothing is to be done any more for a checkpoint in one of these.
SETTLED = ("done", "superseded", "deleted")


@dataclass
class Upload:
    """A checkpoint or another file of the run, on its way.

    Attributes:
        state: ``failed`` is tried again while the run goes on, and by the next start; ``superseded`` was left out, since
            newer ones came before its turn; ``deleted`` is what retention took out of the store again.
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

    Attributes:
        remote: The URL of the run's folder in the store, as it may be shown.
        superseded: Checkpoints that were never uploaded, since newer ones came before their turn.
        checkpoints: By name.
        files: By name relative to the run's folder.
    """

    def __init__(self, run_dir: Path, remote: str):
        self.path = run_dir / UPLOADS
        self._lock = threading.Lock()
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

    def change(self, upload: Upload, state: State, **values: Any) -> None:
        """Set the state of an upload, and what else is given, and write the record."""
        upload.state, upload.time = state, timestamp()
        for name, value in values.items():
            setattr(upload, name, value)
        self.save()

    def gone(self, name: str) -> None:
        """Note that a checkpoint is in the store no more; what is not here either is dropped from the record."""
        if name in self.checkpoints and self.checkpoints[name].state == "done":
            self.change(self.checkpoints[name], "deleted")
        for item in [item for item, upload in dict(self.checkpoints).items() if upload.state in ("deleted", "superseded")]:
            if not (self.path.parent / item).exists():
                del self.checkpoints[item]

    def save(self) -> None:
        """Write the record."""
        with self._lock:
            record = Record(self.remote, self.superseded, dict(self.checkpoints), dict(self.files))
            try:
                write_json(self.path, asdict(record))
            except LlmforgeError as error:
                logger.warning("%s", error)


def read_uploads(run_dir: Path) -> Record | None:
    """The record in a run's folder; None where there is none, or none that can be read."""
    path = run_dir / UPLOADS
    if not path.exists():
        return None
    try:
        value = read_json(path)
        parts = {name: {key: Upload(**item) for key, item in value[name].items()} for name in ("checkpoints", "files")}
        return Record(str(value["remote"]), int(value["superseded"]), **parts)
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        logger.warning("%s is damaged and made anew: %s", path, error)
        return None


def undelivered(run_dir: Path, record: Record | Uploads) -> list[str]:
    """The committed checkpoints of a run's folder that are neither in the store nor were left out, as a record has it."""
    settled = {name for name, upload in record.checkpoints.items() if upload.state in SETTLED}
    return [path.name for path in list_checkpoints(run_dir) if path.name not in settled]
