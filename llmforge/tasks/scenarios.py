"""Scenario text as rows: ``Key: value`` lines in blocks, and chats as ``User:`` and ``Assistant:``.

::

    Equipment: Caterpillar 320D
    Error Codes: P0087, P0191
    Solution:
    - Replace the fuel filter.
    - Bleed the system, then
      measure the rail pressure again.

    Equipment: Volvo L60H

A block ends at a line of dashes (or ``===``, or a heading ``# …``). Where a text has none, it ends at a blank line before the
task's first field or before one that the block has already. A value goes on over lines that begin with no field's name.
A chat ends at such a line only where somebody begins to speak after it, and code between ``````` is what is said, whatever it is.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmforge.tasks.fields import TaskField, key_of
from llmforge.tasks.task import Task

_SEPARATOR = re.compile(r"\s*(?:([-=*_~])\s*(?:\1\s*){2,}|#{1,6}(?:\s.*)?)$")
#: A name of up to five words, in bold perhaps, and its value.
_KEY = re.compile(r"(?:\*\*)?([^\W\d_][\w/()&'.-]*(?:[ \t][\w/()&'.-]+){0,4})(?:\*\*)?[ \t]*:(?:\*\*)?(?:[ \t]+(.*))?$")
#: What people's files end a line with; a form feed or U+2028 is part of it.
_LINE_END = re.compile(r"\r\n|\n|\r")
#: Begins and ends a piece of code in a chat.
_FENCE = re.compile(r"\s*```")
_BULLET = re.compile(r"(?:[-*•]|\d+[.)])\s+(.*)$")
#: From this likeness on an unknown name is a misspelt field.
_MISSPELT = 0.8
#: What a list of nothing is written as.
_NOTHING = {"", "none", "n/a", "na", "-", "nil"}
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "bot": "assistant", "system": "system"}


@dataclass
class Scenario:
    """One block of a text.

    Attributes:
        line: Of its first line, from 1.
        row: Fields by name, or ``messages``.
        problem: What is wrong with it; empty if nothing is.
        problem_line: Where.
        left_out: Names that stand for no field of the task, each with its line.
    """

    line: int
    row: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    problem_line: int = 0
    left_out: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class _Block:
    """Lines of one scenario: name, line and text of each part; the first may have no name."""

    parts: list[tuple[str, int, list[str]]] = field(default_factory=list)

    @property
    def line(self) -> int:
        return self.parts[0][1]


def parse_scenarios(text: str, task: Task) -> Iterator[Scenario]:
    """The scenarios in a text, in order.

    Args:
        text: Of a file.
        task: Whose fields are looked for; of a chat, the turns of the speakers are.
    """
    lines = _LINE_END.split(text)
    names = dict.fromkeys(_ROLES) if task.kind == "chat" else dict.fromkeys(task.keys)
    foreign = _foreign_names(lines, names) if task.kind != "chat" else set()
    for block in _blocks(lines, names, foreign, task):
        yield _chat(block) if task.kind == "chat" else _scenario(block, task)


def _name(line: str) -> tuple[str, str] | None:
    """The name that a line begins with, as `key_of` spells it, and the rest of the line."""
    match = _KEY.match(line)
    return (key_of(match[1]), (match[2] or "").strip()) if match else None


def _common(name: str) -> str:
    return re.sub(r"_?\d+$", "", name)  # `Scenario 12` is one name with `Scenario 13`


def _foreign_names(lines: Sequence[str], names: dict[str, None]) -> set[str]:
    """Names that stand for no field and come so often that they are no part of a value: half as often as the commonest field."""
    found = [known for line in lines if (known := _name(line))]
    own = Counter(name for name, _ in found if name in names)
    often = max(own.values(), default=0)
    counted = Counter(_common(name) for name, _ in found if name not in names)
    return {name for name, count in counted.items() if count > 1 and count >= often / 2}


def _ends(lines: Sequence[str], names: dict[str, None], chat: bool) -> list[bool]:
    """Of each line, whether a block ends there."""
    found = [bool(_SEPARATOR.match(line)) for line in lines]
    if not chat:
        return found
    code = _code(lines)
    speaks = True  # where the text ends, a chat does
    for place in reversed(range(len(lines))):
        found[place] = found[place] and not code[place] and speaks
        if lines[place].strip() and not found[place]:
            known = _name(lines[place])
            speaks = not code[place] and known is not None and known[0] in names
    return found


def _code(lines: Sequence[str]) -> list[bool]:
    """Of each line, whether it lies between two fences; a fence that none follows is none."""
    fences = [place for place, line in enumerate(lines) if _FENCE.match(line)]
    inside = [False] * len(lines)
    for start, end in zip(fences[::2], fences[1::2], strict=False):
        inside[start : end + 1] = [True] * (end + 1 - start)
    return inside


def _blocks(lines: Sequence[str], names: dict[str, None], foreign: set[str], task: Task) -> Iterator[_Block]:
    chat = task.kind == "chat"
    ends, code = _ends(lines, names, chat), _code(lines) if chat else [False] * len(lines)
    separated = chat or any(ends)
    first = next(iter(task.fields)).name if task.fields else ""
    block, blank = _Block(), False
    for number, line in enumerate(lines, start=1):
        if ends[number - 1]:
            if block.parts:
                yield block
            block = _Block()
            continue
        if not line.strip():
            blank = True
            if block.parts:
                block.parts[-1][2].append("")
            continue
        known = _name(line) if not code[number - 1] else None
        if known and not (known[0] in names or _common(known[0]) in foreign or (task.fields and _meant(known[0], names))):
            known = None
        if known and not separated and block.parts and blank:
            field_name = _field_name(known[0], task)
            if field_name == first or field_name in {_field_name(name, task) for name, _, _ in block.parts}:
                yield block
                block = _Block()
        blank = False
        if known:
            block.parts.append((known[0], number, [known[1]]))
        elif block.parts:
            block.parts[-1][2].append(line)
        else:
            block.parts.append(("", number, [line]))
    if block.parts:
        yield block


def _meant(name: str, names: dict[str, None]) -> str | None:
    """The field that a misspelt name means."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=_MISSPELT)), None)


def _field_name(name: str, task: Task) -> str:
    """The name of the field that is called `name`, misspelt perhaps; `name` where it is of none."""
    meant = name if name in task.keys else _meant(name, dict.fromkeys(task.keys))
    return task.keys[meant].name if meant else name


def _scenario(block: _Block, task: Task) -> Scenario:
    made = Scenario(block.line)
    for name, line, lines in block.parts:
        item = task.keys.get(name)
        if item is not None and item.name in made.row:
            made.problem, made.problem_line = f"the field {item.name!r} stands there twice", line
        elif item is not None:
            made.row[item.name] = _value(lines, item)
        elif name and (meant := _meant(name, dict.fromkeys(task.keys))):
            made.problem, made.problem_line = f"{name!r} is no field of the task, did you mean {meant!r}", line
        else:
            made.left_out.append((_common(name) or "text before the first field", line))
    return made


def _value(lines: list[str], item: TaskField) -> str | list[str]:
    """The text of a value, or its items: bullets or lines, else what semicolons or commas part, over several lines too."""
    kept = [line.strip() for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    if not item.is_list:
        return "\n".join(kept).strip("\n")
    items: list[str] = []
    if any(_BULLET.match(line) for line in kept):
        for line in kept:
            match = _BULLET.match(line)
            if match or not items:
                items.append(match[1] if match else line)
            elif line:
                items[-1] += f" {line}"
    else:
        joined = _joined(kept)
        for line, wrapped in joined:
            items += line.split(";" if ";" in line else ",") if wrapped or len(joined) == 1 else [line]
    return [text.strip() for text in items if text.strip().casefold() not in _NOTHING]


def _joined(lines: list[str]) -> list[tuple[str, bool]]:
    """The lines of a list without bullets, each with those that it goes on in after a comma, and whether it does."""
    made: list[tuple[str, bool]] = []
    for line in filter(None, lines):
        if made and made[-1][0].endswith((",", ";")):
            made[-1] = (f"{made[-1][0]} {line}", True)
        else:
            made.append((line, False))
    return made


def _chat(block: _Block) -> Scenario:
    made = Scenario(block.line)
    said = [(_ROLES[name], "\n".join(line.rstrip() for line in lines).strip()) for name, _, lines in block.parts if name]
    made.left_out = [("text before the first speaker", line) for name, line, _ in block.parts if not name]
    made.row = {"messages": [{"role": role, "content": content} for role, content in said]}
    return made
