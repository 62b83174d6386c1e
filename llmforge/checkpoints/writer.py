"""Saves the checkpoints of a training: staged, committed, followed by retention; at once or in the background."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from llmforge.checkpoints import commit, retention
from llmforge.checkpoints.agreement import agree, outcome, refuse_several_folders, relayed, together
from llmforge.checkpoints.manifest import METADATA, checkpoint_step, is_committed, read_manifest, verify
from llmforge.checkpoints.metadata import describe_checkpoint
from llmforge.checkpoints.parts import CheckpointParts
from llmforge.checkpoints.resume import find_checkpoint, require_sound
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.errors import CheckpointError, StorageError
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import RUN_RECORD
from llmforge.storage.records import read_json

#: Seconds that other processes wait for the first one's checkpoint when training ends by an error.
PATIENCE = 60.0
#: Saves that may fail one after the other, for want of room say, before training stops.
MOST_FAILURES = 3


class CheckpointWriter:
    """Makes the checkpoints of one `ForgeTrainer`; `save`, `settle` and `begin` are called by all of its processes alike.

    With `async_save`, `save` copies the state into memory, and a thread of the first process writes and commits
    it while training goes on. The next save waits for it, and so does whatever needs the checkpoint.

    Attributes:
        after_commit: Called with each checkpoint's path once it is committed, in order and before retention, by
            the thread that commits; what one raises is told and nothing more. An upload is queued here.
        pinned: Each gives the steps that retention must leave alone, such as those still to be uploaded.
        run_id: Of the run, in every manifest.

    Raises:
        ConfigError: FSDP with a sharded state, or every machine saving for itself.
    """

    def __init__(self, trainer: Any, settings: CheckpointArguments):
        refuse_several_folders(trainer)
        self.trainer = trainer
        self.settings = settings
        self.after_commit: list[Callable[[Path], None]] = []
        self.pinned: list[Callable[[], Iterable[int]]] = []
        if trainer.args.push_to_hub:
            self.after_commit.append(lambda path: trainer._push_from_checkpoint(str(path)))
        self.run_id = ""
        self.parts = CheckpointParts(trainer)
        self._thread: threading.Thread | None = None
        self._pending: tuple[int, Any, Any] | None = None  # step, and the best step and metric then
        self._failure: Exception | None = None
        self._failures = 0
        self._kept_best: tuple[int | None, float | None] = (None, None)
        self._record: dict[str, Any] = {}

    @property
    def _is_main(self) -> bool:
        return bool(self.trainer.args.process_index == 0)

    def _folder(self, trial: Any = None) -> Path:
        return Path(self.trainer._get_output_dir(trial=trial) or ".")

    def begin(self, resumed_from: str | None, trial: Any = None) -> None:
        """Training begins: what a killed process left is swept away, and the best checkpoint is found by its step.

        Raises:
            StorageError: Checkpoints of later steps than the one resumed from are in the way and cannot be moved.
        """
        self.wait()
        self._pending, self._failure, self._failures = None, None, 0
        folder, state = self._folder(trial), self.trainer.state
        self._record = read_json(folder / RUN_RECORD) if (folder / RUN_RECORD).exists() else {}
        known = read_manifest(Path(resumed_from)).run_id if resumed_from and is_committed(Path(resumed_from)) else ""
        self.run_id = self._record.get("run_id") or known or uuid.uuid4().hex[:12]
        if self._is_main and folder.is_dir() and self.trainer.args.save_strategy != "no":
            commit.begin_at(folder, state.global_step)
        state.best_model_checkpoint = self.best_path(trial)
        if state.best_global_step and state.best_model_checkpoint is None and self.trainer.args.load_best_model_at_end:
            logger.warning("the best checkpoint, of step %d, is gone: the best is looked for anew", state.best_global_step)
            state.best_global_step = state.best_metric = None
        self._kept_best = (state.best_global_step, state.best_metric)

    def best_path(self, trial: Any = None) -> str | None:
        """Where the best checkpoint is, by its step: the run's folder may have been moved; None where it is not there."""
        step = self.trainer.state.best_global_step
        path = self._folder(trial) / f"checkpoint-{step}"
        return str(path) if step and path.is_dir() else None

    def has(self, step: int, trial: Any = None) -> bool:
        """Whether the checkpoint of a step is committed."""
        return is_committed(self._folder(trial) / f"checkpoint-{step}")

    def choose(self, resume: str | bool | None) -> str | None:
        """The checkpoint that `Trainer.train` is to resume from, verified; None for a fresh start.

        Raises:
            CheckpointError: It cannot be used; or another process found so.
        """
        if not resume:
            return None
        fresh, scaler = self.settings.allow_fresh_optimizer, bool(self.trainer.args.fp16)
        folder, found, failure = self._folder(), None, None
        try:
            if resume is True:
                found = find_checkpoint(folder, "newest", self._is_main, fresh, scaler)
            elif self._is_main:
                require_sound(Path(resume), fresh, scaler)
        except CheckpointError as error:
            failure = error
        if self._agree(int(failure is not None)):
            raise failure or relayed("a checkpoint was looked for")
        if resume is True and found is None:
            logger.info("%s has no checkpoint: training starts from step 0", folder)
        return str(found) if resume is True and found else None if resume is True else str(resume)

    def is_sound(self, checkpoint: str | None) -> bool:
        """Whether a checkpoint can be loaded, as the first process finds; what is wrong with it is told."""
        problems: list[str] = []
        if self._is_main and checkpoint and is_committed(Path(checkpoint)):
            problems = verify(Path(checkpoint))
        for problem in problems[:1]:
            logger.warning("the best checkpoint, %s, is damaged and not loaded: %s", checkpoint, problem)
        return not self._agree(len(problems))

    def save(self, trial: Any = None) -> None:
        """Save the state as it is now as the checkpoint of this step; one that is there already stays as it is.

        A disk that is full costs this checkpoint and not the run, unless it happens `MOST_FAILURES` times in a row.

        Raises:
            StorageError: It did.
            TrainingDiverged: The weights are not finite; nothing is written.
        """
        self.settle()
        trainer, folder = self.trainer, self._folder(trial)
        step = trainer.state.global_step
        trainer.prepare_saving(trial)
        target = folder / f"checkpoint-{step}"
        if self._agree(int(self._is_main and commit.stands(target, self.run_id))):
            logger.info("%s is committed already and stays as it is", target.name)
            return
        trainer.state.best_model_checkpoint = str(target) if trainer.state.best_global_step == step else self.best_path(trial)
        background = bool(self._agree(int(self._is_main and self.settings.async_save and self.parts.can_wait())))
        self._pending = (step, trainer.state.best_global_step, trainer.state.best_metric)
        staging = commit.staging_folder(folder, step)
        later: list[Callable[[], None]] = []
        try:
            done = self._together(lambda: self._is_main and commit.stage(folder, step))
            done = done and self._together(lambda: later.extend(self.parts.write(staging, background)))
            if self._is_main and done:
                self._start(self._commit(staging, later), background)
            elif self._is_main:
                commit.discard(staging)
        except BaseException:
            self._pending = None
            if self._is_main:
                commit.discard(staging)
            raise
        if not (done and background):
            self.settle()

    def _start(self, work: Callable[[], None], background: bool) -> None:
        if background:
            # No daemon: a process that ends waits for it.
            self._thread = threading.Thread(target=work, name="checkpoint")
            self._thread.start()
        else:
            work()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, and draw the consequences of how it went, in all processes alike.

        Raises:
            StorageError: It could not be written, nor could those before it, `MOST_FAILURES` in all.
            Exception: Whatever else stopped it.
        """
        self.wait()
        if self._pending is None:
            return
        (step, *best), self._pending = self._pending, None
        failure, self._failure = self._failure, None
        worst = self._agree(outcome(failure))
        if worst == 0:
            self._failures, self._kept_best = 0, (best[0], best[1])
            return
        state = self.trainer.state
        if state.best_global_step == step:  # it is not there: the best is the one it was before
            state.best_global_step, state.best_metric = self._kept_best
            state.best_model_checkpoint = self.best_path()
        if worst == 2:
            raise failure or relayed(f"the checkpoint of step {step} was saved")
        self._failures += 1
        reason = " ".join(str(failure or "another process could not write").split())
        if self._failures >= MOST_FAILURES:
            raise StorageError(
                f"{self._failures} checkpoints in a row could not be saved, the last of them of step {step}: {reason}.",
                f"Free some space for {self._folder()} and go on with --resume.",
            )
        logger.warning(
            "checkpoint-%d could not be saved and is left out, training goes on (%d of %d in a row): %s",
            *(step, self._failures, MOST_FAILURES, reason),
        )

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written in the background, by this process."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Wait till what is being written is committed or has failed; in this process only, and without a judgement."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Training has ended, however it did: what the first process is still writing is awaited in every process.

        A launcher stops all of its processes when one of them ends.
        """
        self.wait()
        if self._pending is not None and not self._is_main:
            staging, limit = commit.staging_folder(self._folder(), self._pending[0]), time.monotonic() + PATIENCE
            while staging.exists() and time.monotonic() < limit:
                time.sleep(0.05)

    def _commit(self, staging: Path, later: list[Callable[[], None]]) -> Callable[[], None]:
        """What is left to do in the first process: to write what was put off, and to commit. It never raises."""
        state, args, record, run_id = self.parts.exported_state(), self.trainer.args, self._record, self.run_id

        def work() -> None:
            try:
                for write in later:
                    write()
                state.save_to_json(str(staging / TRAINER_STATE_NAME))
                described = describe_checkpoint(state, args, record)
                (staging / METADATA).write_text(json.dumps(described, ensure_ascii=False) + "\n", encoding="utf-8")
                self._follow(commit.commit(staging, run_id), state.best_global_step)
            except Exception as error:
                self._failure = error
                commit.discard(staging)

        return work

    def _follow(self, checkpoint: Path, best: int | None) -> None:
        """What comes after a commit: those who asked for it, then retention."""
        step = checkpoint_step(checkpoint)
        pinned = {best or 0, step or 0}
        for call in self.after_commit:
            try:
                call(checkpoint)
            except Exception as error:
                logger.warning("after %s: %s: %s", checkpoint.name, type(error).__name__, error)
        for pins in self.pinned:
            try:
                pinned |= set(pins())
            except Exception as error:  # what is to be kept is not known: nothing is deleted
                logger.warning("no checkpoint is deleted: %s: %s", type(error).__name__, error)
                return
        retention.prune(checkpoint.parent, self.trainer.args.save_total_limit, pinned)

    def _agree(self, value: int) -> int:
        return agree(self.trainer.args, value)

    def _together(self, work: Callable[[], Any]) -> bool:
        done, self._failure = together(self.trainer.args, work)
        return done
