"""The whole view: at 80 x 24 what is essential, in a large terminal everything, as text for a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmforge.monitoring import parts, tables
from llmforge.monitoring.brief import brief
from llmforge.monitoring.rows import one_row
from llmforge.viewing.run import RunView
from llmforge.viewing.verdicts import verdicts

#: From this size on there is room for everything at once.
_WIDE, _HIGH = 120, 34
#: Below this width there is room for one picture.
_NARROW = 60
_COLUMN = 20
#: Rows of pictures that are better two rows of them.
_TWO_ROWS = 20


def screen(view: RunView, width: int, height: int, now: float, foot: str) -> RenderableType:
    """The view in a terminal of this size; nothing in it is wider or higher.

    Args:
        view: The run.
        width, height: Columns and rows.
        now: Seconds since the epoch.
        foot: The last row.
    """
    told = brief(view, verdicts(view, now), now)
    top = [(parts.header(view), 1), (parts.progress(view, now), 1), (parts.answer_rows(told), 4)]
    rest = height - 7
    if rest < 0:
        return _stack([(parts.answer_rows(told), min(height, 4)), (parts.header(view), max(height - 4, 0))][: height // 4 + 1])
    bottom = [(one_row((foot, "dim")), 1)]
    if width >= _WIDE and height >= _HIGH:
        return _stack([*top, (_wide(view, rest, now), rest), *bottom])
    return _stack([*top, *_compact(view, width, rest), *bottom])


def _stack(rows: Sequence[tuple[RenderableType, int]]) -> Layout:
    layout = Layout()
    layout.split_column(*(Layout(part, size=size) for part, size in rows if size > 0))
    return layout


def _compact(view: RunView, width: int, height: int) -> list[tuple[RenderableType, int]]:
    """What there is room for, by its use: figures, curves, checkpoints, warnings, a sample."""
    columns = max(width // _COLUMN, 1)
    pairs = tables.figures(view)
    rows = -(-len(pairs) // columns) if pairs else 0
    rows = min(rows, max(height - 7, 0) if height > 7 else height, 3)
    figures = (tables.figure_columns(pairs[: rows * columns], columns), rows)
    rest = height - rows
    lines = 2 if rest >= 9 else 1 if rest >= 8 else 0
    sample = 0 if rest < 10 else 1 if rest < 13 else 2 + max((rest - 15) // 4, 0)
    pictures = rest - sample - lines
    if pictures < 5:
        lines, sample, pictures = min(rest, 2), 0, 0
    tail = [(tables.checkpoint_row(view), 1), (tables.warning_row(view), 1)][:lines]
    # The losses first; the others where there is much room.
    second = pictures * 2 // 5 if pictures >= _TWO_ROWS else 0
    pairs_of_curves = [
        (_pictures(width, _losses(view)), pictures - second),
        (_pictures(width, [(Text("learning rate", "bold"), parts.curve(view, "learning_rate")), _norm(view)]), second),
    ]
    written = tables.sample_block(view) if sample > 4 else tables.sample_rows(view, sample)
    return [*pairs_of_curves, figures, *tail, (written, sample)]


def _losses(view: RunView) -> list[tuple[Text, RenderableType]]:
    """Loss and perplexity with their titles."""
    loss = one_row(("loss  ", "bold")).append_text(parts.legend(view))
    return [(loss, parts.loss_curves(view)), (Text("perplexity", "bold"), parts.perplexity_curves(view))]


def _norm(view: RunView) -> tuple[Text, RenderableType]:
    return Text("gradient norm", "bold"), parts.curve(view, "grad_norm", None)


def _pictures(width: int, pictures: Sequence[tuple[Text, RenderableType]]) -> RenderableType:
    """Two pictures side by side, or the first."""
    row = Layout()
    columns: list[Layout] = []
    for title, curves in pictures[: 2 if width >= _NARROW else 1]:
        column = Layout()
        column.split_column(Layout(title, size=1), Layout(curves))
        columns += [Layout(Text(" "), size=2), column] if columns else [column]
    row.split_row(*columns)
    return row


def _wide(view: RunView, height: int, now: float) -> Layout:
    """Five pictures to the left, the rest to the right."""
    left, right = Layout(ratio=3), Layout(ratio=2)
    large = height * 2 // 5
    middle = (height - large) // 2
    losses = _panel("loss", parts.loss_curves(view), parts.legend(view))
    perplexity = _panel("perplexity", parts.perplexity_curves(view))
    rate = _panel("learning rate", parts.curve(view, "learning_rate"))
    norm = _panel("gradient norm", parts.curve(view, "grad_norm", None))
    speed = _panel("tokens/s", parts.curve(view, "tokens_per_second", floor=0.0))
    rows = [[perplexity, rate], [norm, speed]]
    halves = [Layout(size=middle), Layout(size=height - large - middle)]
    for half, row in zip(halves, rows, strict=True):
        half.split_row(*map(Layout, row))
    left.split_column(Layout(losses, size=large), *halves)
    pairs = tables.figures(view)
    figures = -(-len(pairs) // 2) + 2
    warnings = min(max(len(view.warnings) + len(view.problems), 1), 5) + 2
    kept = min(max(len(view.saved.checkpoints), 1) + 1, max((height - figures - warnings) // 2 - 2, 3)) + 2
    title = "checkpoints" + (f", store {view.saved.remote}" if view.saved.remote else "")
    right.split_column(
        Layout(_panel("now", tables.figure_columns(pairs, 2)), size=figures),
        Layout(_panel(title, tables.checkpoint_table(view, kept - 3, now)), size=kept),
        Layout(_panel("warnings", tables.warning_block(view, warnings - 2)), size=warnings),
        Layout(_panel(_samples_title(view), tables.sample_block(view))),
    )
    whole = Layout()
    whole.split_row(left, right)
    return whole


def _panel(title: str, content: RenderableType, more: Text | None = None) -> Panel:
    text = Text(title, "bold")
    if more is not None:
        text.append("  ").append_text(more)
    return Panel(content, title=text, title_align="left", box=box.ROUNDED, border_style="dim", padding=(0, 1))


def _samples_title(view: RunView) -> str:
    found = tables.newest_samples(view)
    return "samples" if not found else f"samples at step {found[0].step:,}{', the finished model' if found[0].final else ''}"


def text(view: RunView, width: int, now: float) -> RenderableType:
    """The view as plain text, one part below the other, as high as it needs."""
    pairs = tables.figures(view)
    columns = max(width // _COLUMN, 1)
    curves: RenderableType = Group(_title("loss", parts.legend(view)), parts.loss_curves(view, 10))
    side = _title("perplexity"), parts.perplexity_curves(view, 10)
    if width >= 2 * _NARROW // 3 * 2:
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(curves, Group(*side))
        curves = grid
    else:
        curves = Group(curves, *side)
    return Group(
        parts.header(view),
        parts.progress(view, now),
        parts.answer_rows(brief(view, verdicts(view, now), now)),
        Text(""),
        curves,
        Text(""),
        tables.figure_columns(pairs, columns),
        Text(""),
        _title("checkpoints" + (f", store {view.saved.remote}" if view.saved.remote else "")),
        tables.checkpoint_table(view, 8, now),
        Text(""),
        _title("warnings"),
        tables.warning_block(view, 8),
        Text(""),
        _title(_samples_title(view)),
        tables.sample_block(view),
    )


def _title(name: str, more: Text | None = None) -> Text:
    title = one_row((f"{name}  ", "bold"))
    return title.append_text(more) if more is not None else title


def as_json(view: RunView, now: float) -> dict[str, Any]:
    """What the view shows, for ``--json``: all but the curves, which are in ``metrics.jsonl``."""
    newest = tables.newest_samples(view)
    return {
        "run": view.name,
        "run_id": view.record.get("run_id"),
        **asdict(view.standing),
        "step": view.step,
        "max_steps": view.max_steps,
        "fraction": view.fraction,
        "epoch": view.epoch,
        "tokens": view.tokens,
        "seconds": view.seconds,
        "eta_seconds": view.eta_seconds,
        "answers": {verdict.question: asdict(verdict) for verdict in verdicts(view, now)},
        "latest": view.latest,
        "best": None if view.best is None else dict(zip(("metric", "step", "value"), view.best, strict=True)),
        "checkpoints": [asdict(item) for item in view.saved.checkpoints],
        "remote": view.saved.remote,
        "undelivered": view.saved.undelivered,
        "failed_files": view.saved.failed,
        "warnings": [asdict(item) for item in view.warnings],
        "samples": [asdict(sample) for sample in newest],
        "problems": view.problems,
    }
