"""Says in every log event of training how many rows went at a time, where that may change in a run."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MicroBatch(TrainerCallback):
    """Adds ``micro_batch``, rows of a device at a time, to what is logged."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            logs["micro_batch"] = args.per_device_train_batch_size
