"""What the callbacks that look into `ForgeTrainer` have in common."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.errors import ConfigError


class ForgeCallback(TrainerCallback):
    """A callback that needs `ForgeTrainer`, which hands itself over by `attach`.

    Raises:
        ConfigError: When training begins under another Trainer.
    """

    trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Called by `ForgeTrainer` with itself."""
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer is None:
            raise ConfigError(f"The callback {type(self).__name__} needs ForgeTrainer.", "Make the trainer by build_trainer.")
