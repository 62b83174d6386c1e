"""From which model a fine-tuning starts, and on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmforge.configs.lora import LoraArguments
from llmforge.configs.run import RunConfig
from llmforge.configs.tokenizer import END_OF_TEXT, PAD
from llmforge.errors import ConfigError

#: Where a model's config keeps its dropout, by architecture.
DROPOUTS = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "gpt_neox": ("hidden_dropout", "attention_dropout")}


@dataclass
class FinetuneArguments:
    """The model to start from and the rows of a task.

    Raises:
        ConfigError: An impossible dropout or token.
    """

    _argument_group_name = "fine-tuning"

    from_pretrained: str | None = field(
        default=None,
        metadata={
            "help": "The model to start from: a run's folder, its final/, a checkpoint, any GPT-2 or GPT-NeoX folder, a hub id."
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={
            "help": "Take only shape and tokenizer from --from_pretrained and draw all weights anew: the control that says what "
            "the pretraining was worth."
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={"help": "Rows to train on: JSON lines, JSON or CSV, or a folder that `llmforge convert` made."},
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Rows to evaluate on; by default some of --train_file, as --split_ratios says."}
    )
    test_file: str | None = field(default=None, metadata={"help": "Rows that the finished model is scored on."})
    task: str | None = field(
        default=None,
        metadata={
            "help": "What the rows are for: a task file, completion, qa or chat; by default the one saved beside the rows or "
            "the model, or what the first row tells."
        },
    )
    completion_only: bool = field(default=True, metadata={"help": "Learn what the model is to write, and not the prompts."})
    add_tokens: list[str] = field(
        default_factory=list, metadata={"help": "Tokens of your own that the model's tokenizer does not have yet: <PART> <CODE>."}
    )
    dropout: float | None = field(
        default=None, metadata={"help": "Dropout everywhere in the model; by default what it was saved with."}
    )

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(f"--dropout {self.dropout} is no dropout.", "Give a number from 0 to below 1.")
        for token in self.add_tokens:
            if not token.strip() or token in (END_OF_TEXT, PAD) or self.add_tokens.count(token) > 1:
                raise ConfigError(
                    f"--add_tokens {token!r} is empty, given twice or one of the library's own.", "Name each of your own once."
                )


@dataclass
class FinetuneConfig(RunConfig):
    """All that one fine-tuning run is made of; made by `llmforge.parse_finetune` or by hand.

    Attributes:
        base: The Hugging Face config that the model will have; `check_finetune` fills it in.
        given: Names of the settings that were given; of the others some follow from model and task.
    """

    finetune: FinetuneArguments = field(default_factory=FinetuneArguments)
    lora: LoraArguments = field(default_factory=LoraArguments)
    base: Any = None
    given: set[str] = field(default_factory=set)
