"""What a model answers to the rows of a task: several at a time, each process its share, the same however they are cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from llmforge.configs.generation import GenerationArguments
from llmforge.runtime.launch import rank, world_size
from llmforge.sampling.completions import Completion, continue_batch, continue_ids

if TYPE_CHECKING:
    from llmforge.pretrained.loading import Pretrained

#: Settings that are told with the answers; of those that sample the first three, too.
_SAMPLING, _SETTINGS = ("temperature", "top_p", "top_k"), ("max_new_tokens", "num_beams", "stop_strings")


def answer_prompts(
    found: Pretrained, prompts: Sequence[list[int]], args: GenerationArguments, batch_size: int, seed: int = 0
) -> list[Completion]:
    """Go on from each prompt.

    Under a launcher every process calls it with the same prompts, makes its share, and has all of them in the end.

    Args:
        found: Its model is where it shall run.
        prompts: Ids, each with the token that documents start with; what leaves no room for a token is not answered.
        args: Greedy, beams or sampling; what is sampled is made one by one, each prompt with a seed of its own.
        batch_size: Prompts at a time; changes nothing beyond rounding.
        seed: Of the first prompt; each further one has the next.
    """
    mine = list(range(rank(), len(prompts), world_size()))
    made: dict[int, Completion] = {}
    with tqdm(total=len(mine), desc="answering", unit="row", disable=not sys.stderr.isatty(), leave=False) as bar:
        for batch in _batches(found, prompts, mine, args, batch_size):
            if len(batch) == 1:
                ids = prompts[batch[0]]
                made[batch[0]] = continue_ids(found.model, found.tokenizer, ids, args, seed + batch[0])
            else:
                several = [prompts[place] for place in batch]
                made |= dict(zip(batch, continue_batch(found.model, found.tokenizer, several, args), strict=True))
            bar.update(len(batch))
    if world_size() > 1:
        from accelerate.utils import gather_object

        made = dict(gather_object(list(made.items())))
    return [made[place] for place in range(len(prompts))]


def _batches(
    found: Pretrained, prompts: Sequence[list[int]], places: Sequence[int], args: GenerationArguments, size: int
) -> list[list[int]]:
    """Which prompts are answered together: those of like length that leave all the room which the settings want."""
    if args.samples:
        return [[place] for place in places]
    room = int(found.model.config.max_position_embeddings) - args.max_new_tokens
    ordered = sorted(places, key=lambda place: len(prompts[place]))
    together = [place for place in ordered if len(prompts[place]) <= room]
    alone = [[place] for place in ordered[len(together) :]]
    return [together[start : start + size] for start in range(0, len(together), size)] + alone


def told_settings(args: GenerationArguments) -> dict[str, Any]:
    """The settings that answers were made with, for reports."""
    names = (*_SETTINGS, *(_SAMPLING if args.samples else ()))
    return {"strategy": args.strategy, **{name: value for name, value in asdict(args).items() if name in names}}
