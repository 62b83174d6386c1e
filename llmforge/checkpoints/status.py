"""`llmforge checkpoints status`: how a run stands, here and in its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmforge.checkpoints.commit import SET_ASIDE
from llmforge.checkpoints.manifest import SET_ASIDE_MANIFEST, checkpoint_step, is_committed
from llmforge.checkpoints.summary import best_step, read_object
from llmforge.checkpoints.uploads import Record, Upload, read_uploads, undelivered
from llmforge.errors import CheckpointError
from llmforge.runtime.run_folder import EXIT_RECORD, RUN_RECORD, holds_a_run, is_end_of, timestamp
from llmforge.runtime.run_lock import Holder, holder


def run_status(run: Path, url: str | None = None) -> dict[str, Any]:
    """How a run stands, for ``--json``.

    Args:
        run: Its folder, or the outline of one in a store.
        url: Where that store is; None for a folder of this machine.

    Raises:
        CheckpointError: No run, or a record of it is damaged.
    """
    if not run.is_dir() or not holds_a_run(run):
        raise CheckpointError(f"{run} holds no run.", "Give the folder of a run.")
    record, end = read_record(run / RUN_RECORD), read_record(run / EXIT_RECORD)
    end = end if is_end_of(end, record) else {}  # a copy in a store may be of an earlier end
    folders = [path for path in sorted(run.glob("checkpoint-*"), key=lambda path: checkpoint_step(path) or 0) if path.is_dir()]
    folders = [path for path in folders if checkpoint_step(path) is not None]
    aside = [path for path in folders if (path / SET_ASIDE_MANIFEST).exists()]  # in a store; here they lie in a folder
    folders = [path for path in folders if path not in aside]
    committed = [path for path in folders if is_committed(path)]
    who, best = holder(run) if url is None else None, best_step(folders)
    record_of_uploads = read_uploads(run) if url is None else None
    waiting = end.get("undelivered_uploads", []) if record_of_uploads is None else undelivered(run, record_of_uploads)
    return {
        "run": run.resolve().name,
        "run_id": record.get("run_id"),
        "state": _state(who, end, url is not None),
        "process": None if who is None else str(who),
        "exit_code": end.get("exit_code"),
        "reason": end.get("reason"),
        "ended": end.get("time"),
        "step": end.get("step"),
        "newest_committed": committed[-1].name if committed else None,
        "best": None if best is None else f"checkpoint-{best}",
        "checkpoints": len(committed),
        "not_committed": [path.name for path in folders if path not in committed],
        "set_aside": sorted(path.name for path in (aside if url else (run / SET_ASIDE).glob("*"))),
        "undelivered_uploads": waiting,
        **_mirror(run, folders, record_of_uploads, who is not None, url),
    }


def _mirror(run: Path, folders: list[Path], record: Record | None, running: bool, url: str | None) -> dict[str, Any]:
    """What is known of the store: by the record of this machine, or, of a URL, by the store itself."""
    if record is None:
        return {"remote": url}
    here = {path.name: "committed" if is_committed(path) else "not committed" for path in folders}
    names = sorted({*here, *record.checkpoints}, key=lambda name: checkpoint_step(Path(name)) or 0)
    done = [upload for upload in record.checkpoints.values() if upload.state == "done" and upload.bytes]
    seconds = sum(upload.seconds for upload in done)
    return {
        "remote": record.remote,
        "superseded_uploads": record.superseded,
        "bytes_per_second": round(sum(upload.bytes for upload in done) / seconds) if seconds else None,
        "uploads": [_standing(name, here.get(name), record.checkpoints.get(name), running) for name in names],
        "failed_files": {name: upload.error for name, upload in record.files.items() if upload.state == "failed"},
    }


def _standing(name: str, here: str | None, upload: Upload | None, running: bool) -> dict[str, Any]:
    """A checkpoint here and in the store."""
    known = upload or Upload(state="queued")
    # What a process left uploading that is no more is sent by the next one.
    state = "queued" if known.state == "uploading" and not running else known.state
    told = {"name": name, "here": here, "remote": state if upload or here == "committed" else None}
    return told | {field: getattr(known, field) for field in ("bytes", "seconds", "attempts", "error", "time")}


def read_record(path: Path) -> dict[str, Any]:
    """A record of the run; empty where there is none.

    Raises:
        CheckpointError: It is damaged.
    """
    return read_object(path) if path.exists() else {}


def _state(who: Holder | None, end: dict[str, Any], remote: bool) -> str:
    """In one word, or what the absence of an exit record means."""
    if who is not None and not end:
        return "running"
    if who is not None:
        if str(end.get("time", "~")) >= timestamp(who.since):  # of a record without a time it is taken to be later
            return "ended: it waits for its uploads"
        return "taken up again since it ended: it goes on, or its checkpoints are sent or pruned"
    if not end:
        return (
            "no end recorded: it goes on, or was killed" if remote else "killed: no process holds it, and none wrote how it ended"
        )
    return {0: "finished", 75: "interrupted: go on with --resume"}.get(end.get("exit_code", 1), "failed")
