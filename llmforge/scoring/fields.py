"""An answer taken apart into the fields of its task, by the template that completions are written with.

What the template writes between the fields of a row is found by rendering it with a mark in place of each value. An answer is
then read from left to right: a field ends where what follows it in the template comes up first. Runs of white space count as
one space, and what is compared is the field of the answer with that of the reference, read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmforge.data.formats.templates import names_in
from llmforge.tasks.fields import TaskList
from llmforge.tasks.task import Task

#: Marks are characters for private use, which no text has and no filter changes.
_FIRST_MARK = 0xE000


def squeezed(text: str) -> str:
    """`text` with runs of white space as one space, and none at its ends."""
    return " ".join(text.split())


def answered(task: Task, completion: str) -> str:
    """The text of an answer that is this completion: without what ends it, the chat template's text or a stop string."""
    text = completion.removesuffix(task.behind)
    for stop in task.stop:
        if stop.strip() and text.rstrip().endswith(stop.rstrip()):
            text = text.rstrip().removesuffix(stop.rstrip())
    return text


def answer_fields(task: Task) -> tuple[str, ...]:
    """Names of the fields that a completion of `task` says and its prompt does not; empty for a chat, which has none."""
    if task.kind == "chat":
        return ()
    named = names_in(task.completion) - set(task.prompt_fields)
    return tuple(item.name for item in task.fields if item.name in named)


def skeleton(task: Task, row: Mapping[str, Any], where: str) -> tuple[list[str], list[str]]:
    """What stands between the fields of a row's completion.

    Returns:
        The names of its fields in the order that they come in, and one text more than these: before, between and behind them.
        A field that is empty in the row has no place.
    """
    names, values = answer_fields(task), task.values(row, where)
    marks = {chr(_FIRST_MARK + place): name for place, name in enumerate(names) if values[name]}
    marked = dict(values)
    for mark, name in marks.items():
        marked[name] = TaskList([mark]) if isinstance(values[name], list) else mark
    text = squeezed(answered(task, task.render(marked, where)[1]))
    parts = re.split(f"([{''.join(marks)}])", text) if marks else [text]
    named, between = [marks[mark] for mark in parts[1::2]], parts[::2]
    for place in reversed(range(1, len(named))):
        if not between[place]:  # nothing parts these two: they are read as one
            del named[place - 1], between[place]
    return named, between


def parse_answer(answer: str, names: Sequence[str], between: Sequence[str]) -> tuple[dict[str, str], bool]:
    """The fields of an answer, and whether it has the form of the whole.

    Args:
        answer: As it was written.
        names: As `skeleton` returns them.
        between: The same.

    Returns:
        A field that nothing begins, or nothing ends, is left out.
    """
    text, opening, closing = squeezed(answer), between[0].lstrip(), between[-1].rstrip()
    found: dict[str, str] = {}
    whole = text.startswith(opening)
    place = len(opening) if whole else 0
    begun = whole
    for name, behind in zip(names, [*between[1:-1], None], strict=True):
        end = text.find(behind, place) if behind is not None else len(text) - len(closing) if text.endswith(closing) else -1
        if end < place:
            whole = begun = False
            continue
        if begun:
            found.setdefault(name, text[place:end].strip())
        begun, place = True, end + len(behind or closing)
    return found, whole
