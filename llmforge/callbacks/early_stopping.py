"""Stops a run that no longer improves."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.configs.training import EVALUATION_METRICS
from llmforge.errors import ConfigError
from llmforge.runtime.logs import logger


class EarlyStopping(TrainerCallback):
    """Stops after `patience` evaluations in a row without an improvement; works with a plain `Trainer` too.

    It keeps no count of its own: the count follows from the evaluations in the Trainer's
    ``log_history``, which every checkpoint holds. So a resumed run goes on counting where the
    interrupted one was, with whatever patience it is given now. (transformers' own callback
    restores its count only if asked to, and then the old patience with it.)

    Args:
        metric: A name without ``eval_``: ``loss``, ``perplexity``, ``bits_per_byte``, ``accuracy``, or one that
            the Trainer's own `compute_metrics` makes.
        patience: Evaluations without an improvement after which to stop.
        min_delta: An improvement is one by more than this, in the metric's own unit.
        greater_is_better: By default False, except for ``accuracy``.

    Raises:
        ConfigError: A patience below 1 or a min_delta that is negative or not finite; from the second evaluation
            on, if no evaluation has such a metric.
    """

    def __init__(self, metric: str = "loss", patience: int = 5, min_delta: float = 0.0, greater_is_better: bool | None = None):
        if patience < 1 or not (math.isfinite(min_delta) and min_delta >= 0):
            raise ConfigError(
                f"Early stopping with patience {patience} and min_delta {min_delta} would stop at once or never.",
                "Give a patience of at least 1 and a min_delta of 0 or more.",
            )
        self.metric = metric.removeprefix("eval_")
        self.patience = patience
        self.min_delta = min_delta
        self.greater_is_better = EVALUATION_METRICS.get(self.metric, False) if greater_is_better is None else greater_is_better

    def since_best(self, history: list[dict[str, Any]]) -> tuple[int, int, float]:
        """Evaluations since the last improvement, and the step and value of that, from a `TrainerState.log_history`.

        A value that is not finite is no improvement. An evaluation done twice at a step counts once.
        """
        values = {int(entry["step"]): float(entry[self._key]) for entry in history if self._key in entry}
        sign = -1.0 if self.greater_is_better else 1.0
        best, best_step, since = math.inf, 0, 0
        for step, value in values.items():
            if math.isfinite(value) and (best == math.inf or sign * value < best - self.min_delta):
                best, best_step, since = sign * value, step, 0
            else:
                since += 1
        return since, best_step, sign * best

    @property
    def _key(self) -> str:
        return f"eval_{self.metric}"

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A run that was stopped and is started again has nothing left to do (a plain Trainer does one step more).
        if state.global_step and self.since_best(state.log_history or [])[0] >= self.patience:
            control.should_training_stop = True
            if state.is_world_process_zero:
                logger.info("early stopping: at step %d the patience of %d was spent already", state.global_step, self.patience)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        evaluations = [entry for entry in state.log_history if any(key.startswith("eval_") for key in entry)]
        if not any(self._key in entry for entry in evaluations):
            # Of several evaluation sets the first may lack it; a later round would have it.
            if any(entry["step"] < state.global_step for entry in evaluations):
                known = sorted({key[5:] for entry in evaluations for key in entry if key.startswith("eval_")})
                raise ConfigError(f"No evaluation has the metric {self.metric!r} to stop by.", f"Known: {', '.join(known)}.")
            return
        since, step, value = self.since_best(evaluations)
        if since >= self.patience:
            control.should_training_stop = True
            # So that the run, started again, knows that it was stopped.
            control.should_save = args.save_strategy in ("steps", "epoch")
            if state.is_world_process_zero:
                logger.info(
                    "early stopping at step %d: no better eval_%s than %.4f of step %d in %d evaluations",
                    *(state.global_step, self.metric, value, step, since),
                )
