"""What `llmforge monitor` shows of a run that goes on, as a page for docs/screenshots.py."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.screen import Screen

from llmforge.monitoring.screen import screen
from llmforge.runtime.run_lock import RunLock
from llmforge.storage.records import read_json_lines
from llmforge.viewing.run import view_run

#: A run that has ended is shown as it was at the last evaluation before so much of it was done.
_SHARE = 0.95
#: Seconds after the last log event.
_LATER = 6.0


def monitor(run: Path, room: Path, columns: int, rows: int) -> Path:
    """The view of a run in a terminal of that size, as it was while it went on.

    Args:
        run: Its folder.
        room: Where the page goes.
    """
    folder, now = _going(run, room / run.name)
    lock = RunLock(folder)
    console = Console(file=io.StringIO(), record=True, width=columns, height=rows, force_terminal=True, color_system="truecolor")
    foot = f"read {time.strftime('%H:%M:%S', time.localtime(now))}, every 3 s · q leaves, r reads again"
    console.print(Screen(screen(view_run(folder, now), columns, rows, now, foot)))
    lock.release()
    shutil.rmtree(folder)
    picture = console.export_svg(title=f"llmforge monitor {html.escape(run.name)}", unique_id="monitor")
    picture = re.sub(r"@font-face\s*{[^}]*}", "", picture)  # fonts of another machine
    picture = picture.replace("Fira Code, monospace", "DejaVu Sans Mono, monospace")
    page = room / f"monitor-{columns}x{rows}.html"
    page.write_text(f"<!doctype html><body style='margin:0;background:#292929'>{picture}</body>", encoding="utf-8")
    return page


def window(columns: int, rows: int) -> tuple[int, int]:
    """CSS pixels that the page of such a terminal takes."""
    return round(columns * 12.2 + 18), round(rows * 24.4 + 50)


def _going(run: Path, folder: Path) -> tuple[Path, float]:
    """A copy of the run's records up to a step, and when that was."""
    logged = read_json_lines(run / "metrics.jsonl")
    evaluated = [line["step"] for line in logged if "eval_loss" in line and line["step"] <= _SHARE * logged[-1]["step"]]
    until = max(evaluated) if (run / "exit.json").exists() else logged[-1]["step"]
    folder.mkdir()
    for name in ("metrics.jsonl", "samples.jsonl"):
        kept = [line for line in read_json_lines(run / name) if line["step"] <= until and not line.get("final")]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    for name in ("run.json", "run.log", "uploads.json"):
        if (run / name).exists():
            shutil.copy2(run / name, folder)
    for path in run.glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) <= until:
            shutil.copytree(path, folder / path.name)
    return folder, max(line["time"] for line in logged if line["step"] <= until) + _LATER
