"""What `llmforge checkpoints` shows: tables for people, objects for programs, a picture.

Names and texts come from files that anybody may have written: nothing in them reaches the terminal as more than text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.checkpoints.summary import RECENT, Summary
from llmforge.runtime.devices import format_bytes
from llmforge.runtime.logs import printable
from llmforge.storage.files import new_file

if TYPE_CHECKING:
    from rich.table import Table

# Okabe and Ito's palette (2008), as in the plots of a run.
_TRAIN, _VALIDATION, _RATE = "#0072B2", "#D55E00", "#009E73"
#: Of a value, in a table.
_LONGEST = 200


def cell(value: Any) -> Any:
    """A value as one line of plain text for a rich table; nothing in it is markup or a terminal's command."""
    from rich.text import Text

    if value is None:
        return Text("-")
    if isinstance(value, bool):
        return Text(str(value).lower())
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text(f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}")
    text = " ".join(printable(str(value)).split())
    return Text(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _loss(value: Any) -> Any:
    return cell(f"{value:.4f}" if isinstance(value, float) else value)


def listing(summaries: Sequence[Summary], best: int | None) -> Table:
    """A row a checkpoint."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("step", "loss", "validation", "", "saved (UTC)", "size", "state"):
        right = column in ("step", "loss", "validation", "size")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "state")
    for item in summaries:
        mark, time = cell("best" if item.step == best else ""), cell(item.time[:19].replace("T", " "))
        state = item.state if not item.problems else f"{item.state}: {item.problems[0]}"
        evaluated = not item.evaluations or item.evaluations[-1][0] == item.step  # else it is an earlier step's
        losses = (_loss(item.values["loss"]), _loss(item.validation.get("eval_loss") if evaluated else ""))
        table.add_row(cell(item.step), *losses, mark, time, cell(format_bytes(item.size)), cell(state))
    return table


def details(item: Summary, best: int | None) -> Table:
    """Everything about one checkpoint."""

    values = item.values
    shown: dict[str, Any] = {
        "state": item.state if not item.problems else f"{item.state}: {'; '.join(item.problems)}",
        "step": item.step,
        "epoch": values["epoch"],
        "saved (UTC)": item.time[:19].replace("T", " "),
        "size": format_bytes(item.size),
        "best of the run": item.step == best,
        "tokens seen": values["tokens_seen"],
        "documents seen": values["files_seen"],
        "loss": values["loss"],
        "best loss": values["best_loss"],
        "at step": values["best_step"],
        "steps since": values["steps_since_best"],
        f"mean of the last {min(RECENT, len(item.losses))}": values["mean_loss"],
        "deviation": values["loss_deviation"],
        "trend": values["trend"],
        "learning rate": values["learning_rate"],
        "loss history": f"{len(item.losses):,} points",
        "learning rate history": f"{len(item.rates):,} points",
        "precision": values["mixed_precision"],
    }
    shown |= {f"validation {name.removeprefix('eval_')}": value for name, value in item.validation.items()}
    shown |= {f"system {name}": value for name, value in item.system.items()}
    return _pairs(item.path.name, shown)


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False, title=cell(title), title_justify="left")
    for name, value in values.items():
        table.add_row(cell(name), cell(value))
    return table


def comparison(
    items: Sequence[Summary], differences: Mapping[str, Sequence[Any]], distances: Sequence[Mapping[str, float]]
) -> Any:
    """Losses side by side, settings that differ, and how far each layer's weights are from the first one's."""
    from rich.console import Group
    from rich.table import Table

    names = [item.path.name for item in items]
    parts: list[Any] = []
    figures = ("loss", "best_loss", "mean_loss", "loss_deviation", "learning_rate", "tokens_seen", "epoch")
    rows = {name.replace("_", " "): [item.values[name] for item in items] for name in figures}
    metrics = sorted({name for item in items for name in item.validation if name[-8:] != "_runtime" and "per_second" not in name})
    rows |= {f"validation {name.removeprefix('eval_')}": [item.validation.get(name) for item in items] for name in metrics}
    for title, content in (("Figures", rows), ("Settings that differ", differences)):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("", *names):
            table.add_column(cell(column), justify="right" if column and content is rows else "left")
        for name, values in content.items():
            table.add_row(cell(name), *(cell(value) for value in values))
        parts.append(table if content else cell("No setting differs."))
    if distances:
        table = Table(title=f"Weights, distance from {printable(names[0])}", title_justify="left", box=None, pad_edge=False)
        table.add_column("layer")
        for name in names[1:]:
            table.add_column(cell(name), justify="right")
        for layer in distances[0]:
            table.add_row(cell(layer), *(cell(f"{moved[layer]:.2%}") for moved in distances))
        parts.append(table)
    spaced = [piece for part in parts for piece in (part, cell(""))]
    return Group(*spaced[:-1])


def standing(values: Mapping[str, Any]) -> Any:
    """How a run stands, as `status.run_status` tells it; what is not known has no row."""
    from rich.console import Group
    from rich.table import Table

    shown = {name: ", ".join(value) or None if isinstance(value, list) else value for name, value in _rows(values).items()}
    rows = {name.replace("_", " "): value for name, value in shown.items() if value is not None and name != "run"}
    if not values.get("uploads"):
        return _pairs(str(values["run"]), rows)
    table = Table(box=None, pad_edge=False)
    for column in ("checkpoint", "here", "in the store", "sent", "took", "attempts", ""):
        table.add_column(column, justify="right" if column in ("sent", "took", "attempts") else "left")
    for item in values["uploads"]:
        sent, took = (
            format_bytes(item["bytes"]) if item["bytes"] else None,
            f"{item['seconds']:.1f} s" if item["seconds"] else None,
        )
        line = (item["name"], item["here"], item["remote"], sent, took, item["attempts"] or None, item["error"] or "")
        table.add_row(*(cell(value) for value in line))
    failed = [f"{name}: {error}" for name, error in values["failed_files"].items()]
    return Group(_pairs(str(values["run"]), rows), cell(""), table, *(cell(line) for line in failed))


def _rows(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of `status.run_status` has a row of its own."""
    rate = values.get("bytes_per_second")
    told = {name: value for name, value in values.items() if name not in ("uploads", "failed_files", "bytes_per_second")}
    told["superseded_uploads"] = told.get("superseded_uploads") or None
    return told | ({"upload_rate": f"{format_bytes(rate)}/s"} if rate else {})


def lines(texts: Sequence[str]) -> Any:
    """Lines of text, each as it is."""
    from rich.text import Text

    return Text("\n".join(" ".join(printable(text).split()) for text in texts))


def as_json(item: Summary, best: int | None) -> dict[str, Any]:
    """A checkpoint as an object for ``--json``."""
    return {
        "name": item.path.name,
        "path": item.place,
        "step": item.step,
        "state": item.state,
        "problems": item.problems,
        "best": item.step == best,
        "size": item.size,
        "time": item.time,
        **item.values,
        "validation": item.validation,
    }


def draw(item: Summary, path: Path) -> Path:
    """Loss and learning rate over the steps, as a picture; its format is the suffix's.

    Raises:
        StorageError: It could not be written.
        ValueError: A suffix that matplotlib does not know.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    if item.losses:
        above.plot(*zip(*item.losses, strict=True), color=_TRAIN, linewidth=1.4, label="training")
    if item.evaluations:
        line = {"linewidth": 1.4, "linestyle": "--", "marker": "o", "markersize": 4}
        above.plot(*zip(*item.evaluations, strict=True), color=_VALIDATION, label="validation", **line)
        above.legend(frameon=False)
    if item.rates:
        below.plot(*zip(*item.rates, strict=True), color=_RATE, linewidth=1.4)
    # A name may hold what matplotlib takes for mathematics.
    above.set_title(f"{printable(item.path.resolve().parent.name)}, {item.path.name}", parse_math=False)
    above.set_ylabel("loss (nats per token)")
    below.set(xlabel="step", ylabel="learning rate")
    below.set_ylim(bottom=0)
    below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with new_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".").lower() or "png")
    return path


def finite(value: Any) -> Any:
    """`value` with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
