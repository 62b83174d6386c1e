"""What of a run is safe: its checkpoints, here and in its store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.checkpoints.manifest import checkpoint_step, is_committed, read_manifest, verify
from llmforge.checkpoints.uploads import Record, parse_uploads, undelivered
from llmforge.errors import LlmforgeError
from llmforge.viewing.curves import Curves
from llmforge.viewing.text import one_line


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, here or in the store or both.

    Attributes:
        name: ``checkpoint-500``.
        step: Optimizer steps done.
        here: ``committed``, ``not committed`` (being written, or left half written), ``damaged`` (by names and sizes;
            nothing is hashed); None where it is in the store only.
        remote: ``queued``, ``uploading``, ``done``, ``failed``, ``superseded`` (left out for newer ones), ``deleted``;
            None for a run without a store.
        problem: What is wrong with it, or why it was not uploaded; empty where nothing is known.
        size: Bytes of its files; None where unknown.
        time: When it was committed, seconds since the epoch; None where unknown.
        loss: Validation loss at its step, of a run without evaluations training loss; None where there is none.
        best: Whether it is the best by the run's own metric, of all evaluations so far.
    """

    name: str
    step: int
    here: str | None
    remote: str | None = None
    problem: str = ""
    size: int | None = None
    time: float | None = None
    loss: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Saved:
    """All of them.

    Attributes:
        checkpoints: By step.
        remote: The store's URL; None without one.
        undelivered: Names of what has not reached it.
        failed: Other files whose last upload failed, and why.
    """

    checkpoints: list[Checkpoint] = field(default_factory=list)
    remote: str | None = None
    undelivered: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def best_evaluation(curves: Curves, config: Mapping[str, Any]) -> tuple[str, int, float] | None:
    """The metric that the run chooses by, the step of its best value so far, and that value; None without an evaluation."""
    training = config.get("training")
    told = training.get("metric_for_best_model") if isinstance(training, dict) else None
    name = f"eval_{str(told or 'loss').removeprefix('eval_')}"
    if name not in curves.series:
        name = "eval_loss"
    found = curves.series[name].lowest(highest=name == "eval_accuracy") if name in curves.series else None
    return None if found is None else (name, *found)


def saved(folder: Path, curves: Curves, best: int | None, running: bool, problems: list[str]) -> Saved:
    """What lies in `folder` and what its ``uploads.json`` tells.

    Args:
        curves: For the losses.
        best: Step of the best evaluation.
        running: Whether a process holds the run: without one nothing is uploading.
        problems: What could not be read is added.
    """
    try:
        record = parse_uploads(folder)
    except LlmforgeError:
        record = None
        problems.append("uploads.json is damaged: what has reached the store is not known.")
    places = {path.name: path for path in _folders(folder)}
    names = {*places, *(record.checkpoints if record else ())}
    steps = sorted((step, name) for name in names if (step := checkpoint_step(Path(name))) is not None)
    found = [_checkpoint(name, step, places.get(name), record, curves, best, running) for step, name in steps]
    if record is None:
        return Saved(found)
    try:
        waiting = undelivered(folder, record)
    except OSError:
        waiting = []
    failed = {one_line(name): one_line(item.error or "") for name, item in record.files.items() if item.state == "failed"}
    return Saved(found, one_line(record.remote), [one_line(name) for name in waiting], failed)


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if checkpoint_step(path) is not None and path.is_dir()]
    except OSError:
        return []


def _checkpoint(
    name: str, step: int, path: Path | None, record: Record | None, curves: Curves, best: int | None, running: bool
) -> Checkpoint:
    here, size, moment, problem = _here(path) if path is not None else (None, None, None, "")
    upload = record.checkpoints.get(name) if record else None
    state = upload.state if upload else "queued" if record and here == "committed" else None
    if upload is not None:
        problem = problem or (one_line(upload.error or "") if upload.state != "done" else "")
        size = size if size is not None else upload.bytes or None
        state = "queued" if upload.state == "uploading" and not running else upload.state
    return Checkpoint(name, step, here, state, problem, size, moment, _loss(curves, step), step == best)


def _here(path: Path) -> tuple[str, int | None, float | None, str]:
    """State, bytes, time and problem of a checkpoint's folder."""
    if not is_committed(path):
        return "not committed", None, None, ""
    wrong = verify(path, deep=False)
    if wrong:
        return "damaged", None, None, one_line(wrong[0])
    try:
        return "committed", read_manifest(path).size, (path / "manifest.json").stat().st_mtime, ""
    except (LlmforgeError, OSError):  # retention was quicker
        return "not committed", None, None, ""


def _loss(curves: Curves, step: int) -> float | None:
    """The one beside those of the other checkpoints: a training loss among validation losses would look like the best."""
    series = curves.series.get("eval_loss", curves.series.get("loss"))
    if series is None:
        return None
    for place in range(len(series) - 1, -1, -1):
        if series.steps[place] == step:
            return series.values[place]
        if series.steps[place] < step:
            break
    return None
