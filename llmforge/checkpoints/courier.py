"""Speaks to a store in a process of its own, so that training does not share its interpreter, memory or forks with that.

fsspec's threads do not survive a fork, as data loaders do it, and what they do to large files would take turns with
the steps. The process is spawned; it ends with its parent.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmforge.checkpoints import fetch, mirrored
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.probe import probe
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.errors import LlmforgeError
from llmforge.runtime.children import without_script
from llmforge.runtime.logs import logger

#: What is in memory is in this process's. A disk is not done here: one that hangs, as NFS does, could not be given up.
_HERE = ("memory",)
#: What can be asked for: functions of a `RemoteFolder`.
_TASKS: dict[str, Callable[..., Any]] = {
    "probe": probe,
    "put": lambda remote, path, name: remote.put(Path(path), name),
    "run_id": mirrored.remote_run_id,
    "checkpoints": mirrored.remote_checkpoints,
    "send_checkpoint": mirrored.send_checkpoint,
    "delete_checkpoint": mirrored.delete_checkpoint,
    "leftovers": mirrored.remote_leftovers,
    "begin_at": mirrored.begin_at,
    "forget_end": mirrored.forget_end,
    "refuse_other_run": mirrored.refuse_other_run,
    "records": fetch.fetch_records,
    "restore": fetch.restore_run,
}
#: Seconds in which a killed process is gone; one that waits for a dead disk may never be.
_PATIENCE = 2.0
#: The sending yields to the steps where both want the same core.
_NICE = 10


class Courier:
    """Does what is asked of the store at `url`; threads may share one, and their requests are done side by side.

    Args:
        apart: In a process of its own, where the protocol wants that; without it in the caller's thread, where no
            training goes on beside.

    Attributes:
        url: As it may be shown.
    """

    def __init__(self, url: str, apart: bool = True):
        self._remote = RemoteFolder(url)
        self._url = url
        self.url = self._remote.url
        self._here = not apart or self._remote.protocol in _HERE
        self._lock = threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._asked: dict[int, Future[Any]] = {}
        self._number = 0
        self._moved = 0
        self._closed = False

    @property
    def moved(self) -> int:
        """Bytes sent and received so far."""
        return self._remote.moved + self._moved

    def ask(self, task: str, *arguments: Any) -> Any:
        """Do a task, one of `_TASKS`, and return what comes of it; what it raises is raised here.

        Raises:
            RemoteError: The store failed; or `close` was called, or the process was killed, meanwhile.
        """
        if self._here:
            return _TASKS[task](self._remote, *arguments)
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RemoteError(f"{self.url}: it is over.")
            pipe = self._running()
            self._number += 1
            self._asked[self._number] = future
            try:
                pipe.send((self._number, task, arguments))
            except OSError:
                self._lost(pipe)
        return future.result()

    def _running(self) -> Connection:
        """The pipe to the process, which is started where there is none."""
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs, self._url, os.getpid()), name="courier", daemon=True)
            with without_script():
                self._process.start()
            theirs.close()
            threading.Thread(target=self._listen, args=(self._pipe,), name="courier", daemon=True).start()
        return self._pipe

    def _listen(self, pipe: Connection) -> None:
        while True:
            try:
                kind, number, value = pipe.recv()
            except (EOFError, OSError):
                with self._lock:
                    self._lost(pipe)
                return
            if kind == "log":
                logger.log(number, "%s", value)
            elif kind == "moved":
                self._moved += value
            else:
                with self._lock:
                    future = self._asked.pop(number, None)
                if future is not None:
                    (future.set_exception if kind == "error" else future.set_result)(value)

    def _lost(self, pipe: Connection) -> None:
        """The process is gone: whoever waits hears of it, and the next request starts another."""
        if pipe is not self._pipe:
            return
        self._pipe = None
        pipe.close()
        for future in self._asked.values():
            future.set_exception(RemoteError(f"{self.url}: the process that speaks to it ended."))
        self._asked.clear()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.join(_PATIENCE)
            if self._pipe is not None:
                self._lost(self._pipe)


class _Relay(logging.Handler):
    """Sends what is logged to the parent, whose log it belongs into."""

    def __init__(self, send: Callable[[Any], None]):
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(("log", record.levelno, record.getMessage()))


def serve(pipe: Connection, url: str, parent: int) -> None:
    """The process: does what comes through the pipe, each request in a thread, until the other end is closed."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)  # a stop is the parent's to make something of
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # gRPC writes there
        os.dup2(nothing, descriptor)
    if hasattr(os, "nice"):
        os.nice(_NICE)
    lock = threading.Lock()

    def send(message: Any) -> None:
        try:
            with lock:
                pipe.send(message)
        except OSError:
            os._exit(0)

    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Relay(send))
    remote = RemoteFolder(url)

    def work(number: int, task: str, arguments: tuple[Any, ...]) -> None:
        try:
            send(("done", number, _TASKS[task](remote, *arguments)))
        except (LlmforgeError, OSError) as error:
            send(("error", number, error))
        except Exception as error:
            send(("error", number, RemoteError(f"{remote.url}: {task} failed ({type(error).__name__}).")))

    def watch() -> None:
        told = 0
        while os.getppid() == parent:  # a forked data loader may hold the pipe open when the parent is killed
            time.sleep(0.5)
            if remote.moved != told:
                moved = remote.moved
                send(("moved", 0, moved - told))
                told = moved
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        try:
            number, task, arguments = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        threading.Thread(target=work, args=(number, task, arguments), daemon=True).start()
