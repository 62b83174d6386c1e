"""Being asked to stop: SIGTERM, Ctrl-C, the early warning of a scheduler, or a launcher that is gone.

Outside of training whoever is asked stops where it stands, as on Ctrl-C: files are written aside and
renamed, so that nothing is torn. During training the request is only noted, and the callback `StopOnSignal`
ends the run at a step's end with a checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from llmforge.runtime.launch import in_notebook, launcher_pid, rank

#: A second Ctrl-C counts from here on; before, it is the same press of the keys, which launchers pass on once more.
_SECOND_PRESS_SECONDS = 2.0
_PARENT_SECONDS = 1.0
#: SIGUSR1 is what batch systems are told to send ahead of the end (Slurm: ``--signal=USR1@120``).
_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


class StopSignals:
    """The signals that ask this process to stop; there is one, `stop_signals`.

    Attributes:
        deferred: Whether a request is only noted. Otherwise the handler raises KeyboardInterrupt.
        insisted: Whether Ctrl-C was pressed a second time: nothing is waited for any more.
        asked_at: When it was first asked to, as `time.monotonic` tells it: a scheduler's patience counts from there.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.insisted = False
        self.asked_at = 0.0
        self._reason: str | None = None
        self._pressed: float | None = None  # when Ctrl-C was first
        self._parent_lost = False
        self._depth = 0
        self._pid = 0

    @property
    def asked(self) -> str | None:
        """Why to stop, ``SIGTERM`` say; None as long as nobody asks."""
        return self._reason

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listen inside this block, and give every signal back to whom it belonged at its end; blocks may be nested.

        In a notebook, and outside of the main thread, nothing is installed: an interrupt is what it always is there.
        """
        if self._depth or in_notebook() or threading.current_thread() is not threading.main_thread():
            yield
            return
        self._depth, self._pid = 1, os.getpid()
        self._reason, self._pressed, self._parent_lost = None, None, False
        self.deferred, self.insisted = False, False
        before = {number: signal.getsignal(number) for name in _NAMES if (number := getattr(signal, name, None)) is not None}
        end = threading.Event()
        try:
            for number, handler in before.items():
                # One that is ignored stays so (a job in a script's background), and a SIGUSR1 that has a use keeps it.
                if handler is signal.SIG_IGN or (number != signal.SIGTERM and not _is_default(handler)):
                    continue
                signal.signal(number, self._handle)
            parent = launcher_pid()
            if parent is not None:
                threading.Thread(target=self._watch, args=(parent, end), name="parent-watch", daemon=True).start()
            yield
        finally:
            end.set()
            for number, handler in before.items():
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, handler)
            self._depth, self._reason, self.deferred = 0, None, False

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        # Nothing is printed or logged from here: the interrupted code may be in the middle of that.
        if os.getpid() != self._pid:
            return self._handle_in_worker(number, frame)
        now, first = time.monotonic(), self._reason is None
        if first:
            self.asked_at = now
            self._reason = "a dead launcher" if self._parent_lost else "Ctrl-C" if number == signal.SIGINT else _name(number)
        if number == signal.SIGINT:
            self.insisted = self._pressed is not None and now - self._pressed >= _SECOND_PRESS_SECONDS
            self._pressed = now if self._pressed is None else self._pressed
        if (number == signal.SIGINT and self.insisted) or (first and not self.deferred):
            raise KeyboardInterrupt(self._reason)
        if first and number == signal.SIGINT and rank() == 0:
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n")
        return None

    def _handle_in_worker(self, number: int, frame: FrameType | None) -> Any:
        """What a forked worker has inherited: it ends when its parent says so."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT:
            return signal.default_int_handler(number, frame)
        return None

    def _watch(self, parent: int, end: threading.Event) -> None:
        """A launcher that is killed leaves its processes behind; for them that is a SIGTERM."""
        while not end.wait(_PARENT_SECONDS):
            if os.getppid() != parent:
                self._parent_lost = True
                os.kill(os.getpid(), signal.SIGTERM)
                return


def outliving(then: Callable[[int], Any] | None) -> Callable[[int], None]:
    """A ``worker_init_fn`` of a data loader whose workers serve the steps that are still to come.

    systemd, Slurm and a terminal send their signals to every process of a job, and a worker that dies makes the
    training fail. So a worker ends when its parent tells it to, and at no other's word.

    Args:
        then: What the loader had there.
    """
    return functools.partial(_start_worker, then)


def _start_worker(then: Callable[[int], Any] | None, number: int) -> None:
    for name in _NAMES[1:]:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(number)


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _name(number: int) -> str:
    return signal.Signals(number).name


def _is_default(handler: Any) -> bool:
    return handler in (signal.SIG_DFL, signal.default_int_handler)


#: Of this process.
stop_signals = StopSignals()
