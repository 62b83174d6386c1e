"""The terminal while something is watched in it: keys without Return, its size, and everything as it was at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

#: How long a key or a change of size goes unnoticed.
_LOOK_SECONDS = 0.2


class Keys:
    """Keys of the terminal, one at a time as they are pressed.

    Without a terminal at standard input, or in the background, there are none.
    Ctrl-C stays what it is everywhere. While it is suspended (Ctrl-Z) the terminal is as it was before.

    Args:
        leave, enter: Called before it is suspended and when it goes on.
    """

    def __init__(self, leave: Callable[[], Any] = lambda: None, enter: Callable[[], Any] = lambda: None):
        self._leave, self._enter = leave, enter
        self._descriptor: int | None = None
        self._before: list[Any] | None = None
        self._suspended = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Keys]:
        """Take the keys in this block."""
        with contextlib.suppress(OSError, ValueError):
            if sys.stdin is not None and sys.stdin.isatty() and _in_foreground(sys.stdin.fileno()):
                self._descriptor = sys.stdin.fileno()
        before = None
        if hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            before = signal.signal(signal.SIGTSTP, self._note_suspension)
        try:
            self._raw()
            yield self
        finally:
            self._restore()
            if before is not None:
                signal.signal(signal.SIGTSTP, before)

    def wait(self, seconds: float, changed: Callable[[], bool] = lambda: False) -> str | None:
        """The next key; None after `seconds`, or as soon as `changed` says so. An empty string: the terminal is gone."""
        end = time.monotonic() + seconds
        while True:
            if self._suspended:
                self._suspend()
                return None
            left = end - time.monotonic()
            if left <= 0 or changed():
                return None
            if self._descriptor is None:
                time.sleep(min(left, _LOOK_SECONDS))
                continue
            if select.select([self._descriptor], [], [], min(left, _LOOK_SECONDS))[0]:
                try:
                    return os.read(self._descriptor, 1).decode("ascii", "replace")
                except OSError:
                    return ""

    def _raw(self) -> None:
        if self._descriptor is None:
            return
        try:
            import termios
            import tty
        except ImportError:  # not a Unix
            self._descriptor = None
            return
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor, termios.TCSADRAIN)

    def _restore(self) -> None:
        if self._before is not None and self._descriptor is not None:
            import termios

            with contextlib.suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
            self._before = None

    def _note_suspension(self, number: int, frame: FrameType | None) -> None:
        self._suspended = True

    def _suspend(self) -> None:
        """What Ctrl-Z asks for, with a terminal for whoever comes next."""
        self._suspended = False
        self._leave()
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._raw()
        self._enter()


def _in_foreground(descriptor: int) -> bool:
    """Whether the terminal's keys are this process's: one in the background (under `timeout`) would be stopped by taking them."""
    return not hasattr(os, "tcgetpgrp") or os.tcgetpgrp(descriptor) == os.getpgrp()
