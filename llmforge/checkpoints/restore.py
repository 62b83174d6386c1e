"""What a resumed training makes of a checkpoint beyond loading it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import IntervalStrategy

from llmforge.runtime.logs import logger

#: What a group of an optimizer is told by the user, in the optimizer's own names; the rest of it is state.
_TOLD = ("initial_lr", "weight_decay", "betas", "eps", "momentum", "nesterov")


def restore_optimizer(trainer: Any, checkpoint: str | None, load: Callable[[str | None], None]) -> None:
    """Load the state of optimizer and schedule, and put what the user now says in place of what was said then.

    Args:
        load: Stock's own, which overwrites the optimizer's settings with the checkpoint's, and loads neither of the
            two where one is missing.
    """
    if checkpoint is None:
        return
    lacking = [name for name in (OPTIMIZER_NAME, SCHEDULER_NAME) if not (Path(checkpoint) / name).exists()]
    if lacking:
        logger.warning("%s has no %s: the state starts anew", Path(checkpoint).name, " and no ".join(lacking))
        if SCHEDULER_NAME not in lacking:  # the schedule goes on all the same
            schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
            trainer.lr_scheduler.load_state_dict(schedule)
            for group, rate in zip(trainer.optimizer.param_groups, schedule.get("_last_lr", []), strict=False):
                group["lr"] = rate
        return
    told = [{name: group[name] for name in _TOLD if name in group} for group in trainer.optimizer.param_groups]
    load(checkpoint)
    scheduler = trainer.lr_scheduler
    for place, (group, now) in enumerate(zip(trainer.optimizer.param_groups, told, strict=True)):
        changed = {name: value for name, value in now.items() if group.get(name) != value}
        for name, value in changed.items():
            logger.warning("%s of the optimizer's group %d is now %s, was %s", name, place, value, group.get(name))
        if "initial_lr" in changed and hasattr(scheduler, "base_lrs"):
            group["lr"] *= changed["initial_lr"] / group["initial_lr"] if group["initial_lr"] else 1.0
            scheduler.base_lrs[place] = changed["initial_lr"]
        group.update(changed)
        # Another length or warm-up: stock would take the old rate for one step more.
        if type(scheduler) is LambdaLR:
            group["lr"] = scheduler.base_lrs[place] * scheduler.lr_lambdas[place](scheduler.last_epoch)
    if hasattr(scheduler, "_last_lr"):
        scheduler._last_lr = [group["lr"] for group in trainer.optimizer.param_groups]


#: In an event of ``log_history``: that its step is evaluated next, which its number does not tell.
EVALUATED_NEXT = "evaluated_next"


def evaluation_is_due(state: Any, args: Any, steps_an_epoch: int) -> bool:
    """Whether the step that a run is resumed at was to be evaluated and was not: the evaluation was cut short."""
    step = state.global_step
    if step == 0 or any(entry.get("step") == step and "eval_runtime" in entry for entry in state.log_history):
        return False
    if args.eval_strategy == IntervalStrategy.EPOCH:
        return step % steps_an_epoch == 0 and args.eval_delay <= (state.epoch or 0)
    if args.eval_strategy == IntervalStrategy.STEPS:
        told = any(entry.get("step") == step and EVALUATED_NEXT in entry for entry in state.log_history)
        return told or ((step % state.eval_steps == 0 or step >= state.max_steps) and args.eval_delay <= step)
    return False
