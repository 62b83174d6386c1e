"""Parquet: the columns asked for, nested ones too, and files that are none."""

from __future__ import annotations

import datetime
import io
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.formats import parquet
from llmforge.errors import DataError


def written(columns: dict, **settings) -> bytes:
    output = io.BytesIO()
    pq.write_table(pa.table(columns), output, **settings)
    return output.getvalue()


def texts(documents):
    return {document.name: document.text for document in documents}


def test_rows_over_row_groups_and_batches(gather):
    rows = [f"row {number}" for number in range(500)]
    documents, account = gather(parquet, written({"id": list(range(500)), "text": rows}, row_group_size=90), name="f.parquet")
    assert texts(documents) == {f"f.parquet#{number}": row for number, row in enumerate(rows, start=1)}
    assert not account.skipped


def test_nested_fields_and_lists(gather):
    columns = {
        "meta": [{"body": {"text": "deep"}, "other": 1}],
        "parts": [[{"t": "first"}, {"t": "second"}]],
        "a.b": ["literal"],
    }
    for path, expected in {"meta.body.text": "deep", "parts.1.t": "second", "a.b": "literal"}.items():
        assert [document.text for document in gather(parquet, written(columns), text_field=path)[0]] == [expected]


def test_only_the_columns_asked_for_are_read(gather):
    """A column that cannot be decoded does no harm unless it is asked for."""
    data = written({"text": ["a"], "raw": pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())})
    assert texts(gather(parquet, data)[0]) == {"f.x#1": "a"}
    documents, account = gather(parquet, data, text_field="raw")
    assert not documents
    assert account.examples == {"record that is no UTF-8": ["f.x#1"]}


def test_rows_that_give_nothing_are_counted(gather):
    documents, account = gather(parquet, written({"text": ["a", None, " ", "b"]}))
    assert texts(documents) == {"f.x#1": "a", "f.x#4": "b"}
    assert account.skipped == {"empty": 2}
    _, account = gather(parquet, written({"text": [1, 2]}))
    assert account.skipped == {"record whose field 'text' is no text": 2}


@pytest.mark.parametrize(("path", "asked"), [("body", "body"), ("meta.txt", "meta.txt")])
def test_a_missing_column_is_told_with_those_there_are(gather, path, asked):
    with pytest.raises(DataError, match=rf"no column '{asked}' \(--text_field\); it has id, meta\.text\."):
        gather(parquet, written({"id": [1], "meta": [{"text": "a"}]}), text_field=path)


def test_broken_files_are_one_thing_left_out(gather):
    """Whole ones that flipped one letter too, where the writer gave its pages checksums."""
    rows = [f"text number {number}" * 20 for number in range(2000)]
    whole = written({"text": rows}, row_group_size=100, compression="none", write_page_checksum=True)
    torn = bytearray(whole)
    torn[torn.index(b"text number 1000")] ^= 1
    for data in (b"", b"hello", whole[:-100], bytes(torn)):
        documents, account = gather(parquet, data)
        assert len(documents) < 2000
        assert account.skipped == {"broken Parquet file": 1}
        with pytest.raises(DataError, match=r"^f\.x.*broken Parquet file"):
            gather(parquet, data, strict=True)


def test_a_group_and_a_chat(gather):
    columns = {
        "messages": [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]],
        "when": [datetime.date(2020, 1, 2)],
    }
    documents, _ = gather(parquet, written(columns), content="chat", group_by="field.when")
    assert [(document.text, document.group) for document in documents] == [("User: hi\n\nAssistant: ho", "2020-01-02")]


def test_a_large_row_group_is_read_in_pieces():
    data = written({"text": [f"{number} " + "word " * 2000 for number in range(2000)]}, use_dictionary=False)
    tracemalloc.start()
    count = sum(1 for _ in parquet.read(io.BytesIO(data), "f", Source(path="x"), Account()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2000
    assert peak < 4_000_000  # of 20 MB of text
