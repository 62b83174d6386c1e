"""What the monitor tells in words and figures: the newest values, checkpoints, samples, warnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmforge.monitoring.brief import figure
from llmforge.monitoring.rows import COLOURS, flat, one_row
from llmforge.runtime.devices import format_bytes
from llmforge.viewing.run import RunView
from llmforge.viewing.samples import Sample
from llmforge.viewing.saved import Checkpoint
from llmforge.viewing.words import count, duration, short, size

#: Words for where a checkpoint is, by its state in the store.
_IN_STORE = {"done": "in the store", "superseded": "left out", "queued": "waits", "failed": "failed"}


def figures(view: RunView) -> list[tuple[str, str]]:
    """Names and values of what was logged last; what was not logged is left out, but for what every run is asked about."""
    latest = view.latest

    def told(name: str, form: str = "{}", unit: float = 1.0) -> str | None:
        value = latest.get(name)
        return None if value is None else form.format(figure(value * unit))

    memory = latest.get("device_memory")
    rows = [
        ("loss", told("loss")),
        ("validation", told("eval_loss")),
        ("perplexity", told("eval_perplexity")),
        ("bits/byte", told("eval_bits_per_byte")),
        ("tokens/s", told("tokens_per_second", unit=1.0)),
        ("MFU", told("mfu", "{} %", 100.0) or ("not known" if latest else None)),
        ("learn rate", told("learning_rate")),
        ("grad norm", told("grad_norm")),
        ("memory", None if memory is None or not math.isfinite(memory) else format_bytes(memory)),
        ("busy", told("device_utilization", "{} %")),
        ("heat", told("device_temperature", "{} °C")),
        ("tokens", None if view.tokens is None else short(view.tokens)),
        ("epoch", None if view.epoch is None else f"{view.epoch:.2f}"),
    ]
    return [(name, value) for name, value in rows if value is not None]


def figure_columns(pairs: Sequence[tuple[str, str]], columns: int) -> RenderableType:
    """Figures side by side, filled column by column."""
    table = Table.grid(expand=True, padding=(0, 1))
    rows = -(-len(pairs) // columns) if pairs else 0
    for _ in range(columns):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    parts = [pairs[place : place + rows] for place in range(0, len(pairs), rows or 1)]
    for row in zip_longest(*parts, fillvalue=("", "")):
        table.add_row(*(Text(text) for pair in row for text in pair))
    return table


def checkpoint_row(view: RunView) -> Text:
    """The checkpoints in a line."""
    kept = [item for item in view.saved.checkpoints if item.here == "committed"]
    parts: list[str | tuple[str, str]] = [("checkpoints  ", "dim")]
    if not view.saved.checkpoints:
        return one_row(*parts, "none yet" if view.running else "none")
    shown = [f"{item.step}{' best' if item.best else ''}" for item in kept[-4:]]
    parts.append(f"{'… ' if len(kept) > 4 else ''}{', '.join(shown) or 'none here'}")
    if view.saved.remote:
        sent = sum(item.remote == "done" for item in view.saved.checkpoints)
        under_way = [item for item in view.saved.checkpoints if item.remote in ("uploading", "queued", "failed")]
        failed = any(item.remote == "failed" for item in under_way)
        told = ", ".join([str(sent), *(f"{item.step} {item.remote}" for item in under_way)])
        parts += ["; in the store: ", (told, COLOURS["bad" if failed else "watch" if under_way else "good"])]
        parts.append((f" ({view.saved.remote})", "dim"))
    return one_row(*parts)


def checkpoint_table(view: RunView, rows: int, now: float) -> RenderableType:
    """The newest checkpoints and the best one, newest first."""
    found = list(reversed(view.saved.checkpoints))
    if not found:
        return one_row(("none yet" if view.running else "none", "dim"))
    chosen = found[:rows]
    best = [item for item in found[rows:] if item.best]
    chosen = chosen[: rows - 1] + best if best and rows > 1 else chosen
    table = Table.grid(expand=True, padding=(0, 1))
    for justify in ("right", "right", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    loss = "validation" if "eval_loss" in view.series else "loss"
    table.add_row(*(Text(text, "dim") for text in ("step", loss, "size", "saved", "")))
    for item in chosen:
        since = None if item.time is None else max(now - item.time, 0.0)
        table.add_row(
            count(item.step),
            "" if item.loss is None else figure(item.loss),
            "" if item.size is None else size(item.size),
            "" if since is None else f"{duration(since)} ago",
            _where(item),
        )
    return table


def _where(item: Checkpoint) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    words = [("best", "bold")] if item.best else []
    if item.here != "committed":
        words.append((item.here or "not here", "dark_orange" if item.here == "damaged" else "dim"))
    if item.remote is not None:
        colour = COLOURS[{"done": "good", "failed": "bad"}.get(item.remote, "watch")]
        words.append((_IN_STORE.get(item.remote, item.remote), colour))
    if item.problem:
        words.append((item.problem, "dim"))
    for number, (word, style) in enumerate(words):
        text.append(", " if number else "").append(word, style)
    return text


def newest_samples(view: RunView) -> list[Sample]:
    """What the model wrote last, the finished one's own first."""
    if not view.samples:
        return []
    last = view.samples[-1]
    return [sample for sample in view.samples if (sample.step, sample.final) == (last.step, last.final)]


def sample_rows(view: RunView, rows: int) -> RenderableType:
    """The newest sample on one line or a few."""
    found = newest_samples(view)
    if not found:
        return one_row(("sample  ", "dim"), "none yet")
    sample = found[0]
    text = Text.assemble(
        (f"sample at {count(sample.step)}  ", "dim"), (flat(sample.prompt), "bold"), (" ▶ ", "dim"), flat(sample.text)
    )
    text.overflow = "fold"
    if rows == 1:
        text.no_wrap, text.overflow = True, "ellipsis"
    return text


def sample_block(view: RunView) -> RenderableType:
    """The newest samples as they were written, as many as there is room for."""
    found = newest_samples(view)
    if not found:
        return one_row(("none yet", "dim"))
    parts: list[RenderableType] = []
    for sample in found:
        text = Text.assemble((f"{sample.strategy} ", "dim"), (sample.prompt, "bold"), sample.text.rstrip(), overflow="fold")
        parts += [text, Text("")]
    return Group(*parts[:-1])


def warning_row(view: RunView) -> Text:
    """The newest warning in a line."""
    if not view.warnings:
        return one_row(("warnings  ", "dim"), "none")
    item = view.warnings[-1]
    number = f"{len(view.warnings)} warnings, last " if len(view.warnings) > 1 else "warning "
    return one_row((number, "dark_orange"), (f"{item.time[11:16]}  ", "dim"), flat(item.text))


def warning_block(view: RunView, rows: int) -> RenderableType:
    """The newest warnings, newest first."""
    if not view.warnings and not view.problems:
        return one_row(("none", "dim"))
    told = [("", problem) for problem in view.problems]
    told += [(f"{item.time[5:16]} ", flat(item.text)) for item in reversed(view.warnings)]
    return Group(*(one_row((when, "dim"), (text, "dark_orange")) for when, text in told[:rows]))
