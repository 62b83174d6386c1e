"""Text that a model wrote during its training, and how much of it is held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmforge.viewing.text import all_shown, one_line, shown

#: Samples of a run that are held at most: a report shows fewer, and a monitor looks on for days.
MOST_SAMPLES = 2000


@dataclass(frozen=True)
class Sample:
    """Text the model wrote.

    Attributes:
        step: When.
        prompt: What it was given.
        strategy: ``greedy``, ``sampled``, …
        text: What it wrote.
        settings: Of the sampling.
        final: Whether the finished model wrote it.
    """

    step: int
    prompt: str
    strategy: str
    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    final: bool = False


def with_samples(held: list[Sample], lines: Iterable[Mapping[str, Any]]) -> list[Sample]:
    """`held` with those of new lines of ``samples.jsonl``; the very list where there are none.

    Of more than `MOST_SAMPLES` every step's are kept or left out together: the first, the newest, and evenly spread ones
    between.
    """
    found = held
    for line in lines:
        sample = _sample(line)
        if sample is not None:
            found = [*held] if found is held else found
            found.append(sample)
            if len(found) > 2 * MOST_SAMPLES:
                found = _spread(found)
    return found if len(found) <= MOST_SAMPLES else _spread(found)


def _sample(line: Mapping[str, Any]) -> Sample | None:
    step, settings = line.get("step"), line.get("settings")
    if isinstance(step, bool) or not isinstance(step, int) or not isinstance(line.get("text"), str):
        return None
    return Sample(
        step=step,
        prompt=shown(str(all_shown(line.get("prompt", ""))), 4000),
        strategy=one_line(str(all_shown(line.get("strategy", "")))),
        text=shown(line["text"]),
        settings=all_shown(settings) if isinstance(settings, dict) else {},
        final=line.get("final") is True,
    )


def _spread(samples: list[Sample]) -> list[Sample]:
    groups: dict[tuple[int, bool], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.step, sample.final), []).append(sample)
    while sum(map(len, groups.values())) > MOST_SAMPLES and len(groups) > 2:
        first, *_, last = groups
        apart = 2 * (last[0] - first[0]) / (len(groups) - 1)
        kept = [first]
        for at in groups:
            if at == last or (abs(at[0] - kept[-1][0]) >= apart and last[0] - at[0] >= apart / 2):
                kept.append(at)
        # Where they crowd at a few steps that does not leave enough out.
        kept = kept if len(kept) < len(groups) else [*kept[:-1:2], last]
        groups = {at: groups[at] for at in kept}
    return [sample for group in groups.values() for sample in group][-MOST_SAMPLES:]
