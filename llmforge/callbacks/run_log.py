"""metrics.jsonl: one line a log event, in the run's folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.runtime.devices import peak_memory
from llmforge.runtime.logs import logger
from llmforge.runtime.run_folder import METRICS
from llmforge.storage import append_json_line, keep_json_lines

_SKIPPED = ("total_flos", "eval_model_preparation_time")
#: In the file, but not in the readable line.
_QUIET = ("epoch", "tokens", "eval_tokens", "eval_bytes")


class RunLog(TrainerCallback):
    """Writes every log event to ``metrics.jsonl`` and a readable line to ``run.log``.

    A resumed run first drops the lines past the step it resumes from: they belong to work
    that is done again.
    """

    def __init__(self, folder: Path):
        self.path = folder / METRICS

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            step = state.global_step
            keep_json_lines(self.path, lambda line: line.get("step", 0) <= step)

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
        line = {"step": state.global_step, **values, "memory": peak_memory(), "time": round(time.time(), 3)}
        append_json_line(self.path, line)
        logger.info(describe(state, values))


def describe(state: TrainerState, values: dict[str, Any]) -> str:
    """A log event as ``step 20/300 loss=4.1234 …``."""
    shown = []
    for key, value in values.items():
        if key in _QUIET or (key.endswith(("_runtime", "_per_second")) and key != "tokens_per_second"):
            continue
        shown.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return f"step {state.global_step}/{state.max_steps} {' '.join(shown)}"
