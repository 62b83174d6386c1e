"""The view of a run: all that `report` and `monitor` show of it."""

from __future__ import annotations

import calendar
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.configs.deadline import UNBOUNDED
from llmforge.errors import ConfigError, LlmforgeError
from llmforge.history import nearest_run
from llmforge.runtime.run_folder import DIVERGENCE, EXIT_RECORD, METRICS, RUN_RECORD, SAMPLES, holds_a_run
from llmforge.runtime.run_lock import LOCK
from llmforge.storage.records import read_json
from llmforge.viewing.curves import Curves, Series
from llmforge.viewing.lines import GrowingLines, Message, messages, tail
from llmforge.viewing.samples import Sample, with_samples
from llmforge.viewing.saved import Saved, best_evaluation, saved
from llmforge.viewing.settings import Change, changes
from llmforge.viewing.standing import Standing, standing
from llmforge.viewing.text import all_shown, one_line

LOG = "run.log"
_OF_STEPS = re.compile(r" step (\d+)/(\d+) ")
#: Warnings that a view holds, the newest.
_WARNINGS = 20


@dataclass(frozen=True)
class RunView:
    """A run as it is now. Texts in it are fit to be shown: no terminal escapes, no control characters, of bounded length.

    Attributes:
        path: Its folder.
        name: The folder's name.
        standing: Whether it goes on, or how it ended.
        step: Optimizer steps done; 0 before the first log event.
        max_steps: Of the whole training; None where unknown.
        epoch: Epochs done; None before the first log event.
        tokens: Tokens trained on.
        seconds: From the start of the run to its end, or to now, or, of a killed one, to the last log event.
        eta_seconds: Till the training is done, at the pace so far; None for a run that does not go on.
        seen: When it last logged anything, seconds since the epoch.
        latest: The newest value of every series, by name as in ``metrics.jsonl``.
        best: Metric, step and value of the best evaluation so far; None without one.
        series: The curves, by the same names; they grow with the next `RunReader.view`.
        samples: In the order of writing; of very many the first, the newest, and evenly spread ones between.
        saved: Checkpoints and their uploads.
        warnings: The last warnings and errors of ``run.log``, oldest first.
        config: The resolved configuration, by part; empty where unknown.
        changes: Where it differs from the defaults; None where the run's version did not record that.
        record: All of ``run.json``: run id, command, versions, host, device, data, tokenizer, what ``final/`` holds.
        card: The prepared data's card, or, where that is gone, what ``run.json`` tells of it.
        test: ``eval.json``: `final/` on the test split; empty before the end.
        divergence: ``divergence.json``; empty for a run that did not diverge.
        problems: What could not be read, a line each.
    """

    path: Path
    name: str
    standing: Standing
    step: int
    max_steps: int | None
    epoch: float | None
    tokens: int | None
    seconds: float | None
    eta_seconds: float | None
    seen: float | None
    latest: dict[str, float]
    best: tuple[str, int, float] | None
    series: dict[str, Series]
    samples: list[Sample]
    saved: Saved
    warnings: list[Message]
    config: dict[str, Any]
    changes: list[Change] | None
    record: dict[str, Any]
    card: dict[str, Any]
    test: dict[str, Any]
    divergence: dict[str, Any]
    problems: list[str]

    @property
    def fraction(self) -> float | None:
        """Of the training that is done, from 0 to 1."""
        return min(self.step / self.max_steps, 1.0) if self.max_steps else None

    @property
    def running(self) -> bool:
        """Whether it trains now."""
        return self.standing.state == "running"


class RunReader:
    """Reads one run again and again: of the files that only grow, each time only what is new.

    Args:
        path: The run's folder.

    Raises:
        ConfigError: There is no such folder, or it holds no run.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise ConfigError(f"There is no run folder {self.path}.", "Give the folder of a run, such as runs/pretrain-001.")
        if not holds_a_run(self.path) and not any((self.path / name).exists() for name in (METRICS, LOCK)):
            raise ConfigError(
                f"{self.path} is no run: it has neither {RUN_RECORD} nor {METRICS}.",
                f"Give the folder that holds them{nearest_run(self.path)}.",
            )
        self._metrics, self._curves = GrowingLines(self.path / METRICS), Curves()
        self._lines, self._samples = GrowingLines(self.path / SAMPLES), list[Sample]()

    def view(self, now: float | None = None) -> RunView:
        """The run as it is now. Whatever is missing, half written or damaged is left out, and told in `RunView.problems`.

        Args:
            now: Seconds since the epoch; by default the clock's.
        """
        now = time.time() if now is None else now
        problems: list[str] = []
        curves, samples = self._grown()
        grown = [(file.path.name, file.overlong) for file in (self._metrics, self._lines) if file.overlong]
        problems += [f"{name}: lines longer than any that a run writes are left out ({count})." for name, count in grown]
        record = self._object(RUN_RECORD, problems)
        stands = standing(self.path, record, self._object(EXIT_RECORD, problems))
        config, defaults = _dict(record.get("config")), record.get("defaults")
        best = best_evaluation(curves, config)
        running = stands.state == "running"
        heard = messages(self.path / LOG)
        kept = saved(self.path, curves, best[1] if best else None, stands.process is not None, problems)
        # A run that was stopped has saved more steps than it logged.
        step = max([curves.step or 0, *(item.step for item in kept.checkpoints if item.here == "committed")])
        max_steps = _max_steps(record, config, curves, self.path)
        return RunView(
            path=self.path,
            name=one_line(self.path.resolve().name),
            standing=stands,
            step=step,
            max_steps=max_steps,
            epoch=curves.epoch,
            tokens=curves.tokens,
            seconds=_seconds(record, stands, curves, now),
            eta_seconds=_eta(curves, max_steps, now) if running else None,
            seen=curves.time,
            latest={name: series.values[-1] for name, series in curves.series.items() if len(series)},
            best=best,
            series={name: series for name, series in curves.series.items() if len(series)},
            samples=samples,
            saved=kept,
            warnings=[item for item in heard if item.level not in ("INFO", "DEBUG")][-_WARNINGS:],
            config=config,
            changes=changes(config, defaults) if isinstance(defaults, dict) else None,
            record=record,
            card=self._card(record),
            test=self._object("eval.json", problems),
            divergence=self._object(DIVERGENCE, problems),
            problems=problems,
        )

    def log(self, lines: int = 20) -> list[str]:
        """The last lines of ``run.log``."""
        return tail(self.path / LOG, lines)

    def _grown(self) -> tuple[Curves, list[Sample]]:
        new = self._metrics.read()
        if self._metrics.restarted:
            self._curves = Curves()
        self._curves.add(new)
        new = self._lines.read()
        if self._lines.restarted:
            self._samples = []
        self._samples = with_samples(self._samples, new)
        return self._curves, self._samples

    def _object(self, name: str, problems: list[str]) -> dict[str, Any]:
        """A JSON object of the folder; empty where there is none."""
        found = _object(self.path / name)
        if found is None:
            problems.append(f"{name} is damaged: it is no JSON object.")
        return found or {}

    def _card(self, record: dict[str, Any]) -> dict[str, Any]:
        data = _dict(record.get("data"))
        place = data.get("path")
        card = _object(Path(place) / "data_card.json") if isinstance(place, str) and "\0" not in place else None
        # A cache may hold something else there by now.
        if card and card.get("splits") == data.get("splits"):
            return card
        return {"splits": _dict(data.get("splits")), "tokenizer": _dict(record.get("tokenizer"))} if data else {}


def view_run(path: Path | str, now: float | None = None) -> RunView:
    """The run in `path` as it is now; raises ConfigError as `RunReader`."""
    return RunReader(path).view(now)


def _object(path: Path) -> dict[str, Any] | None:
    """None where it is damaged."""
    try:
        if not path.exists():
            return {}
        value = read_json(path)
    except (LlmforgeError, OSError):
        return None
    return all_shown(value) if isinstance(value, dict) else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _max_steps(record: dict[str, Any], config: dict[str, Any], curves: Curves, path: Path) -> int | None:
    """What the run planned, or with a deadline foretells; of one that recorded neither, its setting, or what its log says."""
    foretold = curves.series.get("max_steps")
    if foretold is not None and len(foretold) and math.isfinite(foretold.values[-1]):
        return int(foretold.values[-1])
    for value in (record.get("steps"), _dict(config.get("training")).get("max_steps")):
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < UNBOUNDED:
            return value
    found = [match for line in tail(path / LOG) if (match := _OF_STEPS.search(line))]
    return int(found[-1][2][:15]) if found else None


def _seconds(record: dict[str, Any], stands: Standing, curves: Curves, now: float) -> float | None:
    begun = _moment(record.get("created")) or curves.first_time
    ended = now if stands.state == "running" else _moment(stands.ended) or curves.time
    return max(ended - begun, 0.0) if begun is not None and ended is not None else None


def _moment(text: Any) -> float | None:
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except (TypeError, ValueError):
        return None


def _eta(curves: Curves, max_steps: int | None, now: float) -> float | None:
    """What was logged last, less the time since."""
    series = curves.series.get("eta_seconds")
    if series is not None and len(series) and math.isfinite(series.values[-1]):
        since = now - series.times[-1] if math.isfinite(series.times[-1]) else 0.0
        return max(series.values[-1] - max(since, 0.0), 0.0)
    return None
