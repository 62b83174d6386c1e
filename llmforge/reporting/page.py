"""The page itself: everything put into one template."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmforge.reporting import tables
from llmforge.reporting.charts import axes, charts
from llmforge.reporting.thinning import places
from llmforge.runtime.versions import installed_versions
from llmforge.viewing.run import RunView
from llmforge.viewing.samples import Sample
from llmforge.viewing.verdicts import verdicts
from llmforge.viewing.words import count, moment, number, short

_HERE = Path(__file__).parent
#: Characters of samples in a page, all runs together; of one text; and steps of one run at most.
_SAMPLE_CHARACTERS, _TEXT_CHARACTERS, _SAMPLE_STEPS = 400_000, 4000, 60
#: Marks that tell the state without its colour.
_MARKS = {"good": "●", "watch": "▲", "bad": "■", "unknown": "○"}
_LEVELS = {"running": "good", "finished": "good", "stopped": "watch", "preempted": "watch", "killed": "watch", "unknown": "watch"}


def render(views: Sequence[RunView], now: float | None = None) -> str:
    """The report of a run, or of several beside one another, as one HTML page that loads nothing.

    Args:
        views: At least one.
        now: Seconds since the epoch, when it was made; by default the clock's.
    """
    now = time.time() if now is None else now
    style, script = _static("uPlot.min.css", "report.css"), _static("uPlot.iife.min.js", "report.js")
    drawn = charts(views)
    kept = [_samples(view, _SAMPLE_CHARACTERS // len(views)) for view in views]
    data = {
        "runs": [{"name": view.name, "axis": axis} for view, axis in zip(views, axes(views), strict=True)],
        "charts": [chart.data for chart in drawn],
        "samples": kept,
    }
    return _template().render(
        views=views,
        view=views[0],
        several=len(views) > 1,
        title=views[0].name if len(views) == 1 else " · ".join(view.name for view in views),
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(_embedded(data)),
        charts=drawn,
        samples=kept,
        verdicts=[verdicts(view, now) for view in views],
        configs=[config_yaml(view) for view in views],
        tables=tables,
        marks=_MARKS,
        levels=_LEVELS,
        made=moment(now),
        version=installed_versions()["llmforge"],
        number=number,
        count=count,
        short=short,
        moment=moment,
    )


@functools.cache
def _template() -> Any:
    room = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    room.filters["flags"] = _flags
    return room.get_template("report.html.j2")


def _flags(text: str) -> Markup:
    """`text`, escaped, with the flags in it kept on one line."""
    parts = re.split(r"(--\w+)", text)
    return Markup("").join(
        Markup('<span class="flag">{}</span>').format(part) if place % 2 else part for place, part in enumerate(parts)
    )


@functools.cache
def _static(*names: str) -> str:
    """Files of the page, one after the other: the browser's view of them, whose line ends are all alike."""
    return "\n".join((_HERE / "static" / name).read_text(encoding="utf-8") for name in names)


def _policy(style: str, script: str) -> str:
    """What the page may do: run this script and this style, and reach for nothing."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    parts = ("default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:")
    return "; ".join([*parts, f"style-src {digest(style)}", f"script-src {digest(script)}"])


def _embedded(value: Any) -> str:
    """JSON that nothing in it can end: no ``<`` stands in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _samples(view: RunView, characters: int) -> list[dict[str, Any]]:
    """The samples by step, as many as there is room for: the first and the last, and evenly spread ones between."""
    steps: dict[tuple[int, bool], list[Sample]] = {}
    for sample in view.samples:
        steps.setdefault((sample.step, sample.final), []).append(sample)
    groups = [_group(at, samples) for at, samples in steps.items()]
    longest = max((sum(len(item["text"]) + len(item["prompt"]) for item in group["items"]) for group in groups), default=1)
    return [groups[place] for place in places(len(groups), max(min(_SAMPLE_STEPS, characters // max(longest, 1)), 2))]


def _group(at: tuple[int, bool], samples: Sequence[Sample]) -> dict[str, Any]:
    items = [
        {"prompt": _cut(item.prompt, 600), "strategy": item.strategy, "text": _cut(item.text, _TEXT_CHARACTERS)}
        for item in samples[:24]
    ]
    return {"step": at[0], "final": at[1], "items": items}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def config_yaml(view: RunView) -> str:
    """The settings that were changed, as a file for ``--config``; empty where the defaults are not known."""
    chosen = {item.name.partition(".")[2]: item.value for item in view.changes or ()}
    return yaml.safe_dump(chosen, allow_unicode=True, sort_keys=False) if chosen else ""
