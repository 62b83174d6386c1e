"""Whether a run goes on, and how it ended."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmforge.runtime.run_folder import is_end_of, timestamp
from llmforge.runtime.run_lock import LOCK, Holder, holder
from llmforge.viewing.text import one_line

State = Literal["running", "finished", "stopped", "preempted", "killed", "diverged", "failed", "unknown"]


@dataclass(frozen=True)
class Standing:
    """How a run stands.

    Attributes:
        state: ``running``; ``finished``; ``stopped`` (Ctrl-C) and ``preempted`` (a signal, of a spot machine say), to be
            gone on with by ``--resume``; ``killed`` (no process holds it, and none wrote how it ended); ``diverged``;
            ``failed``, as `reason` says; ``unknown``: no end is recorded, and the process was another machine's, or no
            record was kept at all.
        reason: In one line, as recorded; empty where nothing is.
        exit_code: As recorded.
        ended: When, ISO 8601 in UTC.
        process: Who holds the folder now, in words; a run that has ended may still wait for its uploads.
    """

    state: State
    reason: str = ""
    exit_code: int | None = None
    ended: str | None = None
    process: str | None = None


def standing(folder: Path, record: Mapping[str, Any], end: Mapping[str, Any]) -> Standing:
    """How the run in `folder` stands.

    Args:
        record: ``run.json``; may be empty.
        end: ``exit.json``; empty where there is none, or none that can be read.
    """
    who = holder(folder)
    process = None if who is None else one_line(str(who))
    if not is_end_of(end, record):
        end = {}
    if end and who is not None and str(end.get("time", "~")) < timestamp(who.since):
        end = {}  # taken up again since
    if end:
        return _ended(end, process)
    if who is not None:
        return Standing("running", process=process)
    last = Holder.read(folder / LOCK)
    if last.pid and last.host != platform.node():
        return Standing("unknown", f"No end is recorded; it was {one_line(str(last))}.")
    if not record and not (folder / LOCK).exists():
        return Standing("unknown", "Nothing tells how it stands: it was started from Python without open_run.")
    return Standing("killed", "No process holds the run, and none wrote how it ended.")


def _ended(end: Mapping[str, Any], process: str | None) -> Standing:
    code, reason = end.get("exit_code"), one_line(str(end.get("reason") or ""))
    code = code if isinstance(code, int) and not isinstance(code, bool) else None
    state: State = "failed"
    if code == 0 or end.get("finished") is True:  # what it may lack then are uploads
        state = "finished"
    elif code == 75:
        state = "stopped" if "Ctrl-C" in reason or "by" not in reason.split() else "preempted"
    elif code == 6:
        state = "diverged"
    ended = end.get("time")
    return Standing(state, reason, code, one_line(ended) if isinstance(ended, str) else None, process)
