"""The end of a run: told in one line, recorded before anything is waited for, and put right when that is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmforge import mirroring
from llmforge.callbacks.tracker import close_trackers
from llmforge.checkpoints.manifest import list_checkpoints
from llmforge.checkpoints.sync import Mirror
from llmforge.configs.run import RunConfig
from llmforge.errors import EXIT_PREEMPTED, ConfigError, LlmforgeError, Preempted, StorageError
from llmforge.runtime.launch import world_size
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import METRICS, RunFolder, correct_exit
from llmforge.runtime.signals import stop_signals
from llmforge.storage.files import is_disk_full
from llmforge.storage.records import read_json_lines


@dataclass
class _End:
    """How a run ended, as far as this process knows.

    Attributes:
        code: The exit code.
        reason: In one line.
        error: To be raised; None where it finished, or where what ended it says so itself.
    """

    code: int = 0
    reason: str = "finished"
    error: LlmforgeError | None = None

    def with_uploads(self, undelivered: Sequence[str], folder: Path) -> _End:
        """The end with this undelivered: a run that finished is no success then, and one that did not ended by that.

        Asked to stop while it waits for that, it is an interrupted run like any other.
        """
        if self.code or not undelivered:
            return self
        error: LlmforgeError = _undelivered(undelivered, folder)
        if stop_signals.asked:
            error = Preempted(f"Stopped by {stop_signals.asked} when it had finished. {error.problem}", error.remedy)
        return _End(error.exit_code, str(error), error)


def end_run(run: RunFolder, config: RunConfig, mirror: Mirror | None, error: BaseException | None) -> LlmforgeError | None:
    """Record how a run ended, wait for its uploads, and put the record right by what became of them.

    The record comes first: who is killed while it waits leaves one that says what was undelivered then.

    Args:
        error: What ended it; None where it finished.

    Returns:
        What is to be raised instead of `error`; None where that says it all.

    Raises:
        OSError, LlmforgeError: The record of a run that finished cannot be written.
    """
    stop_signals.deferred = True  # the record of the end is written to its end
    end = _ended_by(error, config)
    told = end
    try:
        left = mirroring.undelivered(mirror)
        told = end.with_uploads(left, run.path)
        written = _record(run, told, left, error)
        if mirror is not None:
            left = mirroring.drain(mirror, config)
            told = end.with_uploads(left, run.path)
            _correct(run, told, left, written, error)
    finally:
        close_trackers(told.code)
    if isinstance(error, KeyboardInterrupt):
        logger.warning("interrupted%s; go on with --output_dir %s --resume added to the same command", _by(error), run.path)
    if left and end.code:
        logger.warning("%s", _undelivered(left, run.path))
    return told.error


def _undelivered(names: Sequence[str], path: Path) -> StorageError:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return StorageError(
        f"Not uploaded yet: {shown}.", f"llmforge checkpoints upload {path} --all does it, and so does --resume.", "bucket-access"
    )


def _by(error: BaseException) -> str:
    return f" by {error}" if error.args else ""


def _ended_by(error: BaseException | None, config: RunConfig) -> _End:
    if error is None:
        return _End()
    told = explain(error, config)
    if told is not None:
        return _End(told.exit_code, str(told), told)
    if isinstance(error, KeyboardInterrupt):
        return _End(EXIT_PREEMPTED, f"interrupted{_by(error)}")
    return _End(1, repr(error))


def _record(run: RunFolder, end: _End, undelivered: Sequence[str], error: BaseException | None) -> bool:
    """Write the record of the end; whether that was done, and not by another process.

    What a process knows first-hand it records on any rank. The step is the last one logged, where a better one is not known.
    """
    heard = error is not None and end.error is not None and not end.error.relayed
    step = getattr(end.error, "step", None)
    try:
        steps = [line["step"] for line in read_json_lines(run.path / METRICS) if "step" in line]
        committed = list_checkpoints(run.path)
        newest = committed[-1].name if committed else None
        step = step if step is not None else steps[-1] if steps else None
        return run.write_exit(end.code, end.reason, step, heard, newest, undelivered, finished=error is None)
    except (OSError, LlmforgeError) as failure:
        _unless_finished(error, failure)
        return False


def _correct(run: RunFolder, end: _End, undelivered: Sequence[str], written: bool, error: BaseException | None) -> None:
    try:
        correct_exit(run.path, undelivered, *((end.code, end.reason) if written else ()))
    except (OSError, LlmforgeError) as failure:
        _unless_finished(end.error or error, failure)


def _unless_finished(error: BaseException | None, failure: Exception) -> None:
    if error is None:
        raise failure
    logger.warning("how the run ended could not be recorded: %s", failure)  # why it did is told next


def explain(error: BaseException, config: RunConfig) -> LlmforgeError | None:
    """The error in one clear line, where the user can do something about it."""
    if isinstance(error, LlmforgeError):
        return error
    if type(error).__name__ == "OutOfMemoryError":
        return _out_of_memory(config)
    if is_disk_full(error):
        return StorageError(f"The disk of {config.training.output_dir} is full.", "Free some space and go on with --resume.")
    if isinstance(error, ImportError):  # an optimizer's package, say
        return ConfigError(str(error).rstrip(".") + ".", "Install it, or choose something else.")
    return None


def _out_of_memory(config: RunConfig) -> ConfigError:
    """What helps, as far as it was not given already."""
    rows, chosen = config.training.per_device_train_batch_size, config.run.auto_batch
    remedy = "Add --activation_checkpointing, or take a shorter --block_size or a smaller --preset."
    if rows > 1 and not chosen and world_size() == 1:
        remedy = (
            "Give --auto_batch, which halves it and doubles --gradient_accumulation_steps, or add --activation_checkpointing."
        )
    elif rows > 1:
        remedy = f"Give {rows // 2} and more --gradient_accumulation_steps, or add --activation_checkpointing."
        remedy = f"Leave --auto_batch out: {remedy[0].lower()}{remedy[1:]}" if chosen else remedy
    return ConfigError(f"The device ran out of memory with --per_device_train_batch_size {rows}.", remedy, "out-of-memory")
