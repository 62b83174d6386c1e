"""Ollama's Modelfile: a template that asks as the model was trained, the stop strings, the context.

Ollama's templates are Go's. That of a task of fields shows the last question alone, as each stood by itself in training. That of
a chat is found by rendering a few chats: a role has a text before and one behind each message. A chat template that does more
cannot be written so, and the file says that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llmforge.errors import ConfigError, DataError
from llmforge.pretrained.loading import Pretrained
from llmforge.tasks.task import Task

_ROLES = ("system", "user", "assistant")
#: Chats that the template found must render as the task does.
_PROBES = (
    ("user",),
    ("user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)
#: The last message alone.
_LAST = "{{ range $i, $m := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}%s{{ end }}{{ end }}"
_CONTENT = "{{ $m.Content }}"
#: Settings of a task, as Ollama calls them.
_PARAMETERS = {"max_new_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}


def modelfile(found: Pretrained, task: Task | None, file: str, license: str) -> str:
    """A Modelfile for ``ollama create NAME -f FILE``.

    Args:
        found: The model.
        task: What it was fine-tuned for, bound to its tokenizer; None takes prompts as they stand, for plain text.
        file: The GGUF file, as seen from the Modelfile.
        license: Empty where it is not known.
    """
    lines = [f"FROM ./{file}", *_template(task), f"PARAMETER num_ctx {found.context}"]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in (str(found.tokenizer.eos_token), *(task.stops if task else ()))]
    if task is not None:
        settings = dict(task.generation)
        if settings.pop("do_sample", True) is False:
            settings = {"temperature": 0} | {name: value for name, value in settings.items() if name == "max_new_tokens"}
        lines += [f"PARAMETER {_PARAMETERS[name]} {value}" for name, value in settings.items() if name in _PARAMETERS]
    return "\n".join([*lines, *([f"LICENSE {_quoted(license)}"] if license else [])]) + "\n"


def _quoted(text: str) -> str:
    """As Ollama reads it: it knows no escapes, and only triple quotes go over lines."""
    return f'"""{text}"""' if "\n" in text or '"' in text else f'"{text}"'


def _template(task: Task | None) -> list[str]:
    if task is None:
        return ['TEMPLATE "{{ .Prompt }}"']
    if task.kind == "chat":
        found = go_template(task)
        if found is not None:
            return [f"TEMPLATE {_quoted(found)}"]
        return ["# This chat template cannot be written in Ollama's language; it is in the GGUF file, for llama.cpp's server."]
    field = _only_field(task)
    if field is not None:
        before, _, after = task.render_prompt({field: _mark(0)}).partition(_mark(0))
        return [f"TEMPLATE {_quoted(_LAST % (_literal(before) + _CONTENT + _literal(after)))}"]
    example = task.render_prompt({name: f"<{name}>" for name in task.prompt_fields}).splitlines()
    return [
        "# Give the whole prompt, as it was in training:",
        *(f"#   {line}" for line in example),
        f'TEMPLATE "{_LAST % _CONTENT}"',
    ]


def _only_field(task: Task) -> str | None:
    """The field that a prompt of one text is: the only one that has to be given, if it is a plain text and stands there once."""
    needed = [name for name in task.prompt_fields if task.keys[name].required] or list(task.prompt_fields)
    if len(needed) != 1 or task.keys[needed[0]].is_list:
        return None
    try:
        return needed[0] if task.render_prompt({needed[0]: _mark(0)}).count(_mark(0)) == 1 else None
    except DataError:
        return None


def go_template(task: Task) -> str | None:
    """The Go template of a chat; None where there is none."""
    parts: dict[str, tuple[str, str, str]] = {}
    for role in _ROLES:
        try:
            parts[role] = _around(task, role)
        except (ConfigError, DataError, ValueError):
            continue  # this template has no such role
    try:
        asks = _rest(task.chat_text(_said(["user"]), asks=True), task.chat_text(_said(["user"])))
        probes = [roles for roles in _PROBES if set(roles) <= set(parts)]
        if not {"user", "assistant"} <= set(parts):
            return None
        for roles in probes:
            made = "".join(_message(parts[role], place == 0, _mark(place)) for place, role in enumerate(roles)) + asks
            if made != task.chat_text(_said(roles), asks=True):
                return None
    except (ConfigError, DataError, ValueError):
        return None
    shown = []
    for role, (first, later, behind) in parts.items():
        begins = _literal(first)
        if first != later:
            begins = f"{{{{ if $i }}}}{_literal(later)}{{{{ else }}}}{_literal(first)}{{{{ end }}}}"
        shown.append(f'if eq $m.Role "{role}" }}}}{begins}{_CONTENT}{_literal(behind)}')
    return "{{ range $i, $m := .Messages }}{{ " + "{{ else ".join(shown) + "{{ end }}{{ end }}" + _literal(asks)


def _around(task: Task, role: str) -> tuple[str, str, str]:
    """What a message of `role` has before it where it is the first one, before it elsewhere, and behind it."""
    earlier = "assistant" if role == "user" else "user"
    before = task.chat_text(_said([earlier])) if role != "system" else ""
    later, behind = _split(_rest(task.chat_text(_said([earlier, role])), before), 1) if role != "system" else ("", "")
    if role == "assistant":  # no chat begins with it
        return later, later, behind
    first, behind_first = _split(task.chat_text(_said([role])), 0)
    if role == "system":
        return first, first, behind_first
    if behind != behind_first:
        raise ValueError(role)
    return first, later, behind


def _message(parts: tuple[str, str, str], is_first: bool, content: str) -> str:
    return (parts[0] if is_first else parts[1]) + content + parts[2]


def _said(roles: Sequence[str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": _mark(place)} for place, role in enumerate(roles)]


def _mark(place: int) -> str:
    return f"MESSAGE{place}HERE"


def _rest(text: str, start: str) -> str:
    if not text.startswith(start):
        raise ValueError(text)
    return text[len(start) :]


def _split(text: str, place: int) -> tuple[str, str]:
    before, mark, after = text.partition(_mark(place))
    if not mark or _mark(place) in after:
        raise ValueError(text)
    return before, after


def _literal(text: str) -> str:
    """Text as it stands in a Go template."""
    return re.sub(r"\{\{", '{{ "{{" }}', text)
