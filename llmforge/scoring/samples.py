"""Held-out prompts and what a model makes of them by several strategies, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmforge.configs.generation import GenerationArguments
from llmforge.sampling.completions import continue_ids, encode_prompt
from llmforge.scoring.rows import EncodedRows, TestRows
from llmforge.scoring.text import EvaluationText

if TYPE_CHECKING:
    from llmforge.pretrained.loading import Pretrained

#: How a prompt is completed where nothing else is said.
STRATEGIES = ("greedy", "temperature=0.8", "top_p=0.9", "num_beams=4")
#: Tokens of a completion of text, where nothing else is said.
SAMPLE_TOKENS = 48
#: Tokens that a document is cut into prompt and continuation at, at most; a shorter one at its half.
_PROMPT = 32


@dataclass
class SamplePrompt:
    """A held-out prompt.

    Attributes:
        ids: With the token that documents start with.
        text: The same to read.
        reference: What really follows, as far as completions go; of a prompt that the user gave, nothing.
    """

    ids: list[int]
    text: str
    reference: str = ""


@dataclass
class Sample:
    """A prompt and what came of it.

    Attributes:
        prompt: Its text.
        reference: What really follows.
        completions: By strategy.
    """

    prompt: str
    reference: str
    completions: dict[str, str] = field(default_factory=dict)


def spread(count: int, most: int) -> list[int]:
    """At most so many of so many places, evenly."""
    return list(range(count)) if count <= most else [number * count // most for number in range(most)]


def given_prompts(found: Pretrained, prompts: Sequence[str]) -> list[SamplePrompt]:
    """Prompts that the user gave, each of which leaves room for a completion."""
    return [SamplePrompt(encode_prompt(prompt, found.tokenizer), prompt) for prompt in prompts]


def text_prompts(found: Pretrained, text: EvaluationText, args: GenerationArguments, most: int) -> list[SamplePrompt]:
    """The beginnings of some documents, from all over the text."""
    start = found.tokenizer.bos_token_id
    long_enough = [ids for ids in text.documents if len(ids) > 1]
    made = []
    for place in spread(len(long_enough), most):
        ids = long_enough[place]
        border = min(_PROMPT, len(ids) // 2, found.context - 1)
        prompt, rest = ids[:border].tolist(), ids[border : border + args.max_new_tokens].tolist()
        made.append(SamplePrompt([start, *prompt], found.tokenizer.decode(prompt), found.tokenizer.decode(rest)))
    return made


def row_prompts(found: Pretrained, given: TestRows, encoded: EncodedRows, most: int) -> list[SamplePrompt]:
    """What is asked in some of the rows, from all over them."""
    ids, references = encoded.prompts(found.tokenizer.bos_token_id), given.references()
    places = spread(len(ids), most)
    return [SamplePrompt(ids[place], found.tokenizer.decode(ids[place][1:]), references[place]) for place in places]


def sample_prompts(found: Pretrained, prompts: Sequence[SamplePrompt], args: GenerationArguments, seed: int = 0) -> list[Sample]:
    """Complete each prompt by each strategy.

    Args:
        found: Its model is where it shall run.
        prompts: One that leaves no room for a token has empty completions.
        args: Strategies, length and stop strings.
        seed: Of the first prompt; each further one has the next.
    """
    samples = []
    for number, prompt in enumerate(prompts):
        sample = Sample(prompt.text, prompt.reference)
        for strategy, settings in args.by_strategy().items():
            made = continue_ids(found.model, found.tokenizer, prompt.ids, settings, seed + number)
            sample.completions[strategy] = made.text
        samples.append(sample)
    return samples
