"""Which model to evaluate, on what text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from llmforge.configs.data import DataArguments
from llmforge.configs.source import Source, SourceSettings
from llmforge.errors import ConfigError


@dataclass
class EvaluationArguments(SourceSettings):
    """A model and a text.

    Raises:
        ConfigError: No model or no text, or settings that do not go together.
    """

    _argument_group_name = "evaluation"

    model: str | None = field(
        default=None,
        metadata={"help": "Model folder (final/ of a run, a checkpoint, a LoRA adapter), a run's folder, or a hub id."},
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model an adapter was trained on, where it does not lie where the adapter says."}
    )
    dataset_dir: str | None = field(default=None, metadata={"help": "A dataset that `llmforge prepare` made."})
    split: Literal["train", "validation", "test"] = field(default="test", metadata={"help": "The split of --dataset_dir."})
    corpus: list[str] = field(
        default_factory=list, metadata={"help": "Files or folders of text, instead of --dataset_dir; each is a source."}
    )
    source: list[str] = field(
        default_factory=list,
        metadata={"help": "A source as `llmforge prepare` takes it: format=text,path=FOLDER,…; may be given again."},
    )
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
        if self.dataset_dir is not None and (self.corpus or self.source):
            raise ConfigError(f"--dataset_dir {self.dataset_dir} and --corpus or --source are both given.", "Give one of them.")
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

    def sources(self) -> list[Source]:
        """Each of the sources."""
        return self.data().sources()
