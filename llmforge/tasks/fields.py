"""The fields of a task, and what a row has to say of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.data.formats.records import RecordUnfit, messages_of, whole_characters
from llmforge.errors import DataError

#: Keys of a row that hold the messages of a chat.
MESSAGES = ("messages", "conversations", "conversation")
#: From this likeness on an unknown key is taken for a misspelt one; others belong to whoever wrote the row.
_MISSPELT = 0.75


class TaskList(list[str]):
    """The values of a list field; printed by a template as they are, they are joined by commas."""

    def __str__(self) -> str:
        return ", ".join(self)


@dataclass(frozen=True)
class TaskField:
    """A field of a task.

    Attributes:
        name: As the templates call it.
        required: Whether a row without it is refused.
        is_list: Whether it holds several values.
        aliases: Other words that scenario text and rows call it by.
    """

    name: str
    required: bool = False
    is_list: bool = False
    aliases: tuple[str, ...] = ()


def key_of(word: str) -> str:
    """How a field's name is compared: ``Error Codes``, ``error-codes`` and ``error_codes`` are one."""
    return re.sub(r"[^\w]+", "_", word.strip().casefold()).strip("_")


def messages(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The messages of a chat's row.

    Raises:
        DataError: It has none.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: no object with fields, but {type(row).__name__}.", "Write one JSON object a line.")
    key = next((name for name in MESSAGES if name in row), MESSAGES[0])
    try:
        said = messages_of(row, key)
    except RecordUnfit as error:
        raise DataError(f"{where}: {error}.", "Give messages, a list of objects with role and content.") from None
    return [{name: whole_characters(value) if isinstance(value, str) else value for name, value in item.items()} for item in said]


def nearest(name: str, known: Iterable[str]) -> str:
    """What a misspelt name may mean, as a remedy."""
    words = list(known)
    close = difflib.get_close_matches(name, words, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known: {', '.join(words)}."


def _value(value: Any, item: TaskField, where: str) -> str | TaskList:
    if isinstance(value, (list, tuple)) and item.is_list:
        return TaskList(text for text in (_plain_text(one, item, where) for one in value) if text.strip())
    text = _plain_text(value, item, where)
    return text if not item.is_list else TaskList([text] if text.strip() else [])


def _plain_text(value: Any, item: TaskField, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        more = "" if item.is_list or not isinstance(value, list) else " (a field with list: true holds several)"
        raise DataError(f"{where}: the field {item.name!r} holds {type(value).__name__}, no text{more}.", "Mend the row.")
    return whole_characters(str(value))


def values_of(
    row: Mapping[str, Any],
    keys: Mapping[str, TaskField],
    fields: Sequence[TaskField],
    needed: Collection[str] | None,
    task: str,
    where: str,
) -> dict[str, str | TaskList]:
    """The row's values by field; those it lacks are empty, and keys that stand for no field are left alone.

    Args:
        row: Fields by name or alias.
        keys: Field by each word that it is known by.
        fields: All of them.
        needed: The names of those that must be there if they are required; None is all.
        task: What messages call the task.
        where: What messages call the row.

    Raises:
        DataError: A required field is missing or empty, a key is a misspelt field, or a value is no text.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: no object with fields, but {type(row).__name__}.", "Write one JSON object a line.")
    found: dict[str, str | TaskList] = {}
    for key, value in row.items():
        item = keys.get(key_of(str(key)))
        if item is None:
            close = difflib.get_close_matches(key_of(str(key)), keys, n=1, cutoff=_MISSPELT)
            if close and keys[close[0]].name not in {keys[other].name for other in map(key_of, row) if other in keys}:
                raise DataError(f"{where}: {key!r} is no field of {task}.", f"Did you mean {close[0]}?")
            continue
        if item.name in found:
            raise DataError(f"{where}: the field {item.name!r} stands there twice.", "Leave one of them out.")
        found[item.name] = _value(value, item, where)
    for item in fields:
        wanted = item.required and (needed is None or item.name in needed)
        if wanted and not str(found.get(item.name, "")).strip():
            what = "is empty" if item.name in found else "is missing"
            raise DataError(f"{where}: the field {item.name!r} of {task} {what}.", "Fill it in.")
        found.setdefault(item.name, TaskList() if item.is_list else "")
    return found
