"""Ends a training in time, and leads the learning rate there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.checkpoints.restore import EVALUATED_NEXT
from llmforge.configs.units import format_seconds
from llmforge.runtime.logs import logger

#: What comes after training besides evaluations and saves: pictures, the model card, the process's own end; about.
FINISH_SECONDS = 2.0
#: In so much of the time before the end nothing is evaluated or saved: the end itself does both.
LAST_SHARE = 0.05
#: Weight of the newest step in the running mean of what a step takes.
_NEWEST = 0.1


class Deadline(ForgeCallback):
    """Ends a training so that its run ends in time, and paces schedule and evaluations by time instead of by steps.

    The schedule is the one of ``--lr_scheduler_type`` over `max_steps`, read at the share of the training's time that is
    used: it ends where the time does, however fast the steps are. `max_steps` is only a bound; in the trainer's state it
    becomes the step that the run will reach, for bars and estimates. What comes after the last step (evaluation, save, test
    split) is measured where it happened before, and kept free.

    The time used is logged as ``run_seconds``, the step that the run will reach as ``max_steps``; a resumed run goes on
    counting from the last time its checkpoint knows.
    On several processes the first one's clock is everyone's.

    Args:
        seconds: For the whole run, its earlier parts included.
        begun: When the command began, on `clock`.
        evaluations: How often to evaluate and save, evenly over the time, the end included; 0 leaves it to the flags.
        test_share: Rows of the test split for each one that an evaluation has.
        foretold: Seconds of the end, and of a step where they are known, until they are measured.
        clock: Seconds, as `time.monotonic`.
    """

    def __init__(
        self,
        seconds: float,
        begun: float,
        evaluations: int = 0,
        test_share: float = 0.0,
        foretold: tuple[float, float | None] = (FINISH_SECONDS, None),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.seconds, self.begun, self.evaluations, self.test_share, self.clock = seconds, begun, evaluations, test_share, clock
        self.foretold = foretold
        self.progress = 0.0  # the share of the training's time that is used
        self._earlier: float | None = None  # seconds of this run's earlier parts
        self._first = 0.0  # when training began, in seconds of the run
        self._group: Any = None
        self._over = self._due = False
        self._step = 0.0  # seconds of one
        self._bound = 1  # steps that are not gone beyond
        self._begun: float | None = None  # when this one began
        self._ended = 0.0  # when the last one ended
        self._paused = False  # whether there was an evaluation or a save since
        self._evaluation: float | None = None  # seconds of one
        self._rest = 0.0  # and of what comes with it: pictures, samples, a save
        self._evaluated = 0.0  # seconds of the evaluation in this pause

    def attach(self, trainer: Any) -> None:
        """Extends `ForgeCallback.attach`: it stands first, so that its figures reach all others and stock sees the last step."""
        super().attach(trainer)
        callbacks = trainer.callback_handler.callbacks
        callbacks.insert(0, callbacks.pop(callbacks.index(self)))

    def used(self) -> float:
        """Seconds of the run so far."""
        return (self._earlier or 0.0) + self.clock() - self.begun

    def reserve(self) -> float:
        """Seconds that the end takes: an evaluation and what comes with it, the test split, saving once more, leaving."""
        if self._evaluation is None:
            return self.foretold[0] + 2 * self._rest
        return self._evaluation * (1 + self.test_share) + 2 * self._rest + FINISH_SECONDS

    def left(self) -> float:
        """Seconds left for steps."""
        return self.seconds - self.reserve() - self.used()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, lr_scheduler: Any = None, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        known = [entry for entry in state.log_history or [] if "run_seconds" in entry]
        if self._earlier is None:  # not where this process begins anew, out of memory: that is in its own time
            self._earlier = known[-1]["run_seconds"] if known else 0.0
            self._evaluation = next((entry["eval_runtime"] for entry in reversed(known) if "eval_runtime" in entry), None)
        self.progress, self._first, self._over, self._due = 0.0, self.used(), False, False
        if known:  # so that the schedule goes on where it was
            self._first = known[0]["run_seconds"] - known[0].get("eval_runtime", 0.0)
        self._begun, self._ended, self._paused, self._bound = None, self.clock(), False, state.max_steps
        if args.world_size > 1 and self._group is None:
            self._group = torch.distributed.new_group(backend="gloo")
        self._agree(state)
        used_up = bool(state.global_step and self._over)
        if used_up:
            control.should_training_stop = True
            state.max_steps = state.global_step
            if state.is_world_process_zero:
                logger.info("the deadline of %s was used up by step %d", format_seconds(self.seconds), state.global_step)
        if hasattr(lr_scheduler, "lr_lambdas"):
            lr_scheduler.lr_lambdas = [self._paced(function, self._bound) for function in lr_scheduler.lr_lambdas]
            if state.global_step:  # the rate of the next step was read before this, at a step of `max_steps`
                rates = zip(lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True)
                lr_scheduler._last_lr = [base * function(lr_scheduler.last_epoch) for base, function in rates]
                for group, rate in zip(lr_scheduler.optimizer.param_groups, lr_scheduler._last_lr, strict=True):
                    group["lr"] = rate
        if self.foretold[1] and not used_up:
            self._foretell(state, self.foretold[1])

    def _foretell(self, state: TrainerState, step: float) -> None:
        """Say which step will be reached when each takes so many seconds."""
        state.max_steps = min(state.global_step + max(round(self.left() / step), 1), self._bound)

    def _paced(self, function: Callable[[float], float], steps: int) -> Callable[[int], float]:
        # A plain function: the attributes of anything else would go into checkpoints.
        return lambda step: function(self.progress * steps)

    def _agree(self, state: TrainerState) -> None:
        """Look at the clock: how far the time is used, or the bound in steps, and whether it is over; everywhere the same."""
        left = self.left()
        whole = self.used() + left - self._first
        used = max(1 - left / whole if whole > 0 else 1.0, (state.global_step + 1) / self._bound)
        seen = torch.tensor([used, float(left < self._step / 2)], dtype=torch.float64)
        if self._group is not None:
            torch.distributed.broadcast(seen, 0, group=self._group)
        self.progress = min(max(float(seen[0]), self.progress), 1.0)
        self._over = bool(seen[1])

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = self.clock()
        if self._paused:
            if self._evaluated or self._begun is not None:  # not what only comes before the first step
                self._evaluation = self._evaluated or self._evaluation
                self._rest = max(now - self._ended - self._evaluated, 0.0)
            self._paused, self._evaluated = False, 0.0
        elif self._begun is not None:
            taken = now - self._begun
            self._step = taken if self._step == 0 else self._step + _NEWEST * (taken - self._step)
        self._begun = now

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        before = self.progress
        self._agree(state)  # here, as the schedule is asked next
        passed = int(before * self.evaluations) < int(self.progress * self.evaluations)
        self._due = passed and self.progress < 1 - LAST_SHARE and not self._over

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._ended = self.clock()
        if self._over:
            state.max_steps = state.global_step  # stock's own callback, which stands behind this one, sees to the rest
            control.should_log = True
        elif self._step:
            self._foretell(state, self._step)
        if self._due:
            control.should_log = True
            control.should_evaluate = args.eval_strategy == IntervalStrategy.STEPS
            control.should_save = args.save_strategy == SaveStrategy.STEPS

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._paused = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._paused = True
        self._evaluated += (metrics or {}).get("eval_runtime", 0.0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None:
            figures = {"run_seconds": round(self.used(), 2), "max_steps": state.max_steps}
            if "train_steps_per_second" in logs:  # stock takes the samples of all the steps that were never meant
                rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
                figures["train_samples_per_second"] = round(logs["train_steps_per_second"] * rows, 3)
            logs.update(figures)
            if state.log_history and state.log_history[-1].get("step") == state.global_step:
                state.log_history[-1].update(figures)
                if (self._due or self._over) and "loss" in logs and args.eval_strategy == IntervalStrategy.STEPS:
                    state.log_history[-1][EVALUATED_NEXT] = True
