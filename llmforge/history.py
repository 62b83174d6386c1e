"""A run, read back: its curves and samples as tables, its records as dictionaries.

For looking at a run afterwards or while it goes on, in a notebook or in the commands that
report. Nothing is written, and neither torch nor transformers is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.errors import ConfigError, DataError
from llmforge.runtime.run_folder import EXIT_RECORD, FINAL, METRICS, RUN_RECORD, SAMPLES, holds_a_run
from llmforge.storage.records import read_json, read_json_lines

if TYPE_CHECKING:
    import pandas as pd


#: Columns that are always there, so that a plot made before the first of them was logged is empty and no error.
_CURVES = ("loss", "eval_loss")


@dataclass
class Run:
    """What one run has left so far; made by `load_run`.

    Attributes:
        path: The run's folder.
        metrics: One row a step, `step` being the index, and a column for each thing that was logged. A step
            that was logged more than once (training loss, evaluation, the totals at the end) is one row: in
            each column the last value. Columns have gaps, as not every step is evaluated, so
            ``run.metrics["loss"].dropna().plot()``. `loss` and `eval_loss` are always there; empty before the
            first log event.
        samples: Text written in training, a row a prompt, strategy and evaluation, in the order of writing:
            `step`, `prompt`, `strategy`, `text`, `settings`, and `final`, true for what the finished model wrote.
        config: The resolved configuration, by part (``config["model"]["preset"]``); empty where
            the run was started from Python without `open_run`.
        record: All of ``run.json``: run id, versions, data, command, at the end what `final` holds.
        exit: ``exit.json``, how it ended; None while it goes on, or when it was killed.
        final: The folder for `from_pretrained`; None before there is one.
    """

    path: Path
    metrics: pd.DataFrame
    samples: pd.DataFrame
    config: dict[str, Any]
    record: dict[str, Any]
    exit: dict[str, Any] | None
    final: Path | None


def load_run(path: Path | str) -> Run:
    """Read the run in `path` as it is now; a run still going on is read up to its last whole line.

    Raises:
        ConfigError: There is no such folder, or it holds no run.
        DataError: ``run.json`` is damaged.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ConfigError(f"There is no run folder {path}.", "Give the folder of a run, such as runs/pretrain-001.")
    if not holds_a_run(path) and not (path / METRICS).exists():
        raise ConfigError(
            f"{path} is no run: it has neither {RUN_RECORD} nor {METRICS}.",
            f"Give the folder that holds them{nearest_run(path)}.",
        )
    record = _read(path / RUN_RECORD) or {}
    final = path / FINAL
    return Run(
        path=path,
        metrics=_metrics(path / METRICS),
        samples=_samples(path / SAMPLES),
        config=record.get("config", {}),
        record=record,
        exit=_read(path / EXIT_RECORD),
        final=final if (final / "config.json").exists() else None,
    )


def nearest_run(path: Path) -> str:
    """`, such as DIR`: a run nearby, for a folder of runs or one inside a run; empty where there is none."""
    runs = [item for item in (path.parent, *sorted(path.iterdir(), reverse=True)) if item.is_dir() and (item / METRICS).exists()]
    return f", such as {runs[0]}" if runs else ""


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object.")
    return value


def _metrics(path: Path) -> pd.DataFrame:
    import pandas as pd

    lines = [line for line in read_json_lines(path) if isinstance(line, dict) and "step" in line]
    # `last` takes, in each column, the last value of a step that is no gap.
    table = pd.DataFrame(lines, columns=None if lines else ["step"]).groupby("step").last()
    for name in _CURVES:
        if name not in table:
            table[name] = float("nan")
    return table


def _samples(path: Path) -> pd.DataFrame:
    import pandas as pd

    lines = [line for line in read_json_lines(path) if isinstance(line, dict) and "step" in line]
    table = pd.DataFrame(lines, columns=["step", "prompt", "strategy", "text", "settings", "final"])
    table["final"] = [line.get("final", False) for line in lines]
    return table.astype({"final": bool})
