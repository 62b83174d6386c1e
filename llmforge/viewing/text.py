"""Text of others, made fit to be shown: names, samples, warnings and settings may hold anything."""

from __future__ import annotations

import re
from typing import Any

from llmforge.runtime.logs import printable

#: Characters of one text that are kept; the rest is counted.
MOST_CHARACTERS = 20_000
#: Lists and objects in one another that are shown: more than any record of ours has, and far fewer than Python can go into.
DEEPEST = 32
#: They turn the order of the characters around them, so that a name reads as another one.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
#: Halves of a character, which JSON can hold and no file can.
_HALVES = re.compile("[\ud800-\udfff]")


def shown(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text` without terminal escapes, control characters and turned order, and no longer than `most` characters."""
    more = len(text) - most
    text = text[:most] if more > 0 else text
    text = _HALVES.sub("�", _TURNING.sub("�", printable(text)))
    return f"{text}… ({more:,} more characters)" if more > 0 else text


def all_shown(value: Any, depth: int = DEEPEST) -> Any:
    """A value of JSON with every text in it `shown`, the names too, and an ellipsis for what lies deeper than `depth`."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, (dict, list)) and depth == 0:
        return "…"
    if isinstance(value, dict):
        return {shown(str(name)): all_shown(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [all_shown(item, depth - 1) for item in value]
    return value


def one_line(text: str, most: int = 400) -> str:
    """`text`, `shown` on one line."""
    return " ".join(shown(text, most).split())
