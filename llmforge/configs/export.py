"""What to export, to where, and how it is checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llmforge.errors import ConfigError


@dataclass
class ExportArguments:
    """A model folder and the file it becomes.

    Raises:
        ConfigError: Something is not given, or does not go together.
    """

    _argument_group_name = "export"

    model: str | None = field(
        default=None,
        metadata={"help": "Model folder (final/ of a run, a checkpoint, a LoRA adapter), a run's folder, or a hub id."},
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model an adapter was trained on, where it does not lie where the adapter says."}
    )
    format: Literal["gguf", "safetensors"] = field(
        default="gguf", metadata={"help": "gguf: one file, for llama.cpp and Ollama; safetensors: a folder, for the rest."}
    )
    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = field(
        default="auto",
        metadata={"help": "How matrices are kept; auto is f16 for gguf and f32 for safetensors, which has no q8_0."},
    )
    output: str | None = field(default=None, metadata={"help": "The file (gguf) or the folder (safetensors) to write."})
    name: str | None = field(default=None, metadata={"help": "What the model is called; by default as its run is."})
    license: str | None = field(
        default=None, metadata={"help": "The model's licence, e.g. apache-2.0; by default what its README.md says."}
    )
    verify: bool = field(default=True, metadata={"help": "Open what was written by its reader and compare it with the model."})
    verify_only: bool = field(default=False, metadata={"help": "Check the --output that is there; write nothing."})
    verify_corpus: str | None = field(
        default=None, metadata={"help": "A text file whose lines are compared, instead of those that llmforge ships."}
    )
    json: bool = field(default=False, metadata={"help": "Print the result as one JSON object and nothing else."})

    def __post_init__(self) -> None:
        if self.format == "safetensors" and self.dtype == "q8_0":
            raise ConfigError("--dtype q8_0 is llama.cpp's own.", "Give f32, f16 or bf16 with --format safetensors.")
        if self.verify_only and not self.verify:
            raise ConfigError("--verify_only with --no-verify does nothing.", "Give one of them.")
        if self.dtype == "auto":
            self.dtype = "f16" if self.format == "gguf" else "f32"
        if self.verify_corpus is not None and not self.verify:
            raise ConfigError(f"--verify_corpus {self.verify_corpus} has no effect with --no-verify.", "Leave one out.")
