"""How fast it goes, how well the device is used, and when it will be done."""

from __future__ import annotations

import time
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.models import flops_per_token
from llmforge.runtime.devices import device_load, peak_flops


class Throughput(TrainerCallback):
    """Adds rates and device figures to every event of training loss; works with a plain `Trainer` too.

    - ``tokens_per_second``: positions that went through the model, padding included, in all processes
    - ``useful_tokens_per_second``: targets that were predicted
    - ``mfu``: model FLOPs utilisation, by `flops_per_token` and the device's peak, where that is known
    - ``eta_seconds``: at the pace so far, evaluations and saves included
    - ``device_memory``, ``device_memory_peak`` (bytes), ``device_utilization`` (percent) and, on a GPU,
      ``device_temperature`` (degrees Celsius), as `device_load`

    The time of evaluations and saves is left out of the rates. The figures go into the event
    itself and into the Trainer's ``log_history``; callbacks that stand behind this one see
    them, so `build_trainer` puts it first. A plain Trainer counts tokens, all or useful ones,
    when `include_num_input_tokens_seen` tells it to; without that there are no rates of tokens.

    Args:
        tokens_per_step: Positions of one optimizer step in all processes; by default what the Trainer counts.
        block_size: Length of the rows, for the attention's share of the FLOPs; 0 leaves it out.
    """

    def __init__(self, tokens_per_step: int | None = None, block_size: int = 0):
        self.tokens_per_step = tokens_per_step
        self.block_size = block_size
        self._flops: float | None = None
        self._peak: float | None = None
        self._session: tuple[float, int] | None = None  # when the first step began, and which
        self._since = (0, 0)  # step and useful tokens at the last event
        self._busy = 0.0  # seconds of training since the last event, up to the last pause
        self._mark = 0.0  # when training went on after that
        self._step_end = 0.0
        self._paused = True

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        self._session, self._busy, self._paused = None, 0.0, True
        self._since = (state.global_step, state.num_input_tokens_seen)
        self._flops = flops_per_token(model, self.block_size) if model is not None else None
        # A plain Trainer under a launcher leaves bf16 and fp16 off and has it here.
        mixed = getattr(args, "mixed_precision", None)
        precision = "bf16" if args.bf16 else "fp16" if args.fp16 else mixed if mixed in ("bf16", "fp16") else "fp32"
        # TF32 is a third rate, which the table does not have.
        peak = None if precision == "fp32" and args.tf32 else peak_flops(precision, use_cpu=args.use_cpu)
        self._peak = peak * args.world_size if peak else None
        device_load(args.use_cpu)  # utilisation is counted from one call to the next

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._session is None:
            self._session = time.perf_counter(), state.global_step
        if self._paused:
            self._mark, self._paused = time.perf_counter(), False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step_end = time.perf_counter()

    def _pause(self) -> None:
        if not self._paused:
            self._busy += max(self._step_end - self._mark, 0.0)
            self._paused = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._pause()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._pause()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or self._session is None:
            return
        now = time.perf_counter()
        seconds = self._busy + (0.0 if self._paused else now - self._mark)
        steps, useful = state.global_step - self._since[0], state.num_input_tokens_seen - self._since[1]
        figures = self._rates(steps, useful, seconds, args) if seconds > 0 and steps > 0 else {}
        began, first = self._session
        if state.max_steps and state.global_step > first:
            left = state.max_steps - state.global_step
            figures["eta_seconds"] = round((now - began) / (state.global_step - first) * left, 1)
        figures |= device_load(args.use_cpu)
        logs.update(figures)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(figures)
        self._since = (state.global_step, state.num_input_tokens_seen)
        # An evaluation or a save may follow; `_pause` then counts from here.
        self._busy, self._mark, self._step_end = 0.0, now, now

    def _rates(self, steps: int, counted: int, seconds: float, args: TrainingArguments) -> dict[str, Any]:
        useful_only = self.tokens_per_step is not None or args.include_num_input_tokens_seen == "non_padding"
        tokens = steps * self.tokens_per_step if self.tokens_per_step is not None else counted
        figures: dict[str, Any] = {}
        if tokens:
            figures["tokens_per_second"] = round(tokens / seconds, 1)
        if counted and useful_only:
            figures["useful_tokens_per_second"] = round(counted / seconds, 1)
        if tokens and self._flops and self._peak:
            figures["mfu"] = round(tokens / seconds * self._flops / self._peak, 4)
        return figures
