"""The view in a terminal that is redrawn, until somebody leaves."""

from __future__ import annotations

import time
from functools import partial

from rich.console import Console
from rich.control import Control
from rich.live import Live

from llmforge.monitoring.screen import screen
from llmforge.monitoring.terminal import Keys
from llmforge.viewing.run import RunReader, RunView

#: Keys, the end of input and the loss of the terminal; and what looks at once.
_LEAVE, _AGAIN = ("q", "Q", "\x04", ""), ("r", "R", " ")


def watch(reader: RunReader, console: Console, refresh: float, exit_at_end: bool) -> RunView:
    """Show a run in the whole terminal till ``q`` is pressed; the terminal is afterwards as it was before.

    Args:
        reader: Of the run.
        console: A terminal that can be redrawn.
        refresh: Seconds between two looks at the run; a change of the terminal's size is seen at once.
        exit_at_end: Leave when the run does not go on.

    Returns:
        What was seen last.

    Raises:
        KeyboardInterrupt: Ctrl-C, or a signal.
    """
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    keys = Keys(live.stop, live.start)
    with live, keys.listening():
        try:
            return _watch(reader, console, live, keys, refresh, exit_at_end)
        finally:
            console.control(Control.clear(), Control.home())  # some terminals keep what stood there when they were resized


def _watch(reader: RunReader, console: Console, live: Live, keys: Keys, refresh: float, exit_at_end: bool) -> RunView:
    view = reader.view()
    while True:
        # What was seen stays when the folder goes away.
        there = reader.path.is_dir()
        view = reader.view() if there else view
        read, key = time.time(), None
        if exit_at_end and not (there and view.running):
            return view
        moment = time.strftime("%H:%M:%S", time.localtime(read))
        state = f"read {moment}, every {refresh:g} s" if there else "the folder is gone"
        end = time.monotonic() + refresh
        while key not in _AGAIN and (left := end - time.monotonic()) > 0:
            width, height = size = console.size
            now = time.time() if there else read
            live.update(screen(view, width, height, now, f"{state} · q leaves, r reads again"), refresh=True)
            key = keys.wait(left, partial(_resized, console, size))
            if key in _LEAVE:
                return view


def _resized(console: Console, size: tuple[int, int]) -> bool:
    return console.size != size
