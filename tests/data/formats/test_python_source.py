"""A function of the user's own as a source: what it may yield, and whose line is named when it goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.formats import python_source
from llmforge.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch):
    """What a test imports or puts on the path is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("mine", None)


@pytest.fixture
def read(tmp_path: Path):
    def run(body: str, **settings):
        (tmp_path / "mine.py").write_text("import numpy as np\nfrom llmforge.data.documents import Document\n" + body)
        sys.modules.pop("mine", None)
        account = Account()
        source = Source(path="mine:documents", format="python", **settings)
        return list(python_source.documents(source, account)), account

    return run


def test_what_it_may_yield(read):
    documents, account = read(
        "def documents():\n"
        "    yield 'a text'\n"
        "    yield {'text': 'b', 'name': 'b.txt', 'group': 'g', 'kind': 'code'}\n"
        "    yield {'text': 'c', 'name': None}\n"
        "    yield Document('d.md', 'd', 'markdown')\n"
        "    yield Document('ids', '', ids=np.array([1, 2]))\n"
        "    yield ' '\n"
        "    yield 'half \\ud800'\n"
    )
    assert [(item.name, item.text, item.group, item.kind) for item in documents] == [
        ("mine:documents#1", "a text", "", "text"),
        ("b.txt", "b", "g", "code"),
        ("mine:documents#3", "c", "", "text"),
        ("d.md", "d", "", "markdown"),
        ("ids", "", "", "text"),
        ("mine:documents#7", "half �", "", "text"),
    ]
    assert documents[4].ids.tolist() == [1, 2]
    assert account.examples == {"empty": ["mine:documents#6"]}


def test_a_list_is_as_good(read):
    assert [item.text for item in read("documents = lambda: ['a', 'b']\n")[0]] == ["a", "b"]
    assert read("def documents():\n    return\n    yield\n")[0] == []


def test_it_is_not_read_ahead(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def documents():\n    yield 'a'\n    raise SystemExit\n")
    stream = python_source.documents(Source(path="mine:documents", format="python"), Account())
    assert next(stream).text == "a"


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("7", "document 2 is of type int"),
        ("None", "document 2 is of type NoneType"),
        ("b'bytes'", "document 2 is of type bytes"),
        ("{'name': 'x'}", "document 2 has no text"),
        ("{'text': 3}", "document 2 has a text of type int"),
        ("{'text': None}", "document 2 has no text"),
        ("{'text': 'a', 'group': 4}", "document 2 has a group of type int"),
        ("{'text': 'a', 'txt': 'b'}", "document 2 has a key 'txt'"),
        ("{'text': 'a', 'kind': 'poem'}", "document 2 has the kind 'poem', which is none of text, code, markdown, plain"),
        ("Document('n', None)", "document 2 has no text"),
        ("Document('n', '', ids=[1, 2])", "document 2 has ids that are no 1-D array of integers"),
        ("Document('n', '', ids=np.array([0.5]))", "document 2 has ids that are no 1-D array of integers"),
    ],
)
def test_anything_else_is_refused_by_its_number(read, item, told):
    with pytest.raises(DataError) as caught:
        read(f"def documents():\n    yield 'first'\n    yield {item}\n")
    assert str(caught.value).startswith(f"--source path=mine:documents: {told}.")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def documents():\n    yield 'a'\n    1 / 0\n", "ZeroDivisionError at mine.py:5, after document 1: division by zero."),
        ("def documents():\n    import json\n    json.loads('{')\n", "JSONDecodeError at mine.py:5, when it was called: "),
        ("def documents(path):\n    yield path\n", "TypeError at "),
        ("def documents():\n    return 'one text'\n", "it gave one str, not several documents"),
        ("def documents():\n    return None\n", "when it was called: 'NoneType' object is not iterable"),
        ("def documents():\n    yield 'a'\n    raise SystemExit(3)\n", "SystemExit at mine.py:5, after document 1: 3."),
        ("def documents():\n    raise ValueError('two\\nlines')\n", "ValueError at mine.py:4, when it was called: two lines."),
    ],
)
def test_its_exceptions_name_its_line(read, body, told):
    with pytest.raises(DataError) as caught:
        read(body)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_that_is_not_there(read):
    with pytest.raises(ConfigError, match="has no 'documents'"):
        read("")
