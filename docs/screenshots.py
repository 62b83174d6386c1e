"""python docs/screenshots.py [NAME …] [--run DIR]

Make the pictures of docs/images/ that show what a person sees: train a small model on the Go sample (a minute or two on two
cores), or take the run in DIR, and photograph its views in a headless Chromium (`make browser`).

A view is a function that makes an HTML page of a run, and a window to look at it: add a line to `VIEWS`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import browser  # noqa: E402  the one that the tests start
import terminal_page  # noqa: E402

from llmforge import write_report  # noqa: E402

IMAGES = Path(__file__).parent / "images"
#: As it would be typed in the folder of the repository.
TRAINING = """llmforge pretrain --preset gpt2-10m --n_layer 2 --n_embd 128 --n_head 4 --vocab_size 1024
--corpus recipes/samples/go --block_size 128 --per_device_train_batch_size 8 --max_steps 400 --logging_steps 4
--eval_steps 40 --max_new_tokens 60 --report_to none"""
PROMPT = "func (s *Stack) Push("


@dataclass(frozen=True)
class View:
    """One picture.

    Attributes:
        page: Makes the page of a run: from its folder and a folder for files.
        width, height: The window, in CSS pixels.
        scheme: What the reader prefers, ``light`` or ``dark``.
    """

    page: Callable[[Path, Path], Path]
    width: int
    height: int
    scheme: str = "light"


def report(run: Path, room: Path) -> Path:
    """The page of `llmforge report`."""
    return write_report([run], room / "report.html")


def terminal(columns: int, rows: int) -> View:
    """`llmforge monitor` in a terminal of that size."""
    page = partial(terminal_page.monitor, columns=columns, rows=rows)
    return View(page, *terminal_page.window(columns, rows))


VIEWS = {
    "report-light": View(report, 1200, 1560),
    "report-dark": View(report, 1200, 1560, "dark"),
    "report-phone": View(report, 390, 1500),
    "monitor-80x24": terminal(80, 24),
    "monitor-wide": terminal(160, 45),
}


def train(room: Path) -> Path:
    """A run to look at."""
    run = room / "go-sample"
    subprocess.run([sys.executable, "-m", *TRAINING.split(), "--prompts", PROMPT, "--output_dir", str(run)], check=True, cwd=ROOT)
    return run


def main() -> int:
    """Make the pictures that were asked for, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"Of {', '.join(VIEWS)}; all if not given.")
    parser.add_argument("--run", type=Path, metavar="DIR", help="A run to look at; one is trained if not given.")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in VIEWS]
    missing = f"no such view: {', '.join(unknown)}" if unknown else browser.missing()
    if missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="llmforge-") as name:
        room = Path(name)
        run = args.run or train(room)
        with browser.chromium(room / "profile") as driver:
            for view_name in args.names or VIEWS:
                view = VIEWS[view_name]
                browser.resize(driver, view.width, view.height, mobile=view.width < 600)
                browser.emulate(driver, prefers_color_scheme=view.scheme)
                driver.get(view.page(run, room).resolve().as_uri())
                print(browser.picture(driver, IMAGES / f"{view_name}.png").relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
