"""Documents that a function of the user's own yields."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_type_hints

import numpy as np

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.formats.records import whole_characters
from llmforge.data.functions import load_function, where_raised
from llmforge.errors import DataError, LlmforgeError

_KEYS = ("text", "name", "group", "kind")


def documents(source: Source, account: Account) -> Iterator[Document]:
    """The documents that ``module:function``, called without arguments, yields or returns a list of.

    Each is a text, a mapping with ``text`` and, if wanted, ``name``, ``group`` and ``kind``, or a `Document`. What has
    no name is called ``module:function#number``, from 1.

    Args:
        source: Names the function.
        account: Counts empty texts.

    Raises:
        ConfigError: There is no such function.
        DataError: It raised, with the line of the user's code that did; or it gave something else, with its number.
    """
    function = load_function(source.path, "--source path=")
    number = 0
    items: Iterator[Any] = iter(())
    while True:
        try:
            if number == 0:
                given = function()
                if isinstance(given, (str, bytes, Mapping)):
                    raise TypeError(f"it gave one {type(given).__name__}, not several documents")
                items = iter(given)
            item = next(items)
        except StopIteration:
            return
        except LlmforgeError:
            raise
        except (Exception, SystemExit) as error:
            where = where_raised(error, function)
            place = "when it was called" if number == 0 else f"after document {number}"
            problem = f"--source path={source.path} raised {type(error).__name__} at {where}, {place}: {error}"
            raise DataError(problem.rstrip(".") + ".", "Mend the function.") from error
        number += 1
        document = _document(item, number, source)
        if document.ids is None and not document.text.strip():
            account.skip("empty", document.name)
        else:
            yield document


def _document(item: Any, number: int, source: Source) -> Document:
    name = f"{source.path}#{number}"

    def refuse(problem: str) -> DataError:
        remedy = "Yield a text, a mapping with text (and name, group, kind), or a Document."
        return DataError(f"--source path={source.path}: document {number} {problem}.", remedy)

    if isinstance(item, str):
        item = {"text": item}
    elif isinstance(item, Document):
        if item.ids is not None:
            if not isinstance(item.ids, np.ndarray) or item.ids.ndim != 1 or item.ids.dtype.kind not in "iu":
                raise refuse("has ids that are no 1-D array of integers")
            return item
        item = {key: getattr(item, key) for key in _KEYS}
    elif not isinstance(item, Mapping):
        raise refuse(f"is of type {type(item).__name__}")
    unknown = [key for key in item if key not in _KEYS]
    if unknown:
        raise refuse(f"has a key {unknown[0]!r}")
    if item.get("text") is None:
        raise refuse("has no text")
    values = {"name": name, "group": "", "kind": "text", **{key: value for key, value in item.items() if value is not None}}
    for key, value in values.items():
        if not isinstance(value, str):
            raise refuse(f"has a {key} of type {type(value).__name__}")
    if values["kind"] not in _kinds():
        raise refuse(f"has the kind {values['kind']!r}, which is none of {', '.join(_kinds())}")
    whole = {key: whole_characters(value) for key, value in values.items()}
    return Document(whole["name"] or name, whole["text"], whole["kind"], whole["group"])  # type: ignore[arg-type]


@functools.cache
def _kinds() -> tuple[str, ...]:
    return get_args(get_type_hints(Document)["kind"])
