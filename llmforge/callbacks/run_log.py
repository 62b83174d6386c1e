"""metrics.jsonl: one line a log event, in the run's folder."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import METRICS
from llmforge.storage.files import is_disk_full
from llmforge.storage.records import append_json_line, keep_json_lines

_SKIPPED = ("total_flos", "eval_model_preparation_time")
#: Of a run with a deadline: the step that it will reach begins the line, and `eta` says the time.
_TIMED = ("run_seconds", "max_steps")
#: In the file, but not in the readable line.
_QUIET = ("epoch", "tokens", "eval_tokens", "eval_bytes", "useful_tokens_per_second", "eta_seconds", "micro_batch", *_TIMED)
_SPEEDS = ("_runtime", "_per_second")


class RunLog(ForgeCallback):
    """Writes every log event to ``metrics.jsonl`` and a readable line to ``run.log``.

    A resumed run first drops the lines past the step it resumes from: they belong to work
    that is done again.
    """

    def __init__(self, folder: Path):
        self.path = folder / METRICS
        self._waiting: list[dict[str, Any]] = []
        self._torn = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._waiting, self._torn = [], False
        if state.is_world_process_zero:
            step = state.global_step
            # Nothing is kept at step 0, where a run starts over; the line that closed a finished run goes, too.
            keep_json_lines(self.path, lambda line: 0 < step >= line.get("step", 0) and "train_runtime" not in line)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        values = {key: value for key, value in logs.items() if key not in _SKIPPED}
        self._waiting.append({"step": state.global_step, **values, "time": round(time.time(), 3)})
        self._write()
        logger.info(describe(state, values))

    def _write(self) -> None:
        """Append what waits. A full disk holds it up and not the run: the next event tries again."""
        try:
            while self._waiting:
                append_json_line(self.path, self._waiting[0])
                del self._waiting[0]
            self._torn = False
        except OSError as error:
            if not is_disk_full(error):
                raise
            if not self._torn:
                logger.warning("%s cannot be written, its lines are kept till it can: %s", self.path.name, error.strerror)
            self._torn = True


def describe(state: TrainerState, values: dict[str, Any]) -> str:
    """A log event as ``step 20/300 loss=4.1234 …``."""
    shown = []
    for key, value in values.items():
        if key in _QUIET or key.startswith("device_") or (key.endswith(_SPEEDS) and key != "tokens_per_second"):
            continue
        # Rates need no decimals; a loss does.
        form = ",.0f" if key == "tokens_per_second" else ".4g"
        shown.append(f"{key}={value:{form}}" if isinstance(value, float) else f"{key}={value}")
    if "eta_seconds" in values:
        shown.append(f"eta={datetime.timedelta(seconds=round(values['eta_seconds']))}")
    return f"step {state.global_step}/{state.max_steps} {' '.join(shown)}"
