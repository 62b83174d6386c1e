"""Trackers that cannot hold a run: TensorBoard, W&B and the others, each in a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback, WandbCallback
from transformers.trainer_callback import CallbackHandler

from llmforge.callbacks.media import Histogram, Medium, Picture, Text
from llmforge.runtime.logs import logger

#: Seconds that a run waits for a tracker: when training begins, and when it ends.
START_SECONDS, END_SECONDS = 60.0, 30.0
#: Events that may wait for a slow tracker.
CAPACITY = 1000
#: Seconds given to the clean-up after a tracker that hangs.
_TEARDOWN_SECONDS = 5.0
#: Queued last: the thread is done.
_END = "end"
_EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]
_SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$")

#: Trackers whose threads were started and that were not closed yet.
_running: list[Tracker] = []


class Tracker(TrainerCallback):
    """Runs the hooks of one stock reporting callback in a thread, in order, and lets go of it when it fails.

    Stock calls them in the training loop: an exception of a tracker ends the run, a server that does not
    answer stops it. Here a hook that raises switches the tracker off, with one warning. A hook that hangs
    costs at most `start_seconds` when training begins and `end_seconds` at each of its end and the run's;
    then the tracker is given up, with one warning. In between nothing waits: while `CAPACITY` events are
    queued, further ones are dropped and counted.

    What a hook returns or does to the control is ignored: a tracker does not steer the run.

    Args:
        stock: The callback to run.
        start_seconds: How long training waits for `on_train_begin` (a login, say).
        end_seconds: How long it waits for what is still queued, at the end.
        capacity: Events that may be queued.
    """

    def __init__(
        self,
        stock: TrainerCallback,
        start_seconds: float = START_SECONDS,
        end_seconds: float = END_SECONDS,
        capacity: int = CAPACITY,
    ):
        self.stock = stock
        names = {callback: name for name, callback in INTEGRATION_TO_CALLBACK.items()}
        self.name = names.get(type(stock), type(stock).__name__)
        self.start_seconds, self.end_seconds = start_seconds, end_seconds
        self.dropped = 0
        self.off = False
        self._lock = threading.Lock()
        self._queue: queue.Queue[tuple[str, Callable[[], Any]]] = queue.Queue(capacity)
        self._thread: threading.Thread | None = None
        self._is_main = False  # as the state of the last event says
        self._owned: Any = None  # the W&B run that the callback started
        self._hung = self._torn_down = False
        self._hooks = {name for name in _EVENTS if getattr(type(stock), name) is not getattr(TrainerCallback, name)}
        if isinstance(stock, TensorBoardCallback):
            self._hooks.add("on_predict")  # which stock has for W&B alone
        # Only what the callback listens to: nothing is queued at every step for one that ignores steps.
        for name in self._hooks | {"on_train_begin", "on_train_end"}:
            setattr(self, name, functools.partial(self._hand_over, name))
        self._held: list[Callable[[], None]] = []  # what waits for a checkpoint to be committed
        if "on_save" in self._hooks:
            self.on_save = self._hold

    @property
    def shows(self) -> bool:
        """Whether it takes texts, pictures and histograms: TensorBoard and W&B do, in the first process, once it has begun."""
        return self._is_main and not self.off and isinstance(self.stock, (TensorBoardCallback, WandbCallback))

    def put(self, media: Mapping[str, Medium], step: int) -> None:
        """Show texts, pictures or histograms by name, at once; nothing happens where it `shows` none."""
        if self.shows and media:
            self._queue_up(next(iter(media)), functools.partial(self._show, dict(media), step))

    def close(self, exit_code: int | None = None) -> None:
        """Deliver what is queued, within `end_seconds`, and end what the callback started; later events are ignored.

        Args:
            exit_code: How the run ended: W&B marks it failed where this is not 0. None leaves that to wandb, which
                sees how the process ends.
        """
        if self._thread is None:
            return
        atexit.unregister(self.close)
        if self in _running:
            _running.remove(self)
        self._await("the end of the run", self.end_seconds, functools.partial(self._finish, exit_code))
        if self.off:
            self._tear_down()
        if self.dropped:
            logger.warning("%s: %d events were dropped, it could not keep up", self.name, self.dropped)
        self.off = True
        with contextlib.suppress(queue.Full):  # then the thread hangs, and ends with the process
            self._queue.put_nowait((_END, lambda: None))

    def _hand_over(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._is_main = state.is_world_process_zero
        # The loop goes on changing all of these. The history is shared: it only grows, and copying it every time would not be
        # cheap; a callback that reads it may see a few events too many.
        kwargs = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
        call = functools.partial(self._call, event, args, copy.copy(state), copy.copy(control), **kwargs)
        if event == "on_train_begin":
            self._await(event, self.start_seconds, call)
            # After wandb has registered its own hook, which waits for ever, so that this one comes before it.
            atexit.unregister(self.close)
            atexit.register(self.close)
        elif event == "on_train_end":
            self._await(event, self.end_seconds, call)
        else:
            self._queue_up(event, call)

    def _hold(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Some trackers send a checkpoint along: not before it is committed, which may be while training goes on."""
        call = functools.partial(self._hand_over, "on_save", args, copy.copy(state), copy.copy(control), **kwargs)
        with self._lock:
            there = os.path.isdir(os.path.join(args.output_dir or ".", f"checkpoint-{state.global_step}"))
            self._held = [] if there else [call]
        if there:
            call()

    def committed(self) -> None:
        """The checkpoint of the last save is there; called from the thread that commits it."""
        with self._lock:
            held, self._held = self._held, []
        for call in held:
            call()

    def _start(self) -> None:
        if self._thread is None:
            # A daemon: the process may end while it hangs.
            self._thread = threading.Thread(target=self._work, name=f"tracker-{self.name}", daemon=True)
            self._thread.start()
            _running.append(self)
            atexit.register(self.close)  # for an evaluation without a training, too

    def _queue_up(self, what: str, call: Callable[[], Any]) -> None:
        if self.off:
            return
        self._start()
        try:
            self._queue.put_nowait((what, call))
        except queue.Full:
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("%s does not keep up: events are dropped, the run goes on", self.name)

    def _await(self, what: str, seconds: float, call: Callable[[], Any]) -> None:
        """Queue `call` and wait until it is done; give the tracker up where that takes longer than `seconds`."""
        if self.off:
            return
        self._start()
        done = threading.Event()
        end = time.monotonic() + seconds
        try:
            self._queue.put((what, call), timeout=seconds)
            self._queue.put(("", done.set), timeout=max(end - time.monotonic(), 0.001))
            in_time = done.wait(max(end - time.monotonic(), 0))
        except queue.Full:
            in_time = False
        if not in_time:
            self._hung = True
            self._switch_off(f"no answer within {seconds:g} s at {what}")
        if self.off:
            self._tear_down()

    def _work(self) -> None:
        what = ""
        while what != _END:
            what, call = self._queue.get()
            try:
                if not self.off or not what:  # whoever waits is told also when the tracker is off
                    call()
            except BaseException as error:  # wandb raises KeyboardInterrupt's kin too; this thread must go on
                self._switch_off(f"{what}: {_told(error)}")
            del call  # it may hold the model

    def _switch_off(self, reason: str) -> None:
        with self._lock:
            told, self.off = self.off, True
        if not told:
            logger.warning("%s is switched off, the run goes on without it: %s", self.name, reason)

    def _call(self, event: str, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if isinstance(self.stock, TensorBoardCallback) and self.stock.logging_dir is None:
            # Stock sets it when training begins, and an evaluation alone would write to the working folder.
            self.stock.logging_dir = os.path.join(args.output_dir, "logs")
        if event == "on_train_begin":
            self._purge(state)
        wandb = self.stock._wandb if isinstance(self.stock, WandbCallback) else None
        before = wandb.run if wandb else None
        if event == "on_predict" and isinstance(self.stock, TensorBoardCallback):
            event, kwargs["logs"] = "on_log", kwargs.pop("metrics")
        getattr(self.stock, event)(args, state, control, **kwargs)
        if wandb and wandb.run is not before:
            self._owned = wandb.run

    def _purge(self, state: TrainerState) -> None:
        """Have TensorBoard forget what an interrupted run wrote past the step that this one resumes from.

        Stock opens its writer without a `purge_step`, and the steps done twice are drawn twice. A fresh run
        has one too: TensorBoard takes the first mark in a folder for a beginning, only a second one for a restart.
        """
        stock = self.stock
        if not isinstance(stock, TensorBoardCallback) or stock.tb_writer is not None or state.is_hyper_param_search:
            return
        if state.is_world_process_zero and stock.logging_dir is not None:
            step = state.global_step + 1 if state.global_step else 0  # the first step that is done again
            stock.tb_writer = stock._SummaryWriter(log_dir=stock.logging_dir, purge_step=step)

    def _show(self, media: Mapping[str, Medium], step: int) -> None:
        stock = self.stock
        if isinstance(stock, TensorBoardCallback):
            if stock.tb_writer is None:  # stock closes it at the end of training, and makes a new one where it logs after that
                stock._init_summary_writer(None)
            for name, medium in media.items():
                medium.to_tensorboard(stock.tb_writer, name, step)
            stock.tb_writer.flush()
        elif stock._wandb.run is not None:
            shown = {name: medium.to_wandb() for name, medium in media.items()}
            stock._wandb.log({**shown, "train/global_step": step})

    def _finish(self, exit_code: int | None) -> None:
        if isinstance(self.stock, TensorBoardCallback) and self.stock.tb_writer is not None:
            self.stock.tb_writer.close()
            self.stock.tb_writer = None
        if self._owned is not None and self._owned is self.stock._wandb.run:  # a run that the user started is the user's to end
            self._owned.finish(exit_code=exit_code)

    def _tear_down(self) -> None:
        """See that a tracker that failed or hangs does not keep the process from ending.

        wandb registers an `atexit` hook that waits, without a limit, for its service process to deliver.
        `wandb.teardown` takes that hook away first and then waits in its place; in a daemon thread that may
        be left behind. The service ends with the process that it serves, and what it could not
        send is in the run's ``wandb/`` folder, for `wandb sync`.
        """
        if isinstance(self.stock, WandbCallback) and not self._torn_down:
            self._torn_down = True
            thread = threading.Thread(target=self.stock._wandb.teardown, name="tracker-teardown", daemon=True)
            thread.start()
            thread.join(_TEARDOWN_SECONDS if self._hung else self.end_seconds)


def _told(error: BaseException) -> str:
    """An exception in one line, without anything that an environment variable holds as a secret."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 8:
            text = text.replace(value, "<redacted>")
    return text if len(text) < 500 else f"{text[:500]}…"


def close_trackers(exit_code: int | None = None) -> None:
    """Close every tracker of this process, each within its time; see `Tracker.close`."""
    for tracker in _running.copy():  # each takes itself out
        tracker.close(exit_code)


class Trackers:
    """What other callbacks show in every tracker at once, under one name: what `Trainer.log` cannot carry.

    Args:
        trackers: Where to.
    """

    def __init__(self, trackers: Sequence[Tracker] = ()):
        self.trackers = tuple(trackers)

    @classmethod
    def install(cls, handler: CallbackHandler) -> Trackers:
        """Put a `Tracker` around each stock reporting callback of a Trainer, in its place."""
        stock = tuple(set(INTEGRATION_TO_CALLBACK.values()))
        # wandb's own limits, where the user has raised them, are to be reached first.
        start = max(START_SECONDS, _seconds("WANDB_INIT_TIMEOUT") + 20)
        end = max(END_SECONDS, _seconds("WANDB_FINISH_TIMEOUT") + 10)
        found = []
        for number, callback in enumerate(handler.callbacks):
            if isinstance(callback, stock):
                limits = (start, end) if isinstance(callback, WandbCallback) else ()
                found.append(Tracker(callback, *limits))
                handler.callbacks[number] = found[-1]
        return cls(found)

    def committed(self, checkpoint: Path) -> None:
        """Tell those that send checkpoints along that one is committed; see `CheckpointWriter.after_commit`."""
        for tracker in self.trackers:
            tracker.committed()

    def text(self, name: str, text: str, step: int) -> None:
        """Show plain text, spaces and line ends kept."""
        self._put({name: Text(text)}, step)

    def picture(self, name: str, path: Path | str, step: int) -> None:
        """Show a PNG file as it is now."""
        if self._anyone():
            try:
                self._put({name: Picture.read(path)}, step)
            except OSError as error:
                logger.warning("%s cannot be shown in the trackers: %s", path, error.strerror)

    def histogram(self, name: str, values: Any, step: int) -> None:
        """Show how the values of a tensor, array or list are spread now; none finite, nothing shown."""
        self.histograms({name: values}, step)

    def histograms(self, values: Mapping[str, Any], step: int) -> None:
        """Show how the values of many tensors are spread now, by name."""
        if self._anyone():  # counting is not for nothing
            counted = {name: Histogram.of(items) for name, items in values.items()}
            self._put({name: histogram for name, histogram in counted.items() if histogram is not None}, step)

    def _anyone(self) -> bool:
        return any(tracker.shows for tracker in self.trackers)

    def _put(self, media: Mapping[str, Medium], step: int) -> None:
        for tracker in self.trackers:
            tracker.put(media, step)


def _seconds(name: str) -> float:
    try:
        return float(os.environ.get(name, 0))
    except ValueError:
        return 0.0  # wandb itself says what is wrong with it
