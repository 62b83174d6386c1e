"""How a question with its answer, or a chat, becomes a text: a Jinja template in a sandbox.

A chat template is one for transformers' `apply_chat_template` as well, and renders the same there: the environment
has that one's settings, tags and filters. What differs: whatever is printed must exist, and what depends on the
day (``strftime_now``) or on a tokenizer that may not be trained yet (``bos_token``) is not there.
"""

from __future__ import annotations

import functools
import json
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.configs.source import Source
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
_AND_SOME = 1_000_000
_MAX_TEMPLATE = 1_000_000
#: Numbers that all `range` calls of one rendering may go through.
_MAX_STEPS = 1_000_000
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
    """

    text: str
    content: str
    fails: bool
    compiled: Any

    def render(self, variables: Mapping[str, Any], where: str) -> str:
        """The text of one record, called `where` in messages.

        Raises:
            RecordRefused: The template itself refuses it, or the record lacks what others have.
            ConfigError: The template is at fault: it prints what no record has, or far more than it was given.
        """
        from jinja2 import TemplateError, UndefinedError

        try:
            return _render(self.compiled, variables)
        except (UndefinedError, *_FAULTS) as error:
            if self.fails:
                remedy = "Mend it; what only some records have is asked for with `is defined`."
                raise ConfigError(f"--template {_line(error)}: {error} (in {where}).", remedy) from None
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


@functools.lru_cache(maxsize=16)
def _compile(text: str, content: str) -> Template:
    from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, meta

    environment = _environment()
    try:
        tree = environment.parse(text)
        names = meta.find_undeclared_variables(tree) - _VARIABLES[content] - set(environment.globals)
        compiled = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"--template line {error.lineno}: {str(error.message).rstrip('.')}.", "Mend the template.") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise ConfigError(f"--template cannot be compiled: {type(error).__name__}.", "Write a simpler one.") from None
    if names:
        name = min(names, key=lambda item: (_line_of(text, item), item))
        known = ", ".join(sorted(_VARIABLES[content]))
        raise ConfigError(f"--template line {_line_of(text, name)}: {name!r} is undefined.", f"A {content} template has {known}.")
    fails = False
    try:
        _render(compiled, _PROBES[content])
    except (UndefinedError, *_FAULTS):
        fails = True
    except TemplateError:  # it does not take the likes of the probe; the user's records may be others
        pass
    return Template(text, content, fails, compiled)


def _line_of(text: str, name: str) -> int:
    """The line that first has `name`, outside of dotted names."""
    found = re.search(rf"(?<![\w.]){re.escape(name)}\b", text)
    return text.count("\n", 0, found.start() if found else 0) + 1


def _line(error: BaseException) -> str:
    """Which line of the template raised; Jinja puts its lines into the traceback."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f"line {numbers[-1]}" if numbers else "line 1"


def _render(compiled: Any, variables: Mapping[str, Any]) -> str:
    from jinja2.exceptions import SecurityError

    compiled.environment.globals["range"].left = _MAX_STEPS
    compiled.environment.largest = limit = _AND_SOME + _LONGER * _characters(variables)
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
                raise ConfigError(f"--template line {line}: renders more than {limit:,} characters for one record.", remedy)
    except SecurityError as error:
        raise ConfigError(f"--template {_line(error)}: {error}", "A template may not do that.") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        reason = "recurses without end" if isinstance(error, RecursionError) else f"goes too far: {error}"
        raise ConfigError(f"--template {_line(error)}: {reason}.", remedy) from None
    return "".join(pieces)


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else 1


class _Range:
    """`range` with a budget for one rendering: a sandbox bounds each call, not calls inside calls."""

    left = _MAX_STEPS

    def __call__(self, *args: int) -> range:
        steps = range(*args)
        self.left -= len(steps)
        if self.left < 0:
            raise OverflowError(f"its ranges have more than {_MAX_STEPS:,} numbers")
        return steps


@functools.cache
def _environment() -> Any:
    """The sandbox that transformers renders chat templates in, with bounds."""
    from jinja2 import Undefined, ext, nodes
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Missing(Undefined):
        """May be asked about, as in transformers; printed there it would be an empty string."""

        __slots__ = ()
        __str__ = Undefined._fail_with_undefined_error

    class Generation(ext.Extension):
        """``{% generation %}``, by which transformers finds what the assistant said; here its content counts."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%"))
        largest = _AND_SOME

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            lengths = [len(item) for item in (left, right) if hasattr(item, "__len__")]
            counts = [item for item in (left, right) if isinstance(item, int)]
            if operator == "*" and lengths and counts and lengths[0] * counts[0] > self.largest:
                raise OverflowError(f"a product of more than {self.largest:,} characters")
            if operator == "**" and isinstance(right, (int, float)) and abs(right) > 1024:
                raise OverflowError(f"a power of {right}")
            if operator == "%" and isinstance(left, str):
                self.check_widths(left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            text = getattr(getattr(function, "__wrapped__", function), "__self__", None)
            if isinstance(text, str):  # center, zfill, format …
                self.check_widths(text if function.__name__.startswith("format") else "", args, kwargs)
            return super().call(context, function, *args, **kwargs)

        def check_widths(self, *values: Any) -> None:
            """Refuse numbers that ask a formatting function for more characters than a rendering may have."""
            for value in values:
                if isinstance(value, Mapping):
                    self.check_widths(*value.values())
                elif isinstance(value, (list, tuple)):
                    self.check_widths(*value)
                else:
                    numbers = re.findall(r"(?:%[-+ #0]*|:[^{}\d]*)([1-9][0-9]{6,})", value) if isinstance(value, str) else [value]
                    if any(isinstance(number, (str, int)) and int(str(number)[:12]) > self.largest for number in numbers):
                        raise OverflowError(f"a width of more than {self.largest:,} characters")

    def bounded(function: Any) -> Any:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            environment.check_widths(args, kwargs)
            return function(*args, **kwargs)

        return checked

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, undefined=Missing, extensions=[Generation, ext.loopcontrols])
    environment.filters |= {name: bounded(environment.filters[name]) for name in ("center", "indent", "format")}
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["range"] = _Range()
    # What they give is another thing each time, and a text must be the same whenever it is rendered.
    del environment.globals["lipsum"], environment.filters["random"]
    return environment
