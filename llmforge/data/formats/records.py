"""A record with fields, as a document: its text by path, or rendered by a template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.streams import REPLACED
from llmforge.data.formats.templates import RecordRefused, load_template
from llmforge.errors import DataError

#: What `account.changed` calls a document that held halves of surrogate pairs, as JSON can.
SURROGATES = "halves of surrogate pairs replaced"
_MISSING = object()
#: Who speaks, in ShareGPT's words and the usual ones.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
}
#: Names that transformers passes a message's reasoning to a template under, the first being the one that is set.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_SHOWN_FIELDS = 8


class RecordUnfit(Exception):
    """Why a record gives no document, in words that add up over records, and in this record's own."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.detail = detail


def leave_out(source: Source, account: Account, reason: str, where: str, detail: str = "") -> None:
    """Count something broken, or stop at it.

    Args:
        source: Says whether to stop.
        account: Where it is counted.
        reason: What is wrong, in words that add up.
        where: Which file, line or record it is.
        detail: What this one has of its own.

    Raises:
        DataError: The source is strict.
    """
    if source.strict:
        raise DataError(
            f"{where}: {reason}{f' ({detail})' if detail else ''}.", "Mend it, or leave --strict out to have it counted."
        )
    account.skip(reason, f"{where}: {detail}" if detail else where)


def no_field(source: Source, name: str, missing: str, known: list[str]) -> NoReturn:
    """Refuse a file that has columns, but not `missing`.

    Raises:
        DataError: Always; it names the columns there are.
    """
    flags = ["text_field", "question_field", "answer_field", "messages_field"]
    flag = next(flag for flag in flags if getattr(source, flag) == missing and missing in required_fields(source))
    raise DataError(f"{name} has no column {missing!r} (--{flag}); it has {listed(known)}.", f"Give --{flag} another.")


def listed(names: list[str]) -> str:
    """Names for a message; the quotes keep what a terminal would act on from it."""
    shown = ", ".join(ascii(name[:60]) if not name.isprintable() else name[:60] for name in names[:_SHOWN_FIELDS])
    return shown + (f" and {len(names) - _SHOWN_FIELDS} more" if len(names) > _SHOWN_FIELDS else "") or "none"


def required_fields(source: Source) -> list[str]:
    """Paths of the fields that every record must have."""
    if source.content == "qa":
        return [source.question_field, source.answer_field]
    return [source.messages_field] if source.content == "chat" else [source.text_field]


def optional_fields(source: Source) -> list[str]:
    """Paths of the fields that are used where a record has them."""
    context = [source.context_field] if source.content == "qa" else []
    return context + ([source.group_by.removeprefix("field.")] if source.group_by.startswith("field.") else [])


def uses_whole_record(source: Source) -> bool:
    """Whether a template may ask for any field."""
    return source.content == "qa" and source.template is not None


def at(record: Any, path: str) -> Any:
    """What stands at `path` in `record`: ``a.b.0.c`` goes inside mappings and lists; a field of that very name comes first.

    Returns:
        The value, or a marker that `is_missing` knows.
    """
    if isinstance(record, Mapping) and path in record:
        return record[path]
    value = record
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif (
            isinstance(value, (list, tuple)) and part.isdecimal() and part.isascii() and len(part) < 10 and int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return _MISSING
    return value


def is_missing(value: Any) -> bool:
    """Whether `at` found nothing."""
    return value is _MISSING


class RecordReader:
    """Makes documents of a source's records.

    Args:
        source: Says where in a record the text is, and how it is rendered.
        account: What is left out is counted there.

    Raises:
        ConfigError: The template cannot be used.
    """

    def __init__(self, source: Source, account: Account):
        self._source = source
        self._account = account
        self._template = None if source.content == "text" else load_template(source)
        self._group = source.group_by.removeprefix("field.") if source.group_by.startswith("field.") else None

    def document(self, record: Any, where: str, replaced: bool = False) -> Document | None:
        """The document of `record`, called `where`; None where it gives none, which is counted.

        Args:
            record: A mapping of JSON's types.
            where: The document's name.
            replaced: Whether the record's bytes were mended already.

        Raises:
            DataError: The record is broken and the source is strict.
            ConfigError: The template is at fault.
        """
        try:
            if not isinstance(record, Mapping):
                raise RecordUnfit("record that is no object with fields")
            text = self._text(record, where)
            group = self._group_of(record)
        except RecordUnfit as error:
            leave_out(self._source, self._account, str(error), where, error.detail)
            return None
        whole = whole_characters(text)
        if not whole.strip():
            self._account.skip("empty", where)
            return None
        self._account.changed.update(([REPLACED] if replaced else []) + ([SURROGATES] if whole != text else []))
        return Document(where, whole, group=group)

    def _text(self, record: Mapping[str, Any], where: str) -> str:
        source, template = self._source, self._template
        if template is None:
            return _string(record, source.text_field)
        if source.content == "qa":
            context = at(record, source.context_field)
            variables = {
                "question": _string(record, source.question_field),
                "answer": _string(record, source.answer_field),
                "context": "" if is_missing(context) or context is None else _string(record, source.context_field),
                "record": plain(record) if uses_whole_record(source) else {},
            }
            empty = not (variables["question"].strip() and variables["answer"].strip())
        else:
            variables = {"messages": messages_of(record, source.messages_field)}
            empty = not any(message["content"].strip() for message in variables["messages"])
        if empty:
            return ""
        try:
            return template.render(variables, where)
        except RecordRefused as error:
            raise RecordUnfit(f"record that the template refuses at {error.line}", error.detail) from None

    def _group_of(self, record: Mapping[str, Any]) -> str:
        if self._group is None:
            return ""
        value = at(record, self._group)
        if is_missing(value) or value is None or isinstance(value, (dict, list, tuple)):
            raise RecordUnfit(f"record without a field {self._group!r} to group by")
        return whole_characters(str(value))


def _string(record: Mapping[str, Any], path: str) -> str:
    value = at(record, path)
    if is_missing(value):
        raise RecordUnfit(f"record without a field {path!r}")
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise RecordUnfit(f"record whose field {path!r} is no text")
    return value


def messages_of(record: Mapping[str, Any], path: str) -> list[dict[str, Any]]:
    """The messages at `path` as role, content and whatever else they have, for a chat template.

    Taken are OpenAI's keys (``role``, ``content``, the latter also as a list of text parts) and ShareGPT's
    (``from``, ``value``; human becomes user and gpt assistant), and the list's JSON text, which is how CSV holds it.

    Raises:
        RecordUnfit: It is no such list.
    """
    value = at(record, path)
    if is_missing(value):
        raise RecordUnfit(f"record without a field {path!r}")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RecordUnfit(f"record whose field {path!r} is no list of messages") from None
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, Mapping) for item in value):
        raise RecordUnfit(f"record whose field {path!r} is no list of messages")
    return [_message(item) for item in value]


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    role = item.get("role", item.get("from"))
    if not isinstance(role, str) or not role.strip():
        raise RecordUnfit("record with a message without a role")
    content = item.get("content", item.get("value"))
    if isinstance(content, (list, tuple)):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise RecordUnfit("record with a message that is no text")
    # In the order they have, as a template may write a message out whole.
    message: dict[str, Any] = {}
    for key, value in item.items():
        if key in ("role", "from"):
            message["role"] = _ROLES.get(role, role)
        elif key in ("content", "value"):
            message["content"] = content
        else:
            message[str(key)] = plain(value)
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def plain(value: Any) -> Any:
    """`value` with JSON's types only: the objects that some formats hold (dates, say) have methods that a template could call."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def whole_characters(text: str) -> str:
    """`text` with halves of surrogate pairs replaced: JSON can hold them, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # one mark a half
    return text
