"""Which curves a report shows, and their data for the page."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llmforge.reporting.thinning import places, plain, thin
from llmforge.viewing.curves import Series
from llmforge.viewing.run import RunView
from llmforge.viewing.words import count, number

Form = Literal["number", "count", "bytes", "percent", "share"]
#: Points of one line at most, and of all the lines of a page together: that is what bounds the page's size.
_MOST_POINTS, _ALL_POINTS, _FEWEST_POINTS = 1600, 48_000, 120
#: Knots by which the page turns steps into tokens and hours.
_KNOTS = 300
#: Rows of a chart's table.
_ROWS = 20
#: Charts of what callbacks of the user's own have logged.
_MOST_OTHERS = 12
#: Logged, and no curve to look at: sizes of the evaluation, sums of the end, what a deadline foretells.
_NOT_SHOWN = {"eval_tokens", "eval_bytes", "eta_seconds", "eval_loss", "micro_batch", "useful_tokens_per_second"}
_NOT_SHOWN |= {"run_seconds", "max_steps"}
_NO_CURVES = ("_runtime", "_samples_per_second", "_steps_per_second", "train_loss")


@dataclass(frozen=True)
class _Line:
    """What is drawn of one series.

    Attributes:
        name: Of the series.
        label: In the legend.
        measured: Whether it is of an evaluation: few points, each marked.
        change: What is drawn instead of its values.
    """

    name: str
    label: str
    measured: bool = False
    change: Callable[[float], float] | None = None


@dataclass(frozen=True)
class _Chart:
    """One chart: title, unit, lines, how its values are written.

    Attributes:
        logarithmic: Whether its axis is at first.
        noisy: Whether it may be smoothed.
    """

    title: str
    unit: str
    lines: tuple[_Line, ...]
    form: Form = "number"
    logarithmic: bool = False
    noisy: bool = True


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


CHARTS = (
    _Chart("Loss", "nats a token", (_Line("loss", "training"), _Line("eval_loss", "validation", True))),
    _Chart(
        "Perplexity",
        "",
        (_Line("loss", "training", change=_exp), _Line("eval_perplexity", "validation", True)),
        logarithmic=True,
    ),
    _Chart("Bits per byte", "bits", (_Line("eval_bits_per_byte", "validation", True),)),
    _Chart("Accuracy", "share of tokens", (_Line("eval_accuracy", "validation", True),), "share"),
    _Chart("Learning rate", "", (_Line("learning_rate", "learning rate"),), noisy=False),
    _Chart("Gradient norm", "before clipping", (_Line("grad_norm", "gradient norm"),), logarithmic=True),
    _Chart("Speed", "tokens a second", (_Line("tokens_per_second", "tokens a second"),), "count"),
    _Chart("Model FLOPs utilisation", "share of the peak", (_Line("mfu", "MFU"),), "share"),
    _Chart(
        "Device memory", "bytes", (_Line("device_memory", "in use"), _Line("device_memory_peak", "peak")), "bytes", noisy=False
    ),
    _Chart("Device utilisation", "percent", (_Line("device_utilization", "utilisation"),), "percent"),
    _Chart("Device temperature", "°C", (_Line("device_temperature", "temperature"),)),
)


@dataclass
class ChartTable:
    """A chart as a table, for readers who do not see it: a step a row, a line of the chart a column."""

    head: list[str]
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class Chart:
    """One chart of a page.

    Attributes:
        data: What the page's script draws.
        table: Some of its points.
    """

    title: str
    unit: str
    data: dict[str, Any]
    table: ChartTable


def charts(views: Sequence[RunView]) -> list[Chart]:
    """The charts that these runs have data for: of several runs one for each measure, with a line for each run."""
    known = [chart for chart in CHARTS if any(line.name in view.series for view in views for line in chart.lines)]
    wanted = [*known, *_others(views)]
    if len(views) > 1:
        wanted = [_alone(chart, line) for chart in wanted for line in chart.lines]
    lines = sum(1 for chart in wanted for line in chart.lines for view in views if line.name in view.series)
    most = max(min(_ALL_POINTS // max(lines, 1), _MOST_POINTS), _FEWEST_POINTS)
    return [made for chart in wanted if (made := _chart(chart, views, most)) is not None]


def axes(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """For each run: steps, and the tokens and hours at them."""
    made = []
    for view in views:
        series = max(view.series.values(), key=len, default=Series())
        at = places(len(series), _KNOTS)
        begun = next((time for time in series.times if math.isfinite(time)), math.nan)
        made.append(
            {
                "s": [int(series.steps[i]) for i in at],
                "t": plain([series.tokens[i] for i in at]),
                "h": plain([(series.times[i] - begun) / 3600 for i in at]),
            }
        )
    return made


def _alone(chart: _Chart, line: _Line) -> _Chart:
    """A line as a chart of its own, called after both where the chart has several."""
    title = f"{chart.title}, {line.label}" if len(chart.lines) > 1 else chart.title
    return replace(chart, title=title, lines=(line,))


def _others(views: Sequence[RunView]) -> list[_Chart]:
    taken = {line.name for chart in CHARTS for line in chart.lines} | _NOT_SHOWN
    names = dict.fromkeys(name for view in views for name in view.series if name not in taken and not name.endswith(_NO_CURVES))
    return [_Chart(name, "", (_Line(name, name, name.startswith("eval_")),)) for name in list(names)[:_MOST_OTHERS]]


def _chart(chart: _Chart, views: Sequence[RunView], most: int) -> Chart | None:
    lines, columns = [], []
    for run, view in enumerate(views):
        for line in chart.lines:
            series = view.series.get(line.name)
            if series is None or not any(math.isfinite(value) for value in series.values):
                continue
            if line.change is not None:
                series = Series(series.steps, array("d", map(line.change, series.values)), series.times, series.tokens)
            label = view.name if len(views) > 1 else line.label
            thinned = thin(series, most)
            drawn = {"s": thinned.steps, "v": thinned.values}
            if thinned.means:
                drawn |= {"ms": thinned.mean_steps, "mv": thinned.means}
            lines.append({"run": run, "label": label, "measured": line.measured, "count": len(series), **drawn})
            columns.append((label, series))
    if not lines:
        return None
    data = {"title": chart.title, "unit": chart.unit, "form": chart.form, "log": chart.logarithmic}
    data |= {"noisy": chart.noisy, "lines": lines}
    return Chart(chart.title, chart.unit, data, _table(columns, chart.form))


def _table(columns: Sequence[tuple[str, Series]], form: Form) -> ChartTable:
    picked: list[dict[int, str]] = []
    for _, series in columns:
        picked.append({int(series.steps[i]): written(series.values[i], form) for i in places(len(series), _ROWS)})
    steps = sorted({step for column in picked for step in column})
    rows = [[count(step), *(column.get(step, "") for column in picked)] for step in steps]
    return ChartTable(["Step", *(label for label, _ in columns)], rows)


def written(value: float, form: Form) -> str:
    """A value as its chart writes it."""
    if not math.isfinite(value) or form == "number":
        return number(value)
    if form == "share":
        return f"{value:.1%}"
    if form == "percent":
        return f"{value:.0f} %"
    return f"{value / 1e9:.2f} GB" if form == "bytes" else count(value)
