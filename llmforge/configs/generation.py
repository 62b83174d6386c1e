"""How text is sampled from a model; the names are those of `transformers.GenerationConfig`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from llmforge.errors import ConfigError

_GREEDY = "greedy"
#: Below it logits divided by the temperature overflow.
_COLDEST = 1e-3
#: What a strategy may set.
_SETTINGS: dict[str, Callable[[str], Any]] = {"temperature": float, "top_p": float, "top_k": int, "num_beams": int}


@dataclass
class GenerationArguments:
    """Prompts and sampling settings.

    Raises:
        ConfigError: A temperature, top-p, top-k, length or strategy that no sampler can use.
    """

    _argument_group_name = "generation"

    prompts: list[str] = field(
        default_factory=list,
        metadata={"help": "Texts to go on from: in training at every evaluation and at the end; an empty list samples nothing."},
    )
    max_new_tokens: int = field(default=200, metadata={"help": "Longest completion, in tokens."})
    do_sample: bool = field(default=True, metadata={"help": "Sample; otherwise take the likeliest token."})
    temperature: float = field(default=0.8, metadata={"help": "Below 1 sharpens the distribution, above 1 flattens it."})
    top_p: float = field(default=0.95, metadata={"help": "Sample from the likeliest tokens of this total probability."})
    top_k: int = field(default=0, metadata={"help": "Sample from so many of the likeliest tokens; 0 is all of them."})
    num_beams: int = field(
        default=1, metadata={"help": "Instead of sampling search for the likeliest text, with so many beams; 1 is no search."}
    )
    stop_strings: list[str] = field(
        default_factory=list, metadata={"help": "A completion ends where one of these comes up, and without it."}
    )
    strategies: list[str] = field(
        default_factory=lambda: [_GREEDY, "temperature=0.8,top_p=0.95", "temperature=1.0,top_k=40"],
        metadata={
            "help": "How each prompt is completed at evaluations: greedy, num_beams=4, or settings like "
            "temperature=0.8,top_p=0.95,top_k=40; an empty list takes the settings above alone."
        },
    )

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"--max_new_tokens {self.max_new_tokens} is too small.", "Give at least 1.")
        if not (math.isfinite(self.temperature) and self.temperature >= _COLDEST):
            raise ConfigError(
                f"--temperature {self.temperature} is not a number from {_COLDEST} up.",
                "For greedy decoding give --no-do_sample.",
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top_p {self.top_p} is no probability.", "Give a number above 0 and up to 1.")
        if self.top_k < 0:
            raise ConfigError(f"--top_k {self.top_k} is negative.", "Give 0 for all tokens.")
        if self.num_beams < 1:
            raise ConfigError(f"--num_beams {self.num_beams} is too small.", "Give at least 1.")
        if "" in self.stop_strings:
            raise ConfigError("--stop_strings '' would stop at once.", "Give text, or leave it out.")
        for name in self.strategies:
            _strategy(name)

    @property
    def samples(self) -> bool:
        """Whether chance has a part in what comes out."""
        return self.do_sample and self.num_beams == 1

    @property
    def strategy(self) -> str:
        """What these settings are called where no strategies are given."""
        return f"num_beams={self.num_beams}" if self.num_beams > 1 else "sampled" if self.do_sample else _GREEDY

    def by_strategy(self) -> dict[str, GenerationArguments]:
        """The settings of each of `strategies`, by its name, without strategies of their own."""
        own = replace(self, strategies=[])
        if not self.strategies:
            return {self.strategy: own}
        return {name: replace(own, **_strategy(name)) for name in self.strategies}


def _strategy(name: str) -> dict[str, Any]:
    """``temperature=0.8,top_p=0.95`` as the fields it sets; what it does not name is neutral."""
    if name == _GREEDY:
        return {"do_sample": False, "num_beams": 1}
    fields: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "num_beams": 1}
    for part in name.split(","):
        key, _, value = part.partition("=")
        try:
            fields[key.strip()] = _SETTINGS[key.strip()](value)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--strategies {name}: {part!r} is no setting.",
                "Write greedy, num_beams=4, or settings like temperature=0.8,top_p=0.95.",
            ) from None
    if "num_beams" in name and ("," in name or fields["num_beams"] < 2):
        raise ConfigError(f"--strategies {name}: beams search alone, and two or more of them.", "Write num_beams=4.")
    fields["do_sample"] = "num_beams" not in name
    try:
        GenerationArguments(**fields, strategies=[])  # refuses impossible values
    except ConfigError as error:
        raise ConfigError(f"--strategies {name}: {error.problem}", "Write greedy, or possible settings.") from None
    return fields


@dataclass
class GenerateArguments:
    """A model and what it is given.

    Raises:
        ConfigError: Ways to give prompts that do not go together.
    """

    _argument_group_name = "generate"

    model: str | None = field(
        default=None,
        metadata={"help": "Model folder (final/ of a run, a checkpoint, a LoRA adapter), a run's folder, or a hub id."},
    )
    base_model: str | None = field(
        default=None, metadata={"help": "The model an adapter was trained on, where it does not lie where the adapter says."}
    )
    prompt: str | None = field(
        default=None, metadata={"help": "A text to go on from; - is standard input, which is read where no prompt is given."}
    )
    prompt_file: str | None = field(
        default=None, metadata={"help": "A prompt a line; of a .jsonl file, the field prompt of each line."}
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "What the model was trained for: a task file, completion, qa or chat; by default the one beside the model. "
            "A chat takes a prompt as what the user says; completion takes it as it stands."
        },
    )
    output: str | None = field(default=None, metadata={"help": "Write completions to this file, a JSON object a line."})
    interactive: bool = field(default=False, metadata={"help": "Type prompts one after the other; /help says what else."})
    seed: int = field(default=0, metadata={"help": "Same seed, same text on the same device; each prompt has the next one."})
    json: bool = field(default=False, metadata={"help": "Print a JSON object a completion and nothing else."})
    # The last one: from here on the name is this one's.
    field: list[str] = field(
        default_factory=list, metadata={"help": "A field of the task, name=value; give the flag again for each."}
    )

    def __post_init__(self) -> None:
        given = [name for name in ("prompt", "prompt_file") if getattr(self, name) is not None]
        if len(given) == 2 or (self.interactive and given):
            other = "--interactive" if self.interactive else "--prompt"
            raise ConfigError(f"--{given[-1]} {getattr(self, given[-1])} does not go with {other}.", "Give one of them.")
        if self.interactive and (self.output is not None or self.json):
            raise ConfigError("--interactive does not go with --output or --json.", "Write what was said with /save FILE.")
        if self.field and (given or self.interactive):
            other = "--interactive" if self.interactive else f"--{given[0]}"
            raise ConfigError(f"--field {self.field[0]} does not go with {other}.", "The fields make the prompt.")
