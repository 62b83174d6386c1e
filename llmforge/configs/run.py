"""What belongs to one run rather than to the training: stopping, resuming, looking without training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.configs.data import DataArguments
from llmforge.configs.deadline import DeadlineArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.remote import RemoteArguments, refuse_secrets
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.errors import ConfigError

if TYPE_CHECKING:
    from llmforge.configs.training import ForgeTrainingArguments


@dataclass
class RunArguments:
    """Settings of a run.

    Raises:
        ConfigError: Early stopping that would stop at once; a URL with a password in it.
    """

    _argument_group_name = "run"

    resume: str | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "newest",
            "help": "Go on from the newest checkpoint of --output_dir, or from exactly the one named.",
        },
    )
    eval_only: bool = field(
        default=False,
        metadata={
            "help": "Train nothing: evaluate final/ of --output_dir, or the checkpoint that --resume names, on held-out data."
        },
    )
    auto_batch: bool = field(
        default=False,
        metadata={
            "help": "Take the largest micro-batch that fits, and half of it where memory runs out later; the rows of a step, "
            "--per_device_train_batch_size times --gradient_accumulation_steps, stay."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": 5,
            "help": "Stop after so many evaluations without an improvement; 5 if no number is given, off without the flag.",
        },
    )
    early_stopping_metric: str = field(
        default="loss", metadata={"help": "What has to improve: loss, perplexity, bits_per_byte or accuracy."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "An improvement is one by more than this, in the metric's own unit."}
    )
    histogram_steps: int | None = field(
        default=None,
        metadata={"help": "Histograms of parameters and gradients into the trackers every so many steps; off if not given."},
    )
    html_report: bool = field(
        default=True, metadata={"help": "Write report.html, the page of llmforge report, at every evaluation and at the end."}
    )

    def __post_init__(self) -> None:
        if self.resume is not None and "://" in self.resume:
            refuse_secrets(self.resume, "--resume")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ConfigError(f"--early_stopping_patience {self.early_stopping_patience} would stop at once.", "Give at least 1.")
        if not (math.isfinite(self.early_stopping_threshold) and self.early_stopping_threshold >= 0):
            raise ConfigError(f"--early_stopping_threshold {self.early_stopping_threshold} cannot be.", "Give 0 or more.")
        if self.early_stopping_patience is None:
            for name in ("early_stopping_metric", "early_stopping_threshold"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ConfigError(
                        f"--{name} {getattr(self, name)} has no effect without a patience.", "Give --early_stopping_patience too."
                    )
        if self.histogram_steps is not None and self.histogram_steps < 1:
            raise ConfigError(f"--histogram_steps {self.histogram_steps} is too small.", "Give at least 1, or leave it out.")


@dataclass
class RunConfig:
    """What every training run is made of.

    Attributes:
        name: What a new run folder is called after, ``<recipe>-<config>``.
        dry_run: Describe the run and train nothing.
        checked: Whether `check_config` has seen it; `prepare_run` sees to that.
    """

    training: ForgeTrainingArguments
    tokenizer: TokenizerArguments = field(default_factory=TokenizerArguments)
    data: DataArguments = field(default_factory=DataArguments)
    generation: GenerationArguments = field(default_factory=GenerationArguments)
    run: RunArguments = field(default_factory=RunArguments)
    checkpoint: CheckpointArguments = field(default_factory=CheckpointArguments)
    remote: RemoteArguments = field(default_factory=RemoteArguments)
    deadline: DeadlineArguments = field(default_factory=DeadlineArguments)
    name: str = "pretrain"
    dry_run: bool = False
    checked: bool = False


@dataclass
class PretrainConfig(RunConfig):
    """All that one pretraining run is made of; made by `llmforge.parse_pretrain` or by hand."""

    model: ModelArguments = field(default_factory=ModelArguments)
