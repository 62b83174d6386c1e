"""The stock progress bar, without the raw dictionaries between its updates."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

#: Seconds between two updates where nobody watches them move: in a file or a pipe.
_SELDOM = 20.0


class Progress(ProgressCallback):
    """`transformers.ProgressCallback` that leaves the log lines to `RunLog` and shows the loss in the bar.

    Written to a file it updates three times a minute instead of at every step.
    """

    def _bar(self, total: int, **kwargs: Any) -> Any:
        return tqdm(total=total, dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else _SELDOM, **kwargs)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = self._bar(state.max_steps, desc="training")
        self.current_step = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.training_bar is not None:
            self.training_bar.total = state.max_steps  # which a deadline changes
        super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.prediction_bar is None:  # type: ignore[has-type]
            self.prediction_bar = self._bar(len(eval_dataloader), desc="evaluating", leave=False)
        if self.prediction_bar is not None:
            self.prediction_bar.update(1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss={logs['loss']:.3f}", refresh=False)
