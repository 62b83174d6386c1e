"""What `llmforge monitor` shows, as a page for the pictures of docs/screenshots.py."""

from __future__ import annotations

import html
import io
import re
import time
from pathlib import Path

from rich.console import Console
from rich.screen import Screen

from llmforge.monitoring.screen import screen
from llmforge.viewing.run import view_run


def monitor(run: Path, room: Path, columns: int, rows: int) -> Path:
    """The view of a run as it is now, in a terminal of that size.

    Args:
        run: Its folder.
        room: Where the page goes.
    """
    console = Console(file=io.StringIO(), record=True, width=columns, height=rows, force_terminal=True, color_system="truecolor")
    now = time.time()
    foot = f"read {time.strftime('%H:%M:%S', time.localtime(now))}, every 3 s · q leaves, r reads again"
    console.print(Screen(screen(view_run(run, now), columns, rows, now, foot)))
    picture = console.export_svg(title=f"llmforge monitor {html.escape(run.name)}", unique_id="monitor")
    picture = re.sub(r"@font-face\s*{[^}]*}", "", picture)  # fonts of another machine
    picture = picture.replace("Fira Code, monospace", "DejaVu Sans Mono, monospace")
    page = room / f"monitor-{columns}x{rows}.html"
    page.write_text(f"<!doctype html><body style='margin:0;background:#292929'>{picture}</body>", encoding="utf-8")
    return page


def window(columns: int, rows: int) -> tuple[int, int]:
    """CSS pixels that the page of such a terminal takes."""
    return round(columns * 12.2 + 18), round(rows * 24.4 + 50)
