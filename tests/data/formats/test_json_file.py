"""JSON files of every shape, read without holding a long array."""

from __future__ import annotations

import io
import json
import random
import tracemalloc

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.formats import json_file, streams
from llmforge.errors import DataError


def texts(documents):
    return {document.name: document.text for document in documents}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"text": "a"}, {"text": "b"}]', {"f.x#1": "a", "f.x#2": "b"}),
        ('{"version": "1", "tags": [1], "data": [{"text": "a"}, {"text": "b"}], "end": {}}', {"f.x#1": "a", "f.x#2": "b"}),
        ('{"text": "one", "refs": [{"id": 1}]}', {"f.x": "one"}),
        ('{"refs": [{"text": "no"}], "text": "one"}', {"f.x": "one"}),
        ('{"text": "a"}\n{"text": "b"}\n', {"f.x#1": "a", "f.x#2": "b"}),
        ('[{"text": "a"}]\n[{"text": "b"}]', {"f.x#1": "a", "f.x#2": "b"}),
        ('\ufeff [ {"text" : "a"} ] ', {"f.x#1": "a"}),
    ],
)
@pytest.mark.parametrize("trickle", [False, True])
def test_shapes(gather, data, expected, trickle):
    documents, account = gather(json_file, data.encode(), trickle=trickle)
    assert texts(documents) == expected
    assert not account.skipped


def test_a_chat_is_one_record_though_its_messages_are_an_array(gather):
    data = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    documents, _ = gather(json_file, json.dumps(data).encode(), content="chat")
    assert texts(documents) == {"f.x": "User: hi\n\nAssistant: ho"}


@pytest.mark.parametrize(
    ("data", "got", "reason"),
    [
        ('[{"text": "a"}, {"text": "b"', 1, "broken JSON, with what follows it"),
        ('[{"text": "a"},]', 1, "broken JSON, with what follows it"),
        ('[{"text": "a"} {"text": "b"}]', 1, "broken JSON, with what follows it"),
        ('[{"text": "a"}, nul, {"text": "b"}]', 1, "broken JSON, with what follows it"),
        ('{"data": [{"text": "a"}]} {"text": "b"}', 1, "JSON with something behind its end"),
        ('[{"text": "a"}, ' + "[" * 100_000, 1, "JSON that is nested too deeply, with what follows it"),
        ('{"x": ' * 50_000, 0, "JSON that is nested too deeply, with what follows it"),
        ('{"a": [{"t": 1}], "b": [{"t": 1}]}', 0, "object with more than one array of records"),
        ('[{"text": "a"}, 7]', 1, "record that is no object with fields"),
        ('[{"text": "a"}, ' + "1" * 5000 + "]", 1, "broken JSON, with what follows it"),
        ("", 0, "empty"),
        ("[]", 0, "empty"),
    ],
)
def test_what_is_broken_is_counted_once_and_the_records_before_it_stay(gather, data, got, reason):
    documents, account = gather(json_file, data.encode())
    assert len(documents) == got
    assert account.skipped == {reason: 1}
    if reason != "empty":
        with pytest.raises(DataError, match=r"f\.x"):
            gather(json_file, data.encode(), strict=True)


def test_any_records_come_back_whatever_the_chunks(gather, monkeypatch):
    """Values straddle chunks of 40 bytes at every place: in escapes, literals, numbers and characters."""
    monkeypatch.setattr(json_file, "_CHUNK", 40)
    monkeypatch.setattr(streams, "_CHUNK", 37)
    source = random.Random(3)
    rows = []
    for _ in range(200):
        text = "x" + "".join(source.choices('ab"\\\n\t é€😀[]{},:', k=source.randint(0, 120)))
        others = {"n": source.choice([1, -2.5e-7, True, None, [], {}, [1, [2, {"a": "]"}]], "s" * source.randint(0, 90)])}
        rows.append({**others, "text": text})
    for data in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False), json.dumps({"k": {"x": 1}, "rows": rows})):
        documents, account = gather(json_file, data.encode())
        assert [document.text for document in documents] == [row["text"] for row in rows]
        assert not account.skipped


def test_a_number_at_the_end_of_a_chunk_goes_on(gather, monkeypatch):
    monkeypatch.setattr(json_file, "_CHUNK", 16)
    for blanks in range(20):
        documents, account = gather(json_file, (" " * blanks + '{"n": 12345678, "rows": [{"text": "a"}]}').encode())
        assert texts(documents) == {"f.x#1": "a"}
        assert not account.skipped


def test_a_long_array_is_not_held():
    data = json.dumps([{"text": "word " * 2000 + str(number)} for number in range(2000)]).encode()
    tracemalloc.start()
    try:
        count = sum(1 for _ in json_file.read(io.BytesIO(data), "f", Source(path="x"), Account()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2000
    assert len(data) > 19_000_000
    assert peak < len(data) // 2  # BytesIO shares the bytes, which are not counted again


def test_a_record_past_the_cap_ends_the_file(gather, monkeypatch):
    monkeypatch.setattr(json_file, "MAX_RECORD", 300_000)
    data = json.dumps([{"text": "a"}, {"text": "x" * 2_000_000}, {"text": "b"}]).encode()
    documents, account = gather(json_file, data)
    assert [document.text for document in documents] == ["a"]
    assert list(account.examples.values()) == [["f.x after record 1"]]


def test_undecodable_bytes_are_replaced(gather):
    documents, account = gather(json_file, b'[{"text": "a\xffb"}]')
    assert [document.text for document in documents] == ["a�b"]
    assert account.changed == {streams.REPLACED: 1}
