"""The parts of the monitor's view, each of which takes the room that it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from llmforge.monitoring.brief import left
from llmforge.monitoring.curves import Curves, Line
from llmforge.monitoring.rows import COLOURS, one_row
from llmforge.viewing.curves import Series
from llmforge.viewing.run import RunView
from llmforge.viewing.verdicts import Verdict
from llmforge.viewing.words import count, duration, short

#: Blue and orange that colour-blind readers can tell apart, on light and on dark.
_TRAINING, _VALIDATION = "dodger_blue1", "bold dark_orange"
#: Points that are drawn of one series.
_MOST_POINTS = 2000
_MARKS = {"good": "✓", "watch": "!", "bad": "✗", "unknown": "·"}
_STATES = {"running": "green", "finished": "green", "killed": "bold red", "diverged": "bold red", "failed": "bold red"}


def header(view: RunView) -> RenderableType:
    """What it is and how it stands."""
    state = view.standing.state
    model, parameters = view.config.get("model"), view.record.get("parameters")
    about = [str(model.get("preset") or "") if isinstance(model, dict) else ""]
    if isinstance(parameters, int) and not isinstance(parameters, bool):
        about.append(f"{short(parameters)} parameters")
    about += [value for name in ("device", "host") if isinstance(value := view.record.get(name), str)]
    right = one_row((f"● {state}", _STATES.get(state, "dark_orange")))
    if view.seconds is not None:
        right.append(f" {'for' if view.running else 'after'} {duration(view.seconds)}")
    return _two(one_row((view.name, "bold"), "  ", (", ".join(text for text in about if text), "dim")), right)


def _two(left: Text, right: Text) -> Table:
    """Left and right ends of a row."""
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_row(left, right)
    return table


def progress(view: RunView, now: float) -> RenderableType:
    """A bar, and when it will be done."""
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(4):
        table.add_column(no_wrap=True)
    table.columns[1].ratio = 1
    fraction = view.fraction
    of = f"step {count(view.step)}" + (f" of {count(view.max_steps)}" if view.max_steps else "")
    done = Style.parse("green" if view.running or fraction == 1 else "dark_orange")
    # Without a known end it is an empty one.
    bar = ProgressBar(1.0, fraction or 0.0, complete_style=done, finished_style=done, style="grey37")
    table.add_row(of, bar, "" if fraction is None else f"{fraction:.1%}", left(view, now))
    return table


def answer_rows(answers: Sequence[tuple[str, Verdict, str]]) -> RenderableType:
    """The four answers, a row each: a mark, the question, the answer and the figures behind it."""
    rows = []
    for question, verdict, text in answers:
        colour = COLOURS[verdict.level]
        rows.append(one_row((f" {_MARKS[verdict.level]} ", colour), f"{question:<11}", (f"{verdict.answer:<13}  ", colour), text))
    return Group(*rows)


def loss_curves(view: RunView, height: int = 12) -> Curves:
    """Training and validation loss."""
    lines = [Line(_points(view.series.get("loss")), _TRAINING), Line(_points(view.series.get("eval_loss")), _VALIDATION, True)]
    return Curves(lines, logarithmic=None, height=height, empty="no loss logged yet")


def perplexity_curves(view: RunView, height: int = 12) -> Curves:
    """Perplexity of training (of its logged losses) and validation, without its steep start: there it is hundreds."""
    trained = [(step, math.exp(loss)) for step, loss in _points(view.series.get("loss")) if loss < 700]
    evaluated = _points(view.series.get("eval_perplexity"))
    if not evaluated:
        evaluated = [(step, math.exp(loss)) for step, loss in _points(view.series.get("eval_loss")) if loss < 700]
    lines = [Line(trained, _TRAINING), Line(evaluated, _VALIDATION, True)]
    return Curves(lines, head=0.2, height=height, empty="no loss logged yet")


def curve(view: RunView, name: str, logarithmic: bool | None = False, floor: float | None = None) -> Curves:
    """Any series of the run."""
    return Curves([Line(_points(view.series.get(name)), _TRAINING)], logarithmic=logarithmic, floor=floor)


def _points(series: Series | None) -> list[tuple[float, float]]:
    """Steps and values; of a long series the means of neighbours, which a terminal has no columns to tell apart."""
    if series is None:
        return []
    width = len(series) // _MOST_POINTS + 1
    if width == 1:
        return list(zip(series.steps, series.values, strict=True))
    chunks = ((series.steps[place], series.values[place : place + width]) for place in range(0, len(series) - 1, width))
    means = [(step, sum(values) / len(values)) for step, values in chunks]
    return [*means, (series.steps[-1], series.values[-1])]


def legend(view: RunView) -> Text:
    """What the lines of loss and perplexity are."""
    text = one_row(("─ training", _TRAINING))
    if "eval_loss" in view.series:
        text.append("  o validation", _VALIDATION)
    return text
