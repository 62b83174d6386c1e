"""llmforge monitor runs/pretrain-001
llmforge monitor runs/pretrain-001 --once
llmforge monitor runs/pretrain-001 --logs_only

Watch a run in the terminal, while it goes on or afterwards. Nothing of the run is written, held up or
waited for: its files are read as they grow.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from llmforge.configs.monitor import MonitorArguments
from llmforge.errors import ConfigError
from llmforge.runtime.commands import CommandParser, run_command
from llmforge.runtime.signals import stop_signals
from llmforge.storage.files import is_url, local_path
from llmforge.viewing.run import LOG, RunReader, RunView
from llmforge.viewing.standing import Standing

#: Lines of run.log that `--logs_only` begins with.
_LINES = 40
#: Columns where the output is no terminal.
_COLUMNS = 80


def parser() -> argparse.ArgumentParser:
    """The command line of `llmforge monitor`."""
    made = CommandParser(prog="llmforge monitor", description="Watch a run in the terminal.", allow_abbrev=False)
    made.add_argument("run", metavar="RUN_DIR", help="The run's folder.")
    for item in dataclasses.fields(MonitorArguments):
        flags = dict.fromkeys((f"--{item.name}", f"--{item.name.replace('_', '-')}"))
        if item.type == "bool":
            made.add_argument(*flags, action="store_true", help=item.metadata["help"])
        else:
            text = f"{item.metadata['help']} Default {item.default:g}."
            made.add_argument(*flags, type=float, default=item.default, metavar="SECONDS", help=text)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `llmforge monitor`.

    Raises:
        ConfigError: There is no run, or a flag is wrong.
    """
    given = vars(parser().parse_args(argv))
    run = str(given.pop("run"))
    args = MonitorArguments(**given)
    if is_url(run) and not run.startswith("file:"):
        raise ConfigError(
            f"{run} is in a store.", f"Give a run's folder; `llmforge checkpoints status {run}` tells of one there."
        )
    reader = RunReader(Path(local_path(run)))
    try:
        _show(reader, args)
    except KeyboardInterrupt:
        if stop_signals.asked not in (None, "Ctrl-C"):
            raise


def _show(reader: RunReader, args: MonitorArguments) -> None:
    if args.json:
        from llmforge.checkpoints.render import finite
        from llmforge.monitoring.screen import as_json

        print(json.dumps(finite(as_json(reader.view(), time.time()))))
        return
    from llmforge.monitoring.encoding import fit

    fit(sys.stdout)
    if args.logs_only:
        _follow(reader, args)
        return
    from rich.console import Console

    console = Console(highlight=False)
    if args.once or not console.is_terminal or console.is_dumb_terminal:
        _print(reader.view(), console)
        return
    from llmforge.monitoring.live import watch

    view = watch(reader, console, args.refresh, args.exit_at_end)
    print(_line(view))


def _print(view: RunView, console: object) -> None:
    """The view as text; no escapes, and no blanks at the ends of lines."""
    from rich.console import Console

    from llmforge.monitoring.screen import text

    assert isinstance(console, Console)
    width = console.width if console.is_terminal else max(console.width, _COLUMNS)
    plain = Console(width=width, color_system=None, force_terminal=False, highlight=False)
    with plain.capture() as capture:
        plain.print(text(view, width, time.time()))
    for line in capture.get().splitlines():
        print(line.rstrip())


def _follow(reader: RunReader, args: MonitorArguments) -> None:
    """The log, till the reader leaves or, with `--exit_at_end`, the run ends."""
    from llmforge.monitoring.log import Log

    log, told = Log(reader.path / LOG, _LINES), None
    while True:
        # How it stands is asked first: what was logged before the end is then there to be read.
        there = reader.path.is_dir()
        stands: Standing | None = reader.view().standing if there else None
        for line in log.read():
            print(line)
        ended = stands is None or stands.state != "running"
        if ended and stands != told:
            for line in log.rest():
                print(line)
            print(_end(stands))
        told = stands
        sys.stdout.flush()
        if args.once or (ended and args.exit_at_end):
            return
        time.sleep(args.refresh)


def _end(stands: Standing | None) -> str:
    if stands is None:
        return "-- the folder is gone"
    if stands.state == "unknown":
        return f"-- {stands.reason}"
    return f"-- the run has ended: {stands.state}" + (f" ({stands.reason})" if stands.reason not in ("", stands.state) else "")


def _line(view: RunView) -> str:
    """What stays in the terminal."""
    of = f" of {view.max_steps:,}" if view.max_steps else ""
    return f"{view.name}: {view.standing.state}, step {view.step:,}{of}"


if __name__ == "__main__":
    sys.exit(run_command(main))
