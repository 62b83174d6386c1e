"""Which models to evaluate, on what text or rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from llmforge.configs.data import DataArguments
from llmforge.configs.source import Source, SourceSettings
from llmforge.errors import ConfigError


@dataclass
class EvaluationArguments(SourceSettings):
    """A model, or several, and what to evaluate them on.

    Raises:
        ConfigError: Settings that do not go together.
    """

    _argument_group_name = "evaluation"

    model: str | None = field(
        default=None,
        metadata={"help": "Model folder (final/ of a run, a checkpoint, a LoRA adapter), a run's folder, or a hub id."},
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model an adapter was trained on, where it does not lie where the adapter says."}
    )
    compare: list[str] = field(
        default_factory=list,
        metadata={"help": "Two or more models instead of --model: each is compared with the first, on the same text or rows."},
    )
    dataset_dir: str | None = field(default=None, metadata={"help": "A dataset that `llmforge prepare` made."})
    split: Literal["train", "validation", "test"] = field(
        default="test", metadata={"help": "The split of --dataset_dir, or of a folder given as --test_file."}
    )
    corpus: list[str] = field(
        default_factory=list, metadata={"help": "Files or folders of text, instead of --dataset_dir; each is a source."}
    )
    source: list[str] = field(
        default_factory=list,
        metadata={"help": "A source as `llmforge prepare` takes it: format=text,path=FOLDER,…; may be given again."},
    )
    test_file: str | None = field(
        default=None,
        metadata={
            "help": "Rows of a task, instead of text: JSON lines, JSON or CSV, or a folder that `llmforge convert` made. The "
            "model answers each, and is scored on the answers too."
        },
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "What the rows are for: a task file, completion, qa or chat; by default the one saved beside the rows or "
            "the model, or what the first row tells."
        },
    )
    lm_eval: list[str] = field(
        default_factory=list,
        metadata={"help": "Tasks of lm-eval, by name or as a YAML file, beside the text or alone; needs the extra lm-eval."},
    )
    samples: int = field(default=2, metadata={"help": "Held-out prompts that are completed in each of --strategies."})
    stride: int | None = field(
        default=None,
        metadata={
            "help": "Slide a window over documents longer than the context by so many tokens; by default they are cut into "
            "pieces, as in training. Smaller is slower and gives each token more context."
        },
    )
    block_size: int | None = field(
        default=None,
        metadata={"help": "The context in tokens; by default that of the dataset, else what the model was trained on."},
    )
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Rows at a time; changes no figure."})
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(
        default="fp32", metadata={"help": "What the model computes in; auto is what it would be trained in."}
    )
    prepare_workers: int | None = field(
        default=None, metadata={"help": "Processes that read and clean; by default the cores there are."}
    )
    output: str | None = field(
        default=None, metadata={"help": "The JSON file to write; by default eval.json in the model's folder, see the docs."}
    )
    json: bool = field(default=False, metadata={"help": "Print the result as one JSON object and nothing else."})

    def __post_init__(self) -> None:
        super().__post_init__()
        texts = {
            "--dataset_dir": self.dataset_dir,
            "--corpus or --source": self.corpus or self.source,
            "--test_file": self.test_file,
        }
        given = [name for name, value in texts.items() if value]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are both given.", "Give one of them.")
        if self.model is not None and self.compare:
            raise ConfigError(f"--model {self.model} and --compare are both given.", "Give one of them.")
        if len(self.compare) == 1 or len(set(self.compare)) < len(self.compare):
            raise ConfigError(f"--compare {' '.join(self.compare)}: there is nothing to compare.", "Give two models or more.")
        for flag, value, needed in (("--task", self.task, "--test_file"), ("--stride", self.stride, "text")):
            if value is not None and (self.test_file is None) == (needed == "--test_file"):
                raise ConfigError(f"{flag} {value} goes with {needed} only.", f"Leave it out, or give {needed}.")
        if self.compare and (self.base_model is not None or self.lm_eval):
            flag = f"--base_model {self.base_model}" if self.base_model is not None else f"--lm_eval {' '.join(self.lm_eval)}"
            raise ConfigError(f"{flag} goes with --model only.", "Leave it out, or evaluate one model at a time.")
        if self.samples < 0:
            raise ConfigError(f"--samples {self.samples} is negative.", "Give 0 for none.")
        for name in ("stride", "block_size", "per_device_eval_batch_size", "prepare_workers"):
            value = getattr(self, name)
            if value is not None and value < (2 if name == "block_size" else 1):
                raise ConfigError(
                    f"--{name} {value} is too small.", "Give at least 2." if name == "block_size" else "Give at least 1."
                )
        self.data().sources()

    def data(self) -> DataArguments:
        """The text as `llmforge prepare` takes it."""
        settings = {item.name: getattr(self, item.name) for item in dataclasses.fields(SourceSettings)}
        return DataArguments(
            source=[*({"path": path} for path in self.corpus), *self.source],  # type: ignore[list-item]  # mappings, as in YAML
            dedup="off",
            prepare_workers=self.prepare_workers,
            **settings,
        )

    @property
    def has_text(self) -> bool:
        """Whether text or rows are given."""
        return bool(self.dataset_dir or self.corpus or self.source or self.test_file)

    def sources(self) -> list[Source]:
        """Each of the sources."""
        return self.data().sources()
