"""When the command began that this process runs, or is a part of."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from llmforge.runtime.launch import launcher_pid

_is_command = False


@contextlib.contextmanager
def one_command() -> Iterator[None]:
    """Inside, this process is there for one command, whose time counts from the process's start."""
    global _is_command
    before, _is_command = _is_command, True
    try:
        yield
    finally:
        _is_command = before


def command_began() -> float:
    """The start of the command on the clock of `time.monotonic`: of the launcher where there is one, else of the process.

    Now, where the process is there for more than a command: a notebook, say.
    """
    import psutil

    now = time.monotonic()
    if not _is_command:
        return now
    try:
        first = min(psutil.Process(pid).create_time() for pid in {psutil.Process().pid, launcher_pid() or psutil.Process().pid})
    except psutil.Error:
        return now
    return now - max(time.time() - first, 0.0)
