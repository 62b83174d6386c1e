"""`transformers.TrainingArguments` with the defaults that suit training a language model.

Importing this module imports transformers and torch, which costs seconds; no other
module of `llmforge.configs` does.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from llmforge.errors import ConfigError

#: What an evaluation measures, and whether more of it is better.
EVALUATION_METRICS = {"loss": False, "perplexity": False, "bits_per_byte": False, "accuracy": True}

#: Ours and Trainer's own.
OPTIMIZERS = ("muon", *(name.value for name in OptimizerNames))
#: Learning rate of the AdamW part of Muon, as a share of --learning_rate.
MUON_ADAMW_SHARE = 0.5
#: Of every other optimizer, at every width.
ADAMW_LEARNING_RATE = 5e-4

_deferring: ContextVar[bool] = ContextVar("deferring", default=False)


@contextmanager
def deferred_process_group() -> Iterator[None]:
    """Arguments made inside start their process group at the first look at `device`, not at once.

    So data can be prepared between parsing and training, however long that takes. Look at
    `device` before a Trainer is made: `build_trainer` does.
    """
    token = _deferring.set(True)
    try:
        yield
    finally:
        _deferring.reset(token)


@dataclass
class ForgeTrainingArguments(TrainingArguments):
    """Every field of `transformers.TrainingArguments`; only these differ.

    New: `precision` (auto, fp32, bf16 or fp16; it owns `bf16` and `fp16`), `packed_attention` (auto,
    varlen, segments or mask: how packed documents are kept apart), `lean_loss` (head and cross
    entropy in chunks, the logits never held whole), `min_lr_ratio` (the floor of the cosine and of
    warmup_stable_decay, as a share of the learning rate), `decay_ratio` (the decay of
    warmup_stable_decay, as a share of all steps) and `muon_adamw_lr` (the learning rate of what Muon
    leaves to AdamW).

    Other defaults:

    - optimizer: `optim` muon, `learning_rate` by width (`choose_learning_rate`), `adam_beta2` 0.95, `weight_decay` 0.1 (on 2-D
      weights only), `lr_scheduler_type` cosine_with_min_lr, `warmup_steps` 0.02 of all steps
    - evaluation: `eval_strategy` steps, `eval_on_start`, `load_best_model_at_end` where
      there is an evaluation, `metric_for_best_model` loss
    - rhythm: `logging_steps` 10, `eval_steps` 500, `save_steps` those of the evaluation, `save_total_limit` 3
    - `report_to` tensorboard
    - correctness: `logging_nan_inf_filter` off (it hides NaN), `remove_unused_columns` off
      (packed rows are made by the collator), `restore_callback_states_from_checkpoint` on,
      `ddp_find_unused_parameters` off, `use_cpu` where there is no accelerator
    - speed, on an accelerator: batches are copied without waiting (`accelerator_config`), `tf32` on with bf16;
      torch.compile goes block by block

    Raises:
        ConfigError: Contradictory precision, or best-model keeping without evaluation.
        ValueError: Whatever `TrainingArguments` refuses.
    """

    _argument_group_name = "training (transformers.TrainingArguments)"

    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        default="auto",
        metadata={"help": "auto takes what the launcher says, else bf16 or fp16 as the device has it natively."},
    )
    packed_attention: Literal["auto", "varlen", "segments", "mask"] = field(
        default="auto",
        metadata={
            "help": "How packed documents are kept apart: varlen (one GPU kernel), segments (a call for each document) or "
            "mask (stock); auto takes varlen where it runs and gives the right numbers, else segments."
        },
    )
    min_lr_ratio: float = field(
        default=0.1, metadata={"help": "Where cosine_with_min_lr and warmup_stable_decay end, as a share of --learning_rate."}
    )
    lean_loss: bool = field(
        default=True,
        metadata={"help": "Make the loss chunk by chunk: the same loss and gradients in less memory and time."},
    )

    decay_ratio: float = field(default=0.2, metadata={"help": "The decay of warmup_stable_decay, as a share of all steps."})
    muon_adamw_lr: float | None = field(
        default=None,
        metadata={
            "help": "The learning rate of what Muon leaves to AdamW (embeddings, output head, norms, biases); by default "
            f"{MUON_ADAMW_SHARE:g} of --learning_rate."
        },
    )

    optim: str = field(  # type: ignore[assignment]
        default="muon", metadata={"help": "The optimizer: muon, or any of Trainer's own names."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "The highest learning rate, reached after warm-up; by default 0.1 / sqrt(width of the model) "
            f"with muon, {ADAMW_LEARNING_RATE:g} with others."
        },
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's beta2."})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW's weight decay, on 2-D weights only."})
    lr_scheduler_type: SchedulerType | str = field(default="cosine_with_min_lr", metadata={"help": "A schedule of transformers."})
    warmup_steps: float = field(default=0.02, metadata={"help": "Steps of warm-up; below 1, a share of all steps."})
    eval_strategy: IntervalStrategy | str = field(default="steps", metadata={"help": "When to evaluate: no, steps or epoch."})
    eval_steps: float | None = field(default=500, metadata={"help": "Evaluate every so many steps."})
    eval_on_start: bool = field(default=True, metadata={"help": "Evaluate before the first step, so that progress shows."})
    save_steps: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Save every so many steps; by default at every evaluation."}
    )
    save_total_limit: int | None = field(default=3, metadata={"help": "Checkpoints to keep."})
    load_best_model_at_end: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Keep and load the best checkpoint; by default wherever there is an evaluation."}
    )
    metric_for_best_model: str | None = field(
        default="loss", metadata={"help": f"The metric of the best checkpoint: {', '.join(EVALUATION_METRICS)}."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps."})
    report_to: list[str] = field(  # type: ignore[assignment]
        default_factory=lambda: ["tensorboard"], metadata={"help": "Trackers: tensorboard, wandb, or none."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN losses. Leave it off."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Drop columns the model does not take."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run takes what callbacks had counted from its checkpoint."}
    )
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Search unused parameters in DDP."})

    def __post_init__(self) -> None:
        self.explicit_folder = self.output_dir is not None  # type: ignore[has-type]
        self.explicit_best = self.load_best_model_at_end is True
        evaluates = str(getattr(self.eval_strategy, "value", self.eval_strategy)) != "no"
        if self.explicit_best and not evaluates:
            raise ConfigError(
                "--load_best_model_at_end needs an evaluation, and --eval_strategy is no.",
                "Give --eval_strategy steps, or leave the best model out.",
            )
        self.eval_on_start = self.eval_on_start and evaluates
        saves = str(getattr(self.save_strategy, "value", self.save_strategy)) != "no"
        if self.save_steps is None:
            self.save_steps = self.eval_steps if evaluates and self.eval_steps else 500
        self._keep_best(evaluates, saves)
        best = (self.metric_for_best_model or "").removeprefix("eval_")
        if self.greater_is_better is None and best in EVALUATION_METRICS:  # type: ignore[has-type]
            # Stock goes by the name: whatever does not end in "loss" is better when it is greater.
            self.greater_is_better = EVALUATION_METRICS[best]
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} is too small.", "Give a whole number of at least 1.")
        for name in ("learning_rate", "muon_adamw_lr", "max_grad_norm", "weight_decay", "adam_epsilon", "seed"):
            if not (getattr(self, name) or 0) >= 0:
                raise ConfigError(f"--{name} {getattr(self, name)} is negative.", "Give 0 or more.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)} is out of range.", "Give a number from 0 to below 1.")
        if self.max_steps <= 0 and (self.max_steps != -1 or self.num_train_epochs <= 0):
            name = "max_steps" if self.max_steps != -1 else "num_train_epochs"
            raise ConfigError(f"--{name} {getattr(self, name)} trains nothing.", "Give more than 0.")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ConfigError(f"--min_lr_ratio {self.min_lr_ratio} is no share.", "Give a number from 0 to 1.")
        if not 0 <= self.decay_ratio <= 1:
            raise ConfigError(f"--decay_ratio {self.decay_ratio} is no share.", "Give a number from 0 to 1.")
        if self.auto_find_batch_size:
            raise ConfigError(
                "--auto_find_batch_size would change the rows of a step, and with it the training.",
                "Give --auto_batch, which keeps the rows of a step.",
            )
        if self.enable_jit_checkpoint:
            raise ConfigError(
                "--enable_jit_checkpoint saves in the middle of a step, and over a checkpoint that is there.",
                "Leave it out: SIGTERM and Ctrl-C save a checkpoint anyway.",
            )
        if self.include_num_input_tokens_seen not in ("no", False):
            raise ConfigError(
                f"--include_num_input_tokens_seen {self.include_num_input_tokens_seen} counts what is counted already.",
                "Leave it out: tokens, tokens_per_second and useful_tokens_per_second are logged anyway.",
            )
        flagged = "bf16" if self.bf16 else "fp16" if self.fp16 else None  # type: ignore[has-type]
        if flagged and self.precision not in ("auto", flagged):
            raise ConfigError(f"--{flagged} contradicts --precision {self.precision}.", "Give --precision alone.")
        if flagged:
            self.precision = flagged  # type: ignore[assignment]
        # What a launcher's `use_cpu: true` says; stock hears it for the device and for nothing else.
        told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t")
        if told or not torch.accelerator.is_available():
            self.use_cpu = True
        elif self.accelerator_config is None and not self.use_cpu:  # type: ignore[has-type]
            # From pinned memory a batch is copied while the device still computes.
            self.accelerator_config = {"non_blocking": True}
        self._deferred = _deferring.get()
        chosen = self._optimizer_name()
        self.optim = OptimizerNames.ADAMW_TORCH_FUSED if chosen == "muon" else chosen  # stock refuses names it does not know
        super().__post_init__()
        if chosen == "muon":
            self.optim = chosen
        self.lr_scheduler_kwargs = self._schedule_settings()
        self._derived_rate: float | None = None

    def choose_learning_rate(self, width: int) -> float:
        """`learning_rate`, filled in where none was given; anew for another model or optimizer.

        Muon's is 0.1 / sqrt(width): the published 0.02 (https://github.com/KellerJordan/Muon) in the scale
        used here. It fits what was measured at widths of 128 and 256, in docs/benchmarks.md.

        Args:
            width: Of the model's hidden states.
        """
        if self.learning_rate is None or self.learning_rate == self._derived_rate:
            muons = self.optim == "muon"
            self.learning_rate = self._derived_rate = float(f"{0.1 / width**0.5:.2g}") if muons else ADAMW_LEARNING_RATE
        return self.learning_rate

    @property
    def learning_rate_follows(self) -> bool:
        """Whether `learning_rate` is what `choose_learning_rate` says, or will be."""
        return self.learning_rate is None or self.learning_rate == self._derived_rate

    def _optimizer_name(self) -> str:
        name = str(getattr(self.optim, "value", self.optim))
        if name not in OPTIMIZERS:
            close = difflib.get_close_matches(name, OPTIMIZERS, n=1, cutoff=0.4)
            raise ConfigError(
                f"--optim {name} is no optimizer.", f"Did you mean {close[0]}?" if close else f"Known: {', '.join(OPTIMIZERS)}."
            )
        return name

    def _schedule_settings(self) -> Any:
        """What the schedule takes besides its length: the floor, and the user's own ``--lr_scheduler_kwargs``, which win."""
        given: Any = self.lr_scheduler_kwargs or {}
        name = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        if name == "cosine_with_min_lr" and not {"min_lr", "min_lr_rate"} & set(given):
            return {"min_lr_rate": self.min_lr_ratio, **given}
        if name == "warmup_stable_decay":
            return {"min_lr_ratio": self.min_lr_ratio, "decay_type": "1-sqrt", **given}
        return self.lr_scheduler_kwargs

    def set_schedule(self, name: str) -> None:
        """Take another ``--lr_scheduler_type``, with the settings that it has by default."""
        self.lr_scheduler_type, self.lr_scheduler_kwargs = SchedulerType(name), None
        self.lr_scheduler_kwargs = self._schedule_settings()

    def schedule_settings(self, steps: int) -> Any:
        """The keyword arguments of ``--lr_scheduler_type`` for a training of so many optimizer steps.

        Those of `lr_scheduler_kwargs`; for warmup_stable_decay also the length of the decay, which is
        `decay_ratio` of all steps and at most what the warm-up leaves.
        """
        given: Any = self.lr_scheduler_kwargs
        if self.lr_scheduler_type != SchedulerType.WARMUP_STABLE_DECAY or "num_decay_steps" in given:
            return given
        left = max(steps - self.get_warmup_steps(steps), 0)
        decay = left - given["num_stable_steps"] if "num_stable_steps" in given else round(self.decay_ratio * steps)
        return given | {"num_decay_steps": min(max(decay, 0), left)}

    def _keep_best(self, evaluates: bool, saves: bool) -> None:
        """Keep the best checkpoint where there are evaluations to judge by and every one judged can be saved."""
        rhythms = [str(getattr(value, "value", value)) for value in (self.eval_strategy, self.save_strategy)]
        fits = rhythms[1] == "best" or rhythms[0] == rhythms[1]
        if fits and rhythms == ["steps", "steps"] and self.eval_steps and self.save_steps:
            fits = abs(self.save_steps / self.eval_steps - round(self.save_steps / self.eval_steps)) < 1e-9
        if self.load_best_model_at_end is None and evaluates and saves and not fits:
            logging.getLogger("llmforge").warning(
                "final/ will hold the last model, not the best: saving (%s) does not fall on evaluations (%s)",
                f"--save_steps {self.save_steps}" if rhythms[1] == "steps" else f"--save_strategy {rhythms[1]}",
                f"--eval_steps {self.eval_steps}" if rhythms[0] == "steps" else f"--eval_strategy {rhythms[0]}",
            )
        if self.explicit_best and saves and not fits:
            raise ConfigError(
                f"--load_best_model_at_end needs saves that fall on evaluations: --eval_strategy {rhythms[0]} (--eval_steps "
                f"{self.eval_steps}) and --save_strategy {rhythms[1]} (--save_steps {self.save_steps}) do not meet.",
                "Leave --save_steps out to save at every evaluation, or give a multiple of --eval_steps.",
            )
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = evaluates and saves and fits

    @property
    def device(self) -> torch.device:
        """The device of this process; the first look starts the process group of a distributed run."""
        if self.__dict__.pop("_deferred", False):
            return torch.device("meta")  # TrainingArguments' own look, at the end of its __post_init__
        return super().device

    def without_evaluation(self) -> None:
        """Switch evaluation off, and best-model keeping with it, where there is nothing to evaluate on.

        Raises:
            ConfigError: The best model was asked for by the user.
        """
        if self.explicit_best:
            raise ConfigError(
                "--load_best_model_at_end needs validation data, and there is none.",
                "Give the validation split a share, e.g. --split_ratios 0.9,0.1,0.",
            )
        self.eval_strategy = IntervalStrategy.NO
        self.eval_on_start = self.load_best_model_at_end = False
