"""The curves of a run: one series a name, in columns."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmforge.viewing.text import one_line

#: Of a line, what places it rather than measures something.
_PLACES = ("step", "time", "epoch", "tokens")
#: More than that no run has; nor seconds since the epoch, nor tokens.
_MOST_STEPS = 10**15
_LARGEST = sys.float_info.max
_NAME_CHARACTERS = 80
#: Lines that are held before they become columns.
_AT_ONCE = 10_000


@dataclass
class Series:
    """What was logged under one name, by rising step; the columns are of one length.

    Attributes:
        steps: Optimizer steps done (whole numbers).
        values: May be NaN or infinite: a loss that diverged is kept.
        times: Seconds since the epoch; NaN where not logged.
        tokens: Tokens seen by then; NaN where not logged.
    """

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float | None:
        """The newest value; None where there is none."""
        return self.values[-1] if self.values else None

    def lowest(self, highest: bool = False) -> tuple[int, float] | None:
        """Step and value of the lowest (or highest) finite value, the first of equals; None where there is none."""
        sign = -1.0 if highest else 1.0
        finite = [place for place, value in enumerate(self.values) if math.isfinite(value)]
        if not finite:
            return None
        place = min(finite, key=lambda place: sign * self.values[place])
        return int(self.steps[place]), self.values[place]

    def _back_to(self, step: float) -> None:
        while self.steps and self.steps[-1] >= step:
            for column in (self.steps, self.values, self.times, self.tokens):
                column.pop()


@dataclass
class Curves:
    """All series of a run, and where it is.

    Attributes:
        series: By name as in ``metrics.jsonl``: ``loss``, ``eval_loss``, ``learning_rate``, ``grad_norm``, …
        step, epoch, tokens, time: Of the last line; None where it had none.
        first_time: Of the first line.
    """

    series: dict[str, Series] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None
    tokens: int | None = None
    time: float | None = None
    first_time: float | None = None

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in lines of ``metrics.jsonl``.

        A line without a step and a value that is no number are left out. Where steps go back, as in a file that was not
        trimmed when the run was taken up again, what was logged past them is forgotten; of one step the last value counts.
        """
        names: tuple[str, ...] = ()
        rows: list[tuple[Any, ...]] = []
        last = -1
        for line in lines:
            step = line.get("step")
            if type(step) is not int or not 0 <= step < _MOST_STEPS:
                continue
            if step <= last or tuple(line) != names or len(rows) == _AT_ONCE:
                self._take(names, rows)
                names, rows = tuple(line), []
            rows.append(tuple(line.values()))
            last = step
        self._take(names, rows)

    def _take(self, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """Add lines of the same names and rising steps: by column, for a long run has a hundred thousand of them."""
        if not rows:
            return
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        steps = array("d", columns["step"])
        if self.step is not None and steps[0] <= self.step:
            for name, series in self.series.items():
                series._back_to(steps[0] if name in columns else steps[0] + 1)
        times, tokens = (self._placed(columns.get(name, ()), name, len(steps)) for name in ("time", "tokens"))
        epochs = self._placed(columns.get("epoch", ()), "epoch", 1)
        self.step, self.epoch = int(steps[-1]), _known(epochs)
        self.time, self.tokens = _known(times), None if math.isnan(tokens[-1]) else int(tokens[-1])
        if self.first_time is None:
            self.first_time = next((time for time in times if math.isfinite(time)), None)
        for name, column in columns.items():
            if name not in _PLACES:
                self._extend(name, column, steps, times, tokens)

    def _placed(self, column: Sequence[Any], name: str, count: int) -> array[float]:
        """A column that places the lines; where they do not say, what the line before said."""
        last = getattr(self, name)
        last = math.nan if last is None else float(last)
        if not column:
            return array("d", [last]) * count
        found = array("d")
        for value in column:
            if isinstance(value, (int, float)) and abs(value) < _MOST_STEPS:
                last = float(value)
            found.append(last)
        return found

    def _extend(self, name: str, column: Sequence[Any], steps: array[float], times: array[float], tokens: array[float]) -> None:
        series = self.series.setdefault(one_line(name, _NAME_CHARACTERS), Series())
        try:
            values = array("d", column)
        except (TypeError, OverflowError):  # something that is no number, or a whole number of a thousand digits
            kept = [place for place, value in enumerate(column) if _is_number(value)]
            values = array("d", [column[place] for place in kept])
            steps, times, tokens = (array("d", [item[place] for place in kept]) for item in (steps, times, tokens))
        series.values.extend(values)
        series.steps.extend(steps)
        series.times.extend(times)
        series.tokens.extend(tokens)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= _LARGEST)


def _known(column: array[float]) -> float | None:
    return None if math.isnan(column[-1]) else column[-1]
