"""The mirror of a run: what is committed goes to the store while training goes on, and never holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.fetch import best_step_of
from llmforge.checkpoints.manifest import checkpoint_step, list_checkpoints
from llmforge.checkpoints.records import APPENDED, Records
from llmforge.checkpoints.tidying import release_local, tidy_store
from llmforge.checkpoints.uploads import LAST_RECORDS, SETTLED, Uploads, undelivered
from llmforge.checkpoints.waiting import Waiting
from llmforge.configs.remote import RemoteArguments
from llmforge.errors import CheckpointError, LlmforgeError
from llmforge.runtime.devices import format_bytes
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import METRICS
from llmforge.runtime.signals import stop_signals

#: Seconds between two rounds of the records while training goes on.
ROUND = 30.0
#: Seconds before the next attempt, doubled each time up to the second.
BACKOFF = (2.0, 60.0)
#: Seconds for the threads, together, to write down how far they came.
_PATIENCE = 5.0
#: Seconds between two words about what the end waits for.
_WORDS = 15.0


class Mirror:
    """Uploads one run's checkpoints and records from threads of its own; nothing here waits for the store but `drain`.

    Checkpoints go one after the other. While one is on its way others wait, at most `upload_queue` of them: then the
    oldest that is neither the newest nor the best is left out, and counted. What fails is tried again, for ever.

    Attributes:
        uploads: The record of it all.
        records: What goes besides checkpoints.
        waiting: The checkpoints that are to go.

    Args:
        run_dir: The run's folder.
        courier: To the run's folder in the store; closed by `close`.
        settings: Limits.
        run_id: Nothing of another run is ever deleted.
    """

    def __init__(self, run_dir: Path, courier: Courier, settings: RemoteArguments, run_id: str):
        self.run_dir, self.courier, self.settings, self.run_id = run_dir, courier, settings, run_id
        self.uploads = Uploads(run_dir, courier.url)
        self.records = Records(run_dir, courier, self.uploads)
        self.waiting = Waiting(self.uploads, settings.upload_queue)
        self._changed = threading.Condition()
        self._begun_at: int | None = None  # the step, until the store knows
        self._due = self._all_due = False  # whether records are to be looked at, and also those that hardly grew
        self._round = 0.0  # when they were, last
        self._ending = False
        self._tidying = False
        self._closed = False
        self._told: dict[str, str] = {}
        self._threads: list[threading.Thread] = []

    def start(self, step: int = 0) -> None:
        """Begin, with what is not delivered yet of what is here.

        Args:
            step: That the run goes on from: checkpoints of later ones are of a course that was left.
        """
        self._begun_at = step
        for path in list_checkpoints(self.run_dir):
            upload = self.uploads.checkpoints.get(path.name)
            # The one gone on from too: retention may have taken it out of the store, and the later ones go.
            if upload is None or upload.state not in SETTLED or checkpoint_step(path) == step:
                self._add(path)
        self._threads = [
            threading.Thread(target=self._send_checkpoints, name="mirror", daemon=True),
            threading.Thread(target=self._send_records, name="mirror-records", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def add(self, checkpoint: Path) -> None:
        """Queue a committed checkpoint; without `background_upload`, wait till it is uploaded, or has failed once."""
        self._add(checkpoint)
        self.refresh(at_once=True)
        upload = self.uploads.checkpoint(checkpoint.name)
        with self._changed:
            while not self.settings.background_upload and upload.state in ("queued", "uploading") and upload.error is None:
                if self._closed or stop_signals.asked:
                    return
                self._changed.wait(0.2)

    def send(self, names: Sequence[str]) -> list[str]:
        """Send these checkpoints, and all records, here and now and by no thread; return what could not be sent.

        For a mirror that was not started: the run does not go on.
        """
        left = []
        for name in names:
            self.uploads.checkpoint(name, best=best_step_of(self.run_dir / name))
            if not self._send_checkpoint(name):
                left.append(name)
        return left + [name for name, _ in self.records.changed() if self.records.send(name)]

    def _add(self, checkpoint: Path) -> None:
        best = best_step_of(checkpoint)
        with self._changed:
            self.waiting.add(checkpoint.name, best)
            self._changed.notify_all()

    def refresh(self, at_once: bool = False) -> None:
        """Say that records may have changed; they are looked at every `ROUND` seconds at most, or all of them at once."""
        with self._changed:
            self._due = True
            if at_once:
                self._all_due, self._round = True, 0.0
            self._changed.notify_all()

    def pinned(self) -> set[int]:
        """The steps of the checkpoints that still wait for their upload, which retention leaves alone."""
        with self._changed:
            return self.waiting.steps()

    def undelivered(self) -> list[str]:
        """What has not reached the store, see `uploads.undelivered`."""
        return undelivered(self.run_dir, self.uploads.copy())

    def drain(self, seconds: float, hurried: Callable[[], float | None] = lambda: None) -> list[str]:
        """Wait, so long at most, till everything is uploaded that can be, and return what is not.

        Args:
            hurried: Asked all the time: the seconds that are left from now on where there is a hurry, else None.
        """
        end, told = time.monotonic() + seconds, time.monotonic()
        with self._changed:
            self._ending = True
        while self._is_busy():
            hurry = hurried()
            end = end if hurry is None else min(end, time.monotonic() + hurry)
            if time.monotonic() >= end or not any(thread.is_alive() for thread in self._threads):
                break
            if time.monotonic() - told > _WORDS:
                told = time.monotonic()
                logger.info("uploading %s; %.0f s at most", ", ".join(self.undelivered()[:3]) or "is tidied", end - told)
            self.refresh(at_once=True)
            with self._changed:
                self._changed.wait(0.2)
        return self.undelivered()

    def _is_busy(self) -> bool:
        """Whether there is anything that may still reach the store: a checkpoint that cannot be sent as it is may not."""
        with self._changed:
            if self._tidying or self._begun_at is not None or self.waiting.names:
                return True
        return any(name not in LAST_RECORDS for name, _ in self.records.changed())

    def send_last(self, seconds: float) -> None:
        """Send what is written to the very end within a bound; what does not get there is sent by the next start."""

        def work() -> None:
            for name, _ in self.records.changed():
                if name in LAST_RECORDS:
                    self.records.send(name)

        thread = threading.Thread(target=work, name="mirror-end", daemon=True)
        self._threads.append(thread)
        thread.start()
        thread.join(seconds)

    def close(self) -> None:
        """End the threads and the process; what they were sending stays undelivered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.courier.close()
        end = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))

    # Checkpoints

    def _send_checkpoints(self) -> None:
        pause = BACKOFF[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.waiting.names or self._begun_at is not None or self._closed)
                if self._closed:
                    return
                name = self.waiting.take()
            done = self._begin() and (self._send_checkpoint(name) if name else None)
            with self._changed:
                self._tidying = bool(done)
                self.waiting.end(over=done is not False)
                self._changed.notify_all()
                if done is False:
                    # Whatever is new is tried along with it, and not before: the store is the same.
                    self._changed.wait_for(lambda: self._closed, min(pause, 2.0) if self._ending else pause)
                    pause = min(pause * 2, BACKOFF[1])
            if done and name:
                pause = BACKOFF[0]
                self._tidy(name)
            with self._changed:
                self._tidying = False
                self._changed.notify_all()

    def _begin(self) -> bool:
        """See that the store knows where the run begins; False if that could not be done."""
        if self._begun_at is None:
            return True
        with self._changed:
            waiting = list(self.waiting.names)
        try:
            withdrawn, halves = self.courier.ask("begin_at", self._begun_at, self.run_id, waiting)
        except LlmforgeError as error:
            self._tell("what is new", str(error), "; it is tried again")
            return False
        for name in withdrawn:
            self.uploads.gone(name, "superseded")
            logger.warning("%s, in the store, is of a course that was left, and is no checkpoint any more", name)
        for name in halves:  # of a machine that is gone: deleted with the next that can go, unless it is uploaded by then
            self.uploads.checkpoint(name, "superseded")
        with self._changed:
            self._begun_at = None
        return True

    def _send_checkpoint(self, name: str) -> bool | None:
        """Whether a checkpoint was uploaded; None if it cannot ever be."""
        upload = self.uploads.checkpoint(name)
        begun = time.monotonic()
        self.uploads.change(upload, "uploading", attempts=upload.attempts + 1)
        # First: once the checkpoint is there the machine may go, and the next one has no other source of what led up to it.
        if not self._is_hurried():
            self.records.send_grown()
        try:
            sent = int(self.courier.ask("send_checkpoint", self.run_dir / name))
        except (LlmforgeError, OSError) as error:
            if self._closed:
                self.uploads.change(upload, "queued")
                return False
            final = isinstance(error, CheckpointError) or (isinstance(error, RemoteError) and error.kind == "refused")
            seconds = round(time.monotonic() - begun, 1)
            self.uploads.change(upload, "failed", seconds=seconds, error=str(error))
            self._tell(name, str(error), "" if final else "; it is tried again")
            return None if final else False
        seconds = time.monotonic() - begun
        self._told.pop(name, None)
        self.uploads.change(upload, "done", bytes=sent, seconds=round(seconds, 1), error=None)
        if sent:
            logger.info("%s is uploaded: %s in %.1f s", name, format_bytes(sent), seconds)
        return True

    def _is_hurried(self) -> bool:
        """Whether what the run appends to goes after the checkpoint: a stop was asked for, and on a slow link it would use up
        what is left for both. What the store has none of yet goes first all the same.
        """
        known = self.uploads.files.get(METRICS)
        return bool(stop_signals.asked and known is not None and known.stamp)

    def _tell(self, name: str, error: str, more: str) -> None:
        """A failure, once for each reason."""
        if self._told.get(name) != error and not self._closed:
            self._told[name] = error
            logger.warning("%s is not uploaded: %s%s", name, error, more)

    def _tidy(self, name: str) -> None:
        with self._changed:
            pinned = {step for step in (self.waiting.best, self.uploads.checkpoint(name).best) if step is not None}
        try:
            tidy_store(self.courier, self.uploads, self.run_id, self.settings.remote_total_limit, pinned, self.pinned())
        except LlmforgeError as error:
            if not self._closed:
                logger.warning("what is old in the store stays for now: %s", error)
        if self.settings.release_local:
            release_local(self.run_dir, self.uploads, pinned)

    # Records

    def _send_records(self) -> None:
        pause = BACKOFF[0]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._due and time.monotonic() - self._round >= ROUND), ROUND)
                if self._closed:
                    return
                if not self._due or time.monotonic() - self._round < ROUND:
                    continue
                everything, self._round = self._all_due, time.monotonic()
                self._due = self._all_due = False
            failed = False
            found = self.records.changed() if everything else self.records.due()
            if self._is_hurried() and self.pinned():
                found = [(name, stamp) for name, stamp in found if name not in APPENDED]
            for name, _ in found:
                if self._closed:
                    return
                problem = self.records.send(name)
                if problem:
                    failed = True  # the others go none the less
                    self._tell(name, problem, "; it is tried again")
            with self._changed:
                if found:  # else nothing has changed: `drain` would ask for the next round at once, and the two never rest
                    self._changed.notify_all()
                if failed:
                    self._changed.wait_for(lambda: self._closed, min(pause, 2.0) if self._ending else pause)
                    self._due, self._all_due, self._round = True, self._all_due or everything, 0.0
                pause = min(pause * 2, BACKOFF[1]) if failed else BACKOFF[0]
