"""What a checkpoint says about itself, from its JSON files alone: no pickle is loaded, no torch imported.

A checkpoint is somebody else's until it is verified: numbers are taken only where they are numbers, and what is
missing is None. Those of plain transformers have no ``metadata.json``; what they tell is in ``trainer_state.json``.
"""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.checkpoints.manifest import METADATA, checkpoint_step, is_committed, verify
from llmforge.checkpoints.metadata import trend
from llmforge.errors import CheckpointError, DataError
from llmforge.runtime.run_folder import holds_a_run
from llmforge.storage.records import read_json

STATE = "trainer_state.json"
Points = list[tuple[int, float]]
#: Mean and deviation are of so many logged losses, the last ones.
RECENT = 40


@dataclass(frozen=True)
class Summary:
    """One checkpoint.

    Attributes:
        path: Its folder, or what was fetched of it.
        place: Where it is: its folder, or its URL.
        step: Optimizer steps done.
        committed: Whether it has a manifest.
        problems: What names and sizes tell against it, and JSON that cannot be read; nothing is hashed.
        size: Bytes of its files.
        time: When it was saved, ISO 8601 in UTC.
        values: ``epoch``, ``tokens_seen``, ``files_seen``, ``loss`` (the last one logged), ``learning_rate``, ``best_loss``,
            ``best_step``, ``steps_since_best``, ``mean_loss`` and ``loss_deviation`` (of the last `RECENT` losses logged),
            ``trend``, ``mixed_precision``; None where unknown.
        losses: Steps and training losses.
        rates: Steps and learning rates.
        evaluations: Steps and validation losses.
        validation: Metrics of the last evaluation.
        config: The resolved configuration, by part.
        system: Versions and the machine.
    """

    path: Path
    place: str
    step: int
    committed: bool
    problems: list[str]
    size: int
    time: str
    values: dict[str, Any]
    losses: Points = field(default_factory=list)
    rates: Points = field(default_factory=list)
    evaluations: Points = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """``committed``, ``not committed`` or ``damaged``."""
        if self.problems:
            return "damaged"
        return "committed" if self.committed else "not committed"


def checkpoint_folders(run_dir: Path) -> list[Path]:
    """The checkpoints in `run_dir`, committed or not, by step.

    Raises:
        CheckpointError: It is no folder of a run, or holds none.
    """
    if not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is no folder.", "Give the folder of a run.")
    if checkpoint_step(run_dir) is not None or (run_dir / STATE).is_file():
        raise CheckpointError(f"{run_dir} is a checkpoint.", "Give the folder of its run, and its name after that.")
    found = [(step, path) for path in run_dir.iterdir() if (step := checkpoint_step(path)) is not None and path.is_dir()]
    if not found:
        what = "has no checkpoint yet" if holds_a_run(run_dir) else "holds no run"
        raise CheckpointError(f"{run_dir} {what}.", "" if holds_a_run(run_dir) else "Give the folder of a run.")
    return [path for _, path in sorted(found)]


def find(run_dir: Path, name: str) -> Path:
    """The checkpoint of a run that `name` means: ``checkpoint-500``, ``500``, ``newest`` or ``best``.

    Raises:
        CheckpointError: There is none.
    """
    folders = checkpoint_folders(run_dir)
    if name == "newest":
        return folders[-1]
    if name == "best":
        step = best_step(folders)
        if step is None:
            raise CheckpointError(f"{run_dir} has no best checkpoint: nothing was evaluated.", "Give a name.")
        name = str(step)
    wanted = Path(name).name.removeprefix("checkpoint-")
    for path in folders:
        if str(checkpoint_step(path)) == wanted:
            return path
    raise CheckpointError(f"{run_dir} has no checkpoint {name}.", f"It has {', '.join(path.name for path in folders)}.")


def best_step(folders: Sequence[Path]) -> int | None:
    """The step of the best checkpoint, as the newest readable one remembers it; None without an evaluation, or if it is gone."""
    steps = {checkpoint_step(path) for path in folders}
    for path in reversed(folders):
        try:
            state = read_object(path / STATE)
        except CheckpointError:
            continue
        step = state.get("best_global_step")
        if step is None and isinstance(state.get("best_model_checkpoint"), str):  # of an older transformers
            step = checkpoint_step(Path(state["best_model_checkpoint"]))
        return step if step in steps else None
    return None


def summarise(path: Path, run: str | None = None) -> Summary:
    """Read what a checkpoint says of itself; what cannot be read is among its problems.

    Args:
        run: The URL of its run, where `path` is an outline of what is there.
    """
    committed = is_committed(path)
    problems = verify(path, deep=False) if committed else []
    parts: list[dict[str, Any]] = []
    for name in (METADATA, STATE):
        try:
            parts.append(read_object(path / name))
        except CheckpointError as error:
            parts.append({})
            if (path / name).exists() or name == STATE:
                problems.append(str(error))
    metadata, state = parts
    history = [entry for entry in _list(state.get("log_history")) if isinstance(entry, dict)]
    losses = _points(metadata.get("loss_history")) or _logged(history, "loss")
    rates = _points(metadata.get("learning_rate_history")) or _logged(history, "learning_rate")
    evaluations = _logged(history, "eval_loss")
    last = next((entry for entry in reversed(history) if "eval_loss" in entry), {})
    values = {name: metadata.get(name) for name in ("epoch", "tokens_seen", "files_seen", "loss", "best_loss", "best_step")}
    values |= {name: _number(value) for name, value in values.items()}
    judged = [point for point in evaluations or losses if math.isfinite(point[1])]
    lowest = min(judged, key=lambda point: point[1], default=(None, None))
    step = checkpoint_step(path) or 0
    for name, told in (("loss", losses[-1][1] if losses else None), ("best_step", lowest[0]), ("best_loss", lowest[1])):
        values[name] = told if values[name] is None else values[name]
    for name, key in (("epoch", "epoch"), ("tokens_seen", "num_input_tokens_seen")):
        values[name] = _number(state.get(key)) if values[name] is None else values[name]
    recent = [loss for _, loss in losses[-RECENT:] if math.isfinite(loss)]
    values |= {
        "steps_since_best": None if values["best_step"] is None else step - int(values["best_step"]),
        "learning_rate": rates[-1][1] if rates else None,
        "mean_loss": statistics.fmean(recent) if recent else None,
        "loss_deviation": statistics.stdev(recent) if len(recent) > 1 else None,
        "trend": metadata["trend"] if isinstance(metadata.get("trend"), str) else trend([loss for _, loss in losses]),
        "mixed_precision": metadata.get("mixed_precision") if isinstance(metadata.get("mixed_precision"), str) else None,
    }
    files = [item for item in path.rglob("*") if item.is_file() and not item.is_symlink()]
    return Summary(
        path=path,
        place=str(path) if run is None else f"{run}/{path.name}",
        step=step,
        committed=committed,
        problems=problems,
        size=sum(item.stat().st_size for item in files),
        time=_time(metadata.get("timestamp"), path),
        values=values,
        losses=losses,
        rates=rates,
        evaluations=evaluations,
        validation=_dict(metadata.get("validation")) or {name: value for name, value in last.items() if name[:5] == "eval_"},
        config=_dict(metadata.get("config")),
        system=_dict(metadata.get("system")),
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file that may be anything.

    Raises:
        CheckpointError: It is missing or something else.
    """
    if not path.exists():
        raise CheckpointError(f"{path.parent.name} has no {path.name}.")
    try:
        value = read_json(path) if path.is_file() else None
    except (DataError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is no JSON.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: it holds no object.")
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _points(value: Any) -> Points:
    pairs = [pair for pair in _list(value) if isinstance(pair, list) and len(pair) == 2]
    return [(int(step), float(y)) for step, y in pairs if _is_step(step) and _number(y) is not None]


def _logged(history: list[dict[str, Any]], name: str) -> Points:
    return _points([[entry.get("step"), entry.get(name)] for entry in history])


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _time(told: Any, path: Path) -> str:
    """ISO 8601 in UTC; that of the files where nothing is told."""
    try:
        moment = datetime.datetime.fromisoformat(told)
    except (TypeError, ValueError):
        state = path / STATE
        moment = datetime.datetime.fromtimestamp((state if state.exists() else path).stat().st_mtime, datetime.UTC)
    return moment.replace(microsecond=0, tzinfo=moment.tzinfo or datetime.UTC).astimezone(datetime.UTC).isoformat()
