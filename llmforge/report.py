"""llmforge report runs/pretrain-001
llmforge report runs/pretrain-001 runs/pretrain-002 --output comparison.html

One HTML page of a run, or of several beside one another, that needs nothing else: state, curves to look into, samples,
data, checkpoints and uploads, settings and where they differ from the defaults, environment, and how to do it again.
A run writes its own at each evaluation and at its end.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from llmforge.errors import ConfigError, LlmforgeError
from llmforge.runtime.commands import CommandParser, run_command
from llmforge.runtime.logs import logger, printable
from llmforge.runtime.run_folder import REPORT
from llmforge.storage.records import write_text
from llmforge.viewing.run import RunReader, RunView, view_run

#: Where the page of several runs goes.
COMPARISON = Path("comparison.html")
#: Runs that can still be told apart in one chart.
_MOST_RUNS = 12


def parser() -> CommandParser:
    """The command line of `llmforge report`."""
    made = CommandParser(prog="llmforge report", description="One self-contained HTML page of a run.", allow_abbrev=False)
    made.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="A run's folder; several are compared.")
    made.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"Where the page goes: by default {REPORT} in the run's folder, of several runs {COMPARISON} in the current one.",
    )
    made.add_argument("--json", action="store_true", help="Print one JSON object and nothing else.")
    return made


def write_report(runs: Sequence[Path | str], output: Path | None = None) -> Path:
    """Write the page of a run, or of several beside one another.

    Args:
        runs: Their folders; they may be going on, or have been killed.
        output: By default ``report.html`` in the run's folder, of several runs ``comparison.html`` in the current one.

    Returns:
        The file, which was replaced as a whole.

    Raises:
        ConfigError: No such run, the same one twice, or too many to tell apart; `output` is a folder.
        StorageError: It could not be written.
    """
    views = _views(runs)
    path = output or (views[0].path / REPORT if len(views) == 1 else COMPARISON)
    return write_page(views, path)


def write_page(views: Sequence[RunView], path: Path) -> Path:
    """Write the page of what was read; raises as `write_report`."""
    from llmforge.reporting.page import render

    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder.", "Give a file, such as report.html.")
    return write_text(path, render(views))


def refresh_report(folder: Path) -> Path | None:
    """Write ``report.html`` of the run in `folder` as it is now; the next time only what is new is read.

    It is looked at and not built upon: whatever keeps it from being written is warned of and raises nothing.

    Returns:
        The file; None where it was not written.
    """
    try:
        return write_page([_reader(folder).view()], folder / REPORT)
    except Exception as error:  # a mistake in a page is no reason to lose a training
        logger.warning("%s could not be written: %s", REPORT, error if isinstance(error, LlmforgeError) else repr(error))
        return None


@functools.lru_cache(maxsize=1)
def _reader(folder: Path) -> RunReader:
    """Of the run of this process, kept from one page to the next."""
    return RunReader(folder)


def _views(runs: Sequence[Path | str]) -> list[RunView]:
    folders = [Path(run).expanduser() for run in runs]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ConfigError(f"{folder} is given twice.", "Give each run once.")
        seen.add(folder.resolve())
    if len(folders) > _MOST_RUNS:
        raise ConfigError(f"{len(folders)} runs cannot be told apart in one chart.", f"Give at most {_MOST_RUNS}.")
    return [view_run(folder) for folder in folders]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge report`; raises as `write_report`."""
    args = parser().parse_args(argv)
    path = write_report(args.runs, args.output)
    size = path.stat().st_size
    if args.json:
        print(json.dumps({"report": str(path), "bytes": size, "runs": [str(run) for run in args.runs]}))
    else:
        print(printable(f"Wrote {path} ({size / 1000:,.0f} kB); open it in a browser."))


if __name__ == "__main__":
    sys.exit(run_command(main))
