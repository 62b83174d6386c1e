"""Holds a step back till the state before it is copied."""

from __future__ import annotations

from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.callbacks.forge_callback import ForgeCallback


class CopiedState(ForgeCallback):
    """Waits, before the optimizer changes the weights, for the copy that a checkpoint is written from."""

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.checkpoints.parts.await_copy()
