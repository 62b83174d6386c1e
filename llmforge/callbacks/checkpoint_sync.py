"""Hangs the mirror of a run on its training."""

from __future__ import annotations

from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.checkpoints.sync import Mirror


class CheckpointSync(ForgeCallback):
    """Hands committed checkpoints to a `Mirror`, keeps retention from those that wait, and says when records changed.

    Args:
        mirror: Of the run's folder; started when training begins. It is ended by whoever made it.
    """

    def __init__(self, mirror: Mirror):
        self.mirror = mirror
        self._started = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        saving = self.trainer.checkpoints
        if state.is_world_process_zero and self.mirror.add not in saving.after_commit:
            saving.after_commit.append(self.mirror.add)
            saving.pinned.append(self.mirror.pinned)
            if not self._started:  # a second trainer of the run, after one that ran out of memory, finds it at work
                self._started = True
                self.mirror.start(state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.mirror.refresh()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.mirror.refresh()
