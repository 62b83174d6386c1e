"""python docs/monitor_pictures.py RUN [FOLDER]

Pictures of `llmforge monitor RUN`, as a terminal of 80 x 24 and one of 160 x 45 show it now, in docs/images/ or in
FOLDER. Needs Chromium; nothing is fetched.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.screen import Screen

from llmforge.monitoring.screen import screen
from llmforge.viewing.run import view_run

#: Columns and rows by the picture's name.
SIZES = {"monitor-80x24": (80, 24), "monitor-wide": (160, 45)}
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def svg(run: Path, width: int, height: int) -> str:
    """The view of a run as a picture in text form."""
    console = Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True, color_system="truecolor")
    now = time.time()
    foot = f"read {time.strftime('%H:%M:%S', time.localtime(now))}, every 3 s · q leaves, r reads again"
    console.print(Screen(screen(view_run(run), width, height, now, foot)))
    text = console.export_svg(title=f"llmforge monitor {run.name}", unique_id="monitor")
    text = re.sub(r"@font-face\s*{[^}]*}", "", text)  # fonts of another machine
    return text.replace("Fira Code, monospace", "DejaVu Sans Mono, monospace")


def png(text: str, path: Path) -> None:
    """Draw an SVG with headless Chromium.

    Raises:
        SystemExit: There is none.
    """
    browser = next((found for name in _CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"No Chromium: one of {', '.join(_CHROMIUM)} is needed.")
    wide, high = (round(float(side)) for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())
    with tempfile.TemporaryDirectory() as name:
        page = Path(name, "page.html")
        page.write_text(f"<body style='margin:0;background:#292929'>{text}</body>", encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={wide},{high}", f"--screenshot={path}"]
        subprocess.run([browser, *flags, page.as_uri()], check=True, capture_output=True, timeout=120)


def main() -> None:
    """Draw both."""
    run, *more = map(Path, sys.argv[1:])
    folder = more[0] if more else Path(__file__).parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        png(svg(run, *size), folder.resolve() / f"{name}.png")


if __name__ == "__main__":
    main()
