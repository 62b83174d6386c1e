"""The tables of a report, ready for its template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmforge.reporting.charts import written
from llmforge.viewing.run import RunView
from llmforge.viewing.settings import ABSENT, differences
from llmforge.viewing.text import one_line
from llmforge.viewing.words import count, duration, moment, number, short, size

#: Rows of a table at most, where others decide how many there are.
_MOST_ROWS = 200
_UPLOADED = {
    "done": "uploaded",
    "queued": "waiting",
    "uploading": "on its way",
    "failed": "failed",
    "superseded": "left out for a newer one",
    "deleted": "deleted there",
}


@dataclass
class Table:
    """A table of texts.

    Attributes:
        caption: What it shows, for readers who do not see it.
        head: Column names.
        rows: Cells; the first of a row is its name.
        numeric: The columns that are aligned as numbers, counted from 0.
        marked: The rows to set off.
        more: What is not in it, in words.
    """

    caption: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    numeric: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()
    more: str = ""


def figures(view: RunView) -> list[tuple[str, str, str]]:
    """The headline numbers: name, value, and a word on it."""
    latest, best = view.latest, view.best
    found = [("Step", count(view.step), f"of {count(view.max_steps)}, {view.fraction:.0%}" if view.fraction is not None else "")]
    if "loss" in latest:
        found.append(("Training loss", number(latest["loss"]), "nats a token"))
    for name, label, about in (
        ("eval_loss", "Validation loss", "nats a token"),
        ("eval_perplexity", "Perplexity", "validation"),
        ("eval_bits_per_byte", "Bits per byte", "validation"),
    ):
        if name in latest:
            found.append((label, number(latest[name]), about))
    if best is not None:
        what = best[0].removeprefix("eval_").replace("_", " ")
        found.append((f"Best {what}", number(best[2]), f"at step {count(best[1])}"))
    if view.test.get("loss") is not None:
        test = view.test
        found.append(("Test loss", number(_float(test.get("loss"))), f"perplexity {number(_float(test.get('perplexity')), 3)}"))
    if view.tokens is not None:
        epochs = f"{view.epoch:.2f} epochs" if view.epoch is not None else ""
        found.append(("Tokens", short(view.tokens), epochs))
    if "tokens_per_second" in latest:
        share = f"MFU {latest['mfu']:.1%}" if "mfu" in latest else "the last log event"
        found.append(("Tokens a second", count(latest["tokens_per_second"]), share))
    if "device_memory_peak" in latest:
        found.append(("Peak memory", written(latest["device_memory_peak"], "bytes"), "of the device"))
    if view.seconds is not None:
        left = f"{duration(view.eta_seconds)} to go" if view.eta_seconds is not None else "from its start"
        found.append(("Time", duration(view.seconds), left))
    return found


def compared(views: Sequence[RunView]) -> Table:
    """The headline numbers of several runs, the best of a row's first three measures marked by a star."""
    table = Table("Headline numbers of the runs", ["Measure", *(view.name for view in views)])
    table.numeric = tuple(range(1, len(views) + 1))
    wanted = (
        ("Best validation loss", [_best(view) for view in views]),
        ("Perplexity", [view.latest.get("eval_perplexity") for view in views]),
        ("Bits per byte", [view.latest.get("eval_bits_per_byte") for view in views]),
        ("Test loss", [_float(view.test.get("loss")) for view in views]),
    )
    for name, values in wanted:
        known = [value for value in values if value is not None and value == value]
        if known:
            star = min(known) if len(known) > 1 and min(known) != max(known) else None
            table.rows.append([name, *(number(value) + (" ★" if value == star else "") for value in values)])
    state = [view.standing.state for view in views]
    table.rows = [["State", *state], ["Step", *(_progress(view) for view in views)], *table.rows]
    table.rows += [
        ["Training loss", *(number(view.latest.get("loss")) for view in views)],
        ["Tokens", *(short(view.tokens) for view in views)],
        ["Tokens a second", *(count(view.latest.get("tokens_per_second")) for view in views)],
        ["Peak memory", *(size(view.latest.get("device_memory_peak")) for view in views)],
        ["Time", *(duration(view.seconds) for view in views)],
        ["Parameters", *(count(_float(view.record.get("parameters"))) for view in views)],
    ]
    table.more = "★ the lowest of its row. Bits per byte compares models with different tokenizers; the losses do not."
    return table


def config_differences(views: Sequence[RunView]) -> Table:
    """The settings in which runs differ."""
    rows = [[name, *map(setting, values)] for name, values in differences([view.config for view in views]).items()]
    return Table("Settings in which the runs differ", ["Setting", *(view.name for view in views)], rows[:_MOST_ROWS])


def checkpoints(view: RunView) -> Table | None:
    """The checkpoints, newest first; None where there is none."""
    if not view.saved.checkpoints:
        return None
    mirrored = view.saved.remote is not None
    table = Table("Checkpoints", ["Checkpoint", "Loss", "Saved", "Size", "Here", *(["In the store"] if mirrored else []), "Note"])
    table.numeric = (1, 3)
    items = view.saved.checkpoints[::-1]
    for item in items[:_MOST_ROWS]:
        remote = [_UPLOADED.get(item.remote or "", "—")] if mirrored else []
        note = " · ".join(text for text in ("best" if item.best else "", item.problem) if text)
        table.rows.append(
            [item.name, number(item.loss), moment(item.time), size(item.size), item.here or "—", *remote, note],
        )
    table.marked = tuple(place for place, item in enumerate(items) if item.best)
    table.more = _more(len(items))
    return table


def splits(view: RunView) -> Table | None:
    """The splits of the data; None where nothing is known of them."""
    found = view.card.get("splits")
    if not isinstance(found, dict) or not found:
        return None
    table = Table("Splits of the prepared data", ["Split", "Documents", "Bytes", "Tokens", "Rows", "Bytes a token", "Density"])
    table.numeric = tuple(range(1, 7))
    for name, split in list(found.items())[:_MOST_ROWS]:
        values = split if isinstance(split, dict) else {}
        cells = [count(_float(values.get(key))) for key in ("documents", "bytes", "tokens", "rows")]
        density = _float(values.get("density"))
        cells += [number(_float(values.get("bytes_per_token")), 3), "—" if density is None else f"{density:.1%}"]
        table.rows.append([one_line(str(name), 60), *cells])
    return table


def sources(view: RunView) -> Table | None:
    """What the data was made from; None where the card does not tell."""
    found = view.card.get("sources")
    if not isinstance(found, list) or not found:
        return None
    table = Table("Sources of the data", ["Source", "Format", "Files", "Documents", "Bytes", "Skipped"])
    table.numeric = (2, 3, 4, 5)
    for item in found[:_MOST_ROWS]:
        if not isinstance(item, dict):
            continue
        skipped = item.get("skipped")
        total = sum(value for value in skipped.values() if isinstance(value, int)) if isinstance(skipped, dict) else None
        counts = [count(_float(item.get(key))) for key in ("files", "documents", "bytes")]
        name = item.get("name") or item.get("path")
        table.rows.append([one_line(str(name), 200), one_line(str(item.get("format") or "—"), 40), *counts, count(total)])
    table.more = _more(len(found))
    return table


def left_out(view: RunView) -> Table | None:
    """What of the corpus was skipped or dropped, and why; None where nothing was, or the card does not tell."""
    found: dict[str, float] = {}
    for part in ("corpus", "dropped"):
        skipped = _dict(_dict(view.card.get(part)).get("skipped"))
        for reason, many in skipped.items():
            if _float(many) is not None:
                found[one_line(str(reason), 120)] = found.get(one_line(str(reason), 120), 0) + many
    rows = [[reason, count(many)] for reason, many in sorted(found.items(), key=lambda item: -item[1])]
    return Table("What was left out", ["Reason", "Documents or files"], rows[:_MOST_ROWS], (1,)) if rows else None


def changed(view: RunView) -> Table | None:
    """The settings that are not at their default; None where the run did not record the defaults."""
    if view.changes is None:
        return None
    rows = [[item.name, setting(item.value), setting(item.default)] for item in view.changes]
    return Table("Settings that differ from their default", ["Setting", "Value", "Default"], rows)


def settings(view: RunView) -> list[Table]:
    """All settings, a table a part."""
    found = []
    for part, values in view.config.items():
        if isinstance(values, dict):
            rows = [[one_line(str(name), 80), setting(value)] for name, value in values.items()]
            found.append(Table(f"Settings: {part}", ["Setting", "Value"], rows))
    return found


def environment(view: RunView) -> list[tuple[str, str]]:
    """Machine and versions."""
    record = view.record
    told = [("Device", "device"), ("Processes", "processes"), ("Host", "host"), ("System", "system"), ("Python", "python")]
    found = [(label, one_line(str(record[key]))) for label, key in told if record.get(key) is not None]
    versions = _dict(record.get("versions"))
    return found + [(one_line(str(name), 60), one_line(str(value), 60)) for name, value in versions.items() if value]


def setting(value: Any) -> str:
    """A value of the configuration as YAML's flow style has it, on one line."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return one_line(value) if value else '""'
    return one_line(json.dumps(value, ensure_ascii=False, default=str)) if value != ABSENT else ABSENT


def _progress(view: RunView) -> str:
    return count(view.step) + (f" of {count(view.max_steps)}" if view.max_steps else "")


def _best(view: RunView) -> float | None:
    series = view.series.get("eval_loss")
    lowest = series.lowest() if series is not None else None
    return lowest[1] if lowest else None


def _more(total: int) -> str:
    return f"and {total - _MOST_ROWS:,} more" if total > _MOST_ROWS else ""


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
