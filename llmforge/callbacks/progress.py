"""The stock progress bar, without the raw dictionaries between its updates."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.runtime.launch import in_notebook

#: Seconds without a line after which one says how far the training is, where no bar can: in a file or a pipe.
_SELDOM = 60.0


class Progress(ProgressCallback):
    """`transformers.ProgressCallback` that leaves the log lines to `RunLog` and shows the loss in the bar.

    In a file or a pipe there is no bar, whose updates would be lines without end: the log lines say how far it is, and
    in a training where there was none for a minute, a line of its own does.
    """

    def _bar(self, total: int, **kwargs: Any) -> Any:
        self._said = time.monotonic()
        return tqdm(total=total, dynamic_ncols=True, disable=not (sys.stderr.isatty() or in_notebook()), **kwargs)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = self._bar(state.max_steps, desc="training")
        self.current_step = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.training_bar is not None:
            self.training_bar.total = state.max_steps  # which a deadline changes
            if self.training_bar.disable and time.monotonic() - self._said >= _SELDOM:
                self._said = time.monotonic()
                print(f"training: step {state.global_step} of {state.max_steps}", file=sys.stderr, flush=True)
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
        self._said = time.monotonic()
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix_str(f"loss={logs['loss']:.3f}", refresh=False)
