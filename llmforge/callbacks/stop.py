"""Ends a run that was asked to stop, with a checkpoint."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.errors import Preempted, StorageError
from llmforge.runtime.launch import rank
from llmforge.runtime.logs import logger
from llmforge.runtime.signals import stop_signals

#: Processes ask one another at most so often, whatever the speed of a step.
_ASK_SECONDS = 0.1
#: And at least once in so many steps.
_MOST_STEPS = 64


class StopOnSignal(ForgeCallback):
    """Watches for a request to stop (SIGTERM, Ctrl-C, see `llmforge.runtime.signals`) at every step's end and in evaluations.

    When there is one, a checkpoint of the step is saved, unless that is done already or ``--save_strategy`` is
    no, and the training is left. All processes stop at the same step. An evaluation is cut short.

    Raises:
        Preempted: After the checkpoint; before the first step without one.
    """

    def __init__(self) -> None:
        self._steps: Agreement | None = None
        self._batches: Agreement | None = None
        self._stopping = False
        self._saved = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        stop_signals.deferred = True
        self._stopping, self._saved = False, state.global_step
        if self._steps is None:
            # On the CPU and of its own: no device has to be waited for, and no other exchange is disturbed.
            group = torch.distributed.new_group(backend="gloo") if args.world_size > 1 else None
            self._steps, self._batches = Agreement(group), Agreement(group)
        if self._steps.reached(at_once=True):
            self._leave(args, state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._steps is None or not self._steps.reached():
            return
        self._stopping = True
        control.should_evaluate = False
        control.should_save = args.save_strategy != SaveStrategy.NO
        control.should_training_stop = not control.should_save  # else after the save, which keeps what stands in `control`
        if rank() == 0:
            logger.info("stopping after step %d: %s", state.global_step, stop_signals.asked or "another process was asked to")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = state.global_step
        # Asked meanwhile: not one more step, and not another checkpoint.
        self._stopping = self._stopping or (self._steps is not None and self._steps.reached(at_once=True))
        control.should_training_stop = control.should_training_stop or self._stopping

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.trainer.is_in_train or self._batches is None or not self._batches.reached():
            return
        if rank() == 0:
            logger.info("stopping in the evaluation at step %d, which is done again on --resume", state.global_step)
        if args.save_strategy != SaveStrategy.NO and self._saved != state.global_step:
            self._stopping = True
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
            self.trainer.callback_handler.on_save(args, state, control)
        self._leave(args, state)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._stopping:
            self._leave(args, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        asked = self._steps is not None and self._steps.reached(at_once=True)
        stop_signals.deferred = False
        if asked:
            self._leave(args, state)

    def _leave(self, args: TrainingArguments, state: TrainerState) -> NoReturn:
        when = f"after step {state.global_step}" if state.global_step else "before the first step"
        by = f" by {stop_signals.asked}" if stop_signals.asked else ""
        try:
            self.trainer.checkpoints.settle()  # in all processes, so that the end is told as it is
        except StorageError as failure:
            logger.warning("%s", failure)
        if args.save_strategy != SaveStrategy.NO and state.global_step and not self.trainer.checkpoints.has(state.global_step):
            when += ", of which there is no checkpoint"
        on = f"Go on with --output_dir {args.output_dir} --resume added to the same command."
        error = Preempted(f"Stopped{by} {when}.", on, state.global_step)
        error.relayed = rank() != 0  # all of them stop, and one tells
        raise error


class Agreement:
    """Whether any process of the run was asked to stop, the same answer in all of them.

    One process just looks. Several exchange two numbers over a gloo group, some 0.1 ms, at most every
    tenth of a second: each exchange also agrees on the number of calls until the next.

    Args:
        group: The processes; None for one alone.
    """

    def __init__(self, group: Any = None):
        self._group = group
        self._wait = 0  # calls until the next exchange
        self._calls = 0
        self._last = time.monotonic()

    def reached(self, at_once: bool = False) -> bool:
        """Call it at the same points in all processes.

        Args:
            at_once: Ask the others now, whenever that was last done.
        """
        if self._group is None:
            return stop_signals.asked is not None
        self._calls += 1
        if self._calls <= self._wait and not at_once:
            return False
        now = time.monotonic()
        fitting = int(_ASK_SECONDS * self._calls / max(now - self._last, 1e-6))
        answer = torch.tensor([int(stop_signals.asked is not None), -min(fitting, _MOST_STEPS)])
        torch.distributed.all_reduce(answer, op=torch.distributed.ReduceOp.MAX, group=self._group)
        self._calls, self._wait, self._last = 0, -int(answer[1]), now
        return bool(answer[0])
