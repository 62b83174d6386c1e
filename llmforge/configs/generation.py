"""How text is sampled from a model; the names are those of `transformers.GenerationConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmforge.errors import ConfigError


@dataclass
class GenerationArguments:
    """Prompts and sampling settings.

    Raises:
        ConfigError: A temperature, top-p or length that no sampler can use.
    """

    _argument_group_name = "generation"

    prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "Completed at every evaluation and at the end; an empty list samples nothing."},
    )
    max_new_tokens: int = field(default=200, metadata={"help": "Longest completion, in tokens."})
    do_sample: bool = field(default=True, metadata={"help": "Sample; otherwise take the likeliest token."})
    temperature: float = field(default=0.8, metadata={"help": "Below 1 sharpens the distribution, above 1 flattens it."})
    top_p: float = field(default=0.95, metadata={"help": "Sample from the likeliest tokens of this total probability."})

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"--max_new_tokens {self.max_new_tokens} is too small.", "Give at least 1.")
        if self.temperature <= 0:
            raise ConfigError(f"--temperature {self.temperature} is not above 0.", "For greedy decoding give --no-do_sample.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top_p {self.top_p} is no probability.", "Give a number above 0 and up to 1.")
