"""The sandbox that transformers renders chat templates in, with bounds on what a template may use up."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

#: Characters that any rendering may have.
AND_SOME = 1_000_000
#: Numbers that all `range` calls of one rendering may go through.
MAX_STEPS = 1_000_000


class _Range:
    """`range` with a budget for one rendering: a sandbox bounds each call, not calls inside calls."""

    left = MAX_STEPS

    def __call__(self, *args: int) -> range:
        steps = range(*args)
        self.left -= len(steps)
        if self.left < 0:
            raise OverflowError(f"its ranges have more than {MAX_STEPS:,} numbers")
        return steps


@functools.cache
def environment() -> Any:
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
        largest = AND_SOME

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
            made.check_widths(args, kwargs)
            return function(*args, **kwargs)

        return checked

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = Sandbox(trim_blocks=True, lstrip_blocks=True, undefined=Missing, extensions=[Generation, ext.loopcontrols])
    made.filters |= {name: bounded(made.filters[name]) for name in ("center", "indent", "format")}
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["range"] = _Range()
    # What they give is another thing each time, and a text must be the same whenever it is rendered.
    del made.globals["lipsum"], made.filters["random"]
    return made
