"""report.html: the page of the run, written again while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.report import refresh_report


class RunReport(ForgeCallback):
    """Writes ``report.html``, the page of `llmforge report`, at every evaluation and at the end of the training.

    Some 20 ms for a short run and an eighth of a second for one of a hundred thousand log events. A page that
    cannot be written is warned about and ends nothing.

    Args:
        folder: The run's, where ``metrics.jsonl`` is.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            refresh_report(self.folder)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            refresh_report(self.folder)
