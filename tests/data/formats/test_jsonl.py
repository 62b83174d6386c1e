"""JSONL: what a line gives, and that a broken one costs no more than itself."""

from __future__ import annotations

import io
import json
import random

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.formats import jsonl, streams
from llmforge.errors import DataError


def texts(documents):
    return {document.name: document.text for document in documents}


def test_only_a_newline_ends_a_line(gather):
    rows = ["one\u2028two", "a\x85b\x0bc", "tail\r"]
    data = "\n".join(json.dumps({"text": row}, ensure_ascii=False) for row in rows).encode()
    documents, account = gather(jsonl, data)
    assert texts(documents) == {f"f.x:{number}": row for number, row in enumerate(rows, start=1)}
    assert not account.skipped


@pytest.mark.parametrize("trickle", [False, True])
def test_any_texts_come_back(gather, monkeypatch, trickle):
    """Round trip of random texts, through chunks so small that lines and characters straddle them."""
    monkeypatch.setattr(streams, "_CHUNK", 61)
    source = random.Random(5)
    alphabet = 'ab "\\/\n\r\t\0é€😀\u2028{}[],:'
    rows = ["x" + "".join(source.choices(alphabet, k=source.randint(0, 300))) for _ in range(300)]
    data = b"".join(
        json.dumps({"n": 1, "text": row}, ensure_ascii=source.random() < 0.5).encode() + source.choice([b"\n", b"\r\n", b"\n\n"])
        for row in rows
    )
    documents, account = gather(jsonl, data, trickle=trickle)
    assert [document.text for document in documents] == rows
    assert not account.skipped


def test_broken_lines_are_counted_by_their_number(gather):
    lines = [
        b'{"text": "first"}',
        b'{"text": "torn',
        b"",
        b"   ",
        b'["text"]',
        b'{"body": "other"}',
        b'{"text": 7}',
        b'{"text": null}',
        b'{"text": " \\n"}',
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    documents, account = gather(jsonl, b"\n".join(lines))
    assert texts(documents) == {"f.x:1": "first", "f.x:11": "last"}
    assert account.examples == {
        "line that is no JSON": ["f.x:2"],
        "record that is no object with fields": ["f.x:5"],
        "record without a field 'text'": ["f.x:6"],
        "record whose field 'text' is no text": ["f.x:7"],
        "empty": ["f.x:8", "f.x:9"],
        "line that is nested too deeply": ["f.x:10"],
    }


@pytest.mark.parametrize("line", [b"{", b"[1]", b"{}", b'{"text": 1}', b"[" * 100_000])
def test_strict_stops_at_the_line(gather, line):
    with pytest.raises(DataError, match=r"^f\.x:2: "):
        gather(jsonl, b'{"text": "a"}\n' + line + b"\n", strict=True)


def test_strict_takes_what_is_empty_but_not_broken(gather):
    documents, account = gather(jsonl, b'\n{"text": ""}\n{"text": "a"}\n', strict=True)
    assert texts(documents) == {"f.x:3": "a"}
    assert account.skipped == {"empty": 1}


def test_a_line_past_the_cap_is_not_held(monkeypatch):
    """Neither its bytes nor the lines around it are lost: the file is one long line between two short ones."""
    monkeypatch.setattr(streams, "MAX_RECORD", 4000)
    monkeypatch.setattr(streams.lines, "__defaults__", (4000,))
    chunk = 2**18

    class Endless(io.RawIOBase):
        """Short line, 60 MB without a line end, short line; and a look at how much of it is alive."""

        def __init__(self):
            self.parts = [b'{"text": "before"}\n', *[b"x" * chunk] * 240, b'\n{"text": "after"}\n']

        def read(self, size=-1):
            return self.parts.pop(0) if self.parts else b""

    import tracemalloc

    account = Account()
    file = Endless()
    tracemalloc.start()
    documents = list(jsonl.read(file, "f", Source(path="x"), account))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts(documents) == {"f:1": "before", "f:3": "after"}
    assert list(account.examples.values()) == [["f:2"]]
    assert peak < 8 * chunk


def test_undecodable_bytes_and_halves_of_pairs_are_mended_and_counted(gather):
    data = b'{"text": "a\xffb"}\n{"text": "half \\ud83d"}\n{"text": "\\ud83d\\ude00"}\n'
    documents, account = gather(jsonl, data)
    assert [document.text for document in documents] == ["a�b", "half �", "😀"]
    assert account.changed == {streams.REPLACED: 1, "halves of surrogate pairs replaced": 1}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-be"])
def test_marks_of_encodings(gather, encoding):
    mark = "" if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff"
    data = (mark + '{"text": "é😀ܪ"}\n{"text": "zwei"}\n').encode(encoding)
    documents, account = gather(jsonl, data, trickle=True)
    assert texts(documents) == {"f.x:1": "é😀ܪ", "f.x:2": "zwei"}
    assert not account.skipped
    assert not account.changed


def test_a_range_goes_on_with_the_line_numbers(gather):
    documents, _ = gather(jsonl, b'{"text": "a"}\nx\n{"text": "b"}\n', options={"first_line": 41})
    assert texts(documents) == {"f.x:41": "a", "f.x:43": "b"}
    with pytest.raises(DataError, match=r"f\.x:42"):
        gather(jsonl, b'{"text": "a"}\nx\n', options={"first_line": 41}, strict=True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b.c", "deep"),
        ("list.1.t", "second"),
        ("dotted.name", "literal"),
        ("list.0", None),
        ("list.7.t", None),
        ("a.b.c.d", None),
    ],
)
def test_a_path_goes_inside(gather, path, expected):
    record = {
        "a": {"b": {"c": "deep"}},
        "list": [{"t": "first"}, {"t": "second"}],
        "dotted.name": "literal",
        "dotted": {"name": "no"},
    }
    documents, account = gather(jsonl, json.dumps(record).encode(), text_field=path)
    assert [document.text for document in documents] == ([expected] if expected else [])
    assert bool(account.skipped) == (expected is None)


def test_a_group_by_field(gather):
    rows = [{"text": "a", "meta": {"repo": "x/y"}}, {"text": "b", "meta": {"repo": 7}}, {"text": "c", "meta": {}}]
    documents, account = gather(jsonl, "\n".join(map(json.dumps, rows)).encode(), group_by="field.meta.repo")
    assert [(document.text, document.group) for document in documents] == [("a", "x/y"), ("b", "7")]
    assert account.examples == {"record without a field 'meta.repo' to group by": ["f.x:3"]}


def test_a_million_line_file_loses_its_one_broken_line():
    """At a hundredth of the size; the count and the number are what matter."""
    rows = [b'{"text": "line %d"}' % number for number in range(1, 10_001)]
    rows[6_543 - 1] = b'{"text": "line 6543'
    account = Account()
    documents = list(jsonl.read(io.BytesIO(b"\n".join(rows)), "big.jsonl", Source(path="x"), account))
    assert len(documents) == 9_999
    assert account.lines() == ["left out 1 entry: line that is no JSON (e.g. big.jsonl:6543)"]


def test_the_cap_holds_wherever_a_line_lies(monkeypatch):
    """At the end of a chunk, within one and over several; a line of just the cap is taken."""
    source = random.Random(2)
    rows = [b"x" * source.choice([0, 1, 9, 10, 11, 12, 40, 90]) for _ in range(500)]
    for chunk in (5, 16, 1000):
        monkeypatch.setattr(streams, "_CHUNK", chunk)
        found = list(streams.lines(io.BytesIO(b"\n".join([*rows, b"end"])), limit=10))
        assert found == [*(row if len(row) <= 10 else None for row in rows), b"end"]
