"""The curves of a run: one series a name, in columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Of a line, what places it rather than measures something.
_PLACES = ("step", "time", "epoch", "tokens")


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

        A line without a step or a value that is no number is left out. Where steps go back, as in a file that was not
        trimmed when the run was taken up again, what was logged past them is forgotten; of one step the last value counts.
        """
        for line in lines:
            step = line.get("step")
            if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 <= step < 1e15:
                continue
            if self.step is not None and step < self.step:
                for known in self.series.values():
                    known._back_to(step)
            self._place(line, int(step))
            time = math.nan if self.time is None else self.time
            tokens = math.nan if self.tokens is None else float(self.tokens)
            for name, value in line.items():
                if name in _PLACES or isinstance(value, bool) or not isinstance(value, (int, float)):
                    continue
                series = self.series.setdefault(name, Series())
                if series.steps and series.steps[-1] == step:
                    series._back_to(step)
                try:
                    series.values.append(value)
                except OverflowError:  # a whole number of a thousand digits
                    series.values.append(math.inf)
                series.steps.append(step)
                series.times.append(time)
                series.tokens.append(tokens)

    def _place(self, line: Mapping[str, Any], step: int) -> None:
        self.step = step
        for name in ("time", "epoch", "tokens"):
            value = line.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e18:
                setattr(self, name, int(value) if name == "tokens" else float(value))
        if self.first_time is None:
            self.first_time = self.time
