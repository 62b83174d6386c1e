"""The stock progress bar, without the raw dictionaries between its updates."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments


class Progress(ProgressCallback):
    """`transformers.ProgressCallback` that leaves the log lines to `RunLog` and shows the loss in the bar."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss={logs['loss']:.3f}", refresh=False)
