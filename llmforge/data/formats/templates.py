"""How a question with its answer, or a chat, becomes a text: a Jinja template in a sandbox.

A chat template is one for transformers' `apply_chat_template` as well, and renders the same there: the environment
(`llmforge.data.formats.sandbox`) has that one's settings, tags and filters. What differs: whatever is printed must exist,
and what depends on the day (``strftime_now``) or on a tokenizer that may not be trained yet (``bos_token``) is not there.
"""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.configs.source import Source
from llmforge.data.formats.sandbox import AND_SOME, MAX_STEPS, environment
from llmforge.errors import ConfigError

#: Variables: question, answer, context (empty where there is none), record (all fields), add_generation_prompt.
QA_TEMPLATE = (
    "{% if context %}{{ context }}\n\n{% endif %}Question: {{ question }}\n"
    "Answer:{% if not add_generation_prompt %} {{ answer }}{% endif %}"
)
#: Variables: messages (each with role and content), add_generation_prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n\n' }}{% endif %}"
    "{{ message.role | capitalize }}: {{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nAssistant:' if messages else 'Assistant:' }}{% endif %}"
)
_DEFAULTS = {"qa": QA_TEMPLATE, "chat": CHAT_TEMPLATE}
#: What a template may name besides Jinja's own.
_VARIABLES = {
    "qa": {"question", "answer", "context", "record", "add_generation_prompt"},
    "chat": {"messages", "add_generation_prompt", "tools", "documents"},
}
_PROBES: dict[str, dict[str, Any]] = {
    "qa": {"question": "Q", "answer": "A", "context": "C", "record": {}},
    "chat": {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
}
#: A rendered record may be so many times as long as what it was rendered from, and then some.
_LONGER = 10
_MAX_TEMPLATE = 1_000_000
#: Filters that go by an attribute of what they are given.
_BY_ATTRIBUTE = ("groupby", "selectattr", "rejectattr")
#: What a template's own expressions may raise.
_FAULTS = (TypeError, ValueError, LookupError, AttributeError, ZeroDivisionError)


class RecordRefused(Exception):
    """The template cannot render this record; `line` says where, `detail` why."""

    def __init__(self, line: str, detail: str):
        super().__init__(f"{line}: {detail}")
        self.line = line
        self.detail = ascii(detail[:200])[1:-1]  # it may quote the record


@dataclass(frozen=True)
class Template:
    """A compiled template.

    Attributes:
        text: What it was compiled from.
        content: qa or chat.
        fails: Whether it fails on a record that has nothing but what all have: a record that it fails on as well
            is not to blame.
        called: What messages call it.
    """

    text: str
    content: str
    fails: bool
    compiled: Any
    called: str = "--template"

    def render(self, variables: Mapping[str, Any], where: str) -> str:
        """The text of one record, called `where` in messages.

        Raises:
            RecordRefused: The template itself refuses it, or the record lacks what others have.
            ConfigError: The template is at fault: it prints what no record has, or far more than it was given.
        """
        from jinja2 import TemplateError, UndefinedError

        try:
            return _render(self.compiled, variables, self.called)
        except (UndefinedError, *_FAULTS) as error:
            if self.fails:
                remedy = "Mend it; what only some records have is asked for with `is defined`."
                raise ConfigError(f"{self.called} {_line(error)}: {error} (in {where}).", remedy) from None
            raise RecordRefused(_line(error), str(error)) from None
        except TemplateError as error:  # raise_exception: the template's own wish
            raise RecordRefused(_line(error), str(error)) from None


def template_of(source: Source) -> str | None:
    """The text of the template that `source`'s records are rendered by; None where they hold texts.

    Raises:
        ConfigError: There is no such file, or it is no template.
    """
    if source.content == "text":
        return None
    return load_template(source).text


def load_template(source: Source) -> Template:
    """The compiled template of a qa or chat source.

    Raises:
        ConfigError: There is no such file, or it is no template.
    """
    given = source.template
    if given is None:
        return _compile(_DEFAULTS[source.content], source.content)
    if "{{" in given or "{%" in given or "\n" in given:
        return _compile(given, source.content)
    try:
        with open(Path(given).expanduser(), encoding="utf-8-sig") as file:
            text = file.read(_MAX_TEMPLATE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "Give a file, or a template's text with {{ … }} in it."
        raise ConfigError(f"--template {given}: neither a template nor a file that can be read: {reason}.", remedy) from error
    if len(text) > _MAX_TEMPLATE:
        raise ConfigError(f"--template {given} has more than {_MAX_TEMPLATE:,} characters.", "Give a template.")
    return _compile(text, source.content)


def templates_of(sources: Sequence[Source]) -> dict[str, str]:
    """The templates of all `sources`, by what transformers will call them: ``default`` that of chats, ``qa`` that of questions.

    Where sources of one kind have different ones, the later are called after their number, ``qa-2`` say.
    """
    found: dict[str, str] = {}
    for content, first in (("chat", "default"), ("qa", "qa")):
        texts = dict.fromkeys(text for source in sources if source.content == content and (text := template_of(source)))
        for number, text in enumerate(texts, start=1):
            found[first if number == 1 else f"{content}-{number}"] = text
    return found


def save_templates(templates: Mapping[str, str], tokenizer: Path) -> None:
    """Write `templates` into a tokenizer's folder, where transformers looks for them."""
    for name, text in templates.items():
        path = tokenizer / ("chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def compile_template(text: str, content: str, called: str, variables: Mapping[str, Any] | None = None) -> Template:
    """A template of a task, as strict as those of a corpus, and stricter with attributes.

    Args:
        text: The template.
        content: chat, or fields: then it may name the fields in `variables` and reach for no attribute at all.
        called: What messages call it, ``task.yaml: prompt`` say.
        variables: The fields with an example each; of a chat, what it may name besides the messages.

    Raises:
        ConfigError: It is no template, names what is not there, or reaches for an attribute that it may not have.
    """
    probe = dict(variables or {}) if content == "fields" else _PROBES["chat"] | dict(variables or {})
    names = set(probe) | (_VARIABLES["chat"] if content == "chat" else set())
    return _compiled(text, content, called, names, probe)


def names_in(text: str) -> set[str]:
    """The variables that a template prints or asks about, not the words of its text."""
    from jinja2 import meta

    return meta.find_undeclared_variables(environment().parse(text))


def _refuse_attributes(tree: Any, content: str, called: str) -> None:
    """Refuse what reaches into Python's objects: the sandbox would give nothing, and say so only when it is rendered."""
    from jinja2 import nodes

    free = content != "fields"  # a message has attributes of its own, a field's text only Python's
    for node in tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Filter)):
        names: list[tuple[str, bool]] = []
        if isinstance(node, nodes.Getattr):
            names = [(node.attr, free or (isinstance(node.node, nodes.Name) and node.node.name == "loop"))]
        elif isinstance(node, nodes.Filter):
            by_name = [item.value for item in node.kwargs if item.key == "attribute"]
            names = [(node.name, free)] if node.name in _BY_ATTRIBUTE else []
            names += [("attr", False)] if node.name == "attr" else []
            names += [(str(getattr(value, "value", "")), free) for value in by_name]
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            names = [(node.arg.value, free)]
        for name, allowed in names:
            if not allowed or name.startswith("_"):
                raise ConfigError(
                    f"{called} line {node.lineno}: it reaches for the attribute {name!r}.",
                    "A template may print, join and test what it is given; use a filter, such as `| upper`.",
                )


@functools.lru_cache(maxsize=16)
def _compile(text: str, content: str) -> Template:
    return _compiled(text, content, "--template", _VARIABLES[content], _PROBES[content])


def _compiled(text: str, content: str, called: str, allowed: set[str], probe: Mapping[str, Any]) -> Template:
    from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, meta

    made = environment()
    try:
        tree = made.parse(text)
        if called != "--template":
            _refuse_attributes(tree, content, called)
        names = meta.find_undeclared_variables(tree) - allowed - set(made.globals)
        compiled = made.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{called} line {error.lineno}: {str(error.message).rstrip('.')}.", "Mend the template.") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise ConfigError(f"{called} cannot be compiled: {type(error).__name__}.", "Write a simpler one.") from None
    if names:
        name = min(names, key=lambda item: (_line_of(text, item), item))
        known = ", ".join(sorted(allowed))
        kind = f"A {content} template" if content in _VARIABLES else "This one"
        raise ConfigError(f"{called} line {_line_of(text, name)}: {name!r} is undefined.", f"{kind} has {known}.")
    fails = False
    try:
        _render(compiled, probe, called)
    except (UndefinedError, *_FAULTS):
        fails = True
    except TemplateError:  # it does not take the likes of the probe; the user's records may be others
        pass
    return Template(text, content, fails, compiled, called)


def _line_of(text: str, name: str) -> int:
    """The line that first has `name`, outside of dotted names."""
    found = re.search(rf"(?<![\w.]){re.escape(name)}\b", text)
    return text.count("\n", 0, found.start() if found else 0) + 1


def _line(error: BaseException) -> str:
    """Which line of the template raised; Jinja puts its lines into the traceback."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f"line {numbers[-1]}" if numbers else "line 1"


def _render(compiled: Any, variables: Mapping[str, Any], called: str = "--template") -> str:
    from jinja2.exceptions import SecurityError

    compiled.environment.globals["range"].left = MAX_STEPS
    compiled.environment.largest = limit = AND_SOME + _LONGER * _characters(variables)
    pieces: list[str] = []
    size = 0
    stream = compiled.generate(**{"add_generation_prompt": False, "tools": None, "documents": None, **variables})
    remedy = "Look for a loop that repeats too much."
    try:
        for piece in stream:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                inner = stream
                while (deeper := getattr(inner, "gi_yieldfrom", None)) is not None:
                    inner = deeper
                line = compiled.get_corresponding_lineno(inner.gi_frame.f_lineno)
                raise ConfigError(f"{called} line {line}: renders more than {limit:,} characters for one record.", remedy)
    except SecurityError as error:
        raise ConfigError(f"{called} {_line(error)}: {error}", "A template may not do that.") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        reason = "recurses without end" if isinstance(error, RecursionError) else f"goes too far: {error}"
        raise ConfigError(f"{called} {_line(error)}: {reason}.", remedy) from None
    return "".join(pieces)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 1
