"""CSV: rows as spreadsheets write them, and rows that are broken."""

from __future__ import annotations

import csv
import io
import random

import pytest

from llmforge.data.formats import csv_file, streams
from llmforge.errors import DataError


def texts(documents):
    return {document.name: document.text for document in documents}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_any_rows_come_back(gather, delimiter, ending):
    """Round trip of random texts, with the line that each row begins in."""
    source = random.Random(delimiter + ending)
    output = io.StringIO()
    writer = csv.writer(output, delimiter=delimiter, lineterminator=ending)
    writer.writerow(["id", "text", "note"])
    expected = {}
    for number in range(200):
        text = "x" + "".join(source.choices("ab ,;\t|\"\n\0é😀'", k=source.randint(0, 60)))
        expected[f"f.csv:{output.getvalue().count(chr(10)) + 1}"] = text
        writer.writerow([number, text, source.choice(["", "a,b", 'q"q', "two\nlines"])])
    documents, account = gather(csv_file, output.getvalue().encode(), name="f.csv", trickle=True)
    assert texts(documents) == expected
    assert not account.skipped


def test_prose_does_not_upset_the_choice_of_a_delimiter(gather):
    data = "id;text\n1;One, two, three, four, five, and so on\n2;Six | seven, eight\n"
    documents, _ = gather(csv_file, data.encode())
    assert [document.text for document in documents] == ["One, two, three, four, five, and so on", "Six | seven, eight"]


def test_a_tsv_is_cut_at_tabs_alone(gather):
    documents, _ = gather(csv_file, b"text,n\ttext\na, b\tc, d\n", name="f.TSV")
    assert texts(documents) == {"f.TSV:2": "c, d"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbftext,n\na,1\n", {"f.x:2": "a"}),
        ("text,n\né,1\n".encode("utf-16"), {"f.x:2": "é"}),
        (b"text\nalone\n", {"f.x:2": "alone"}),
        (b"n,text\r1,a\r2,b\r", {"f.x:2": "a", "f.x:3": "b"}),
        (b'n, text\n1, "a, b"\n', {"f.x:2": "a, b"}),
        (b'n,text\r\n1,"a\r\nb\rc"\r\n', {"f.x:2": "a\r\nb\rc"}),
        (b'\n\n"two\nlines",text\n1,a', {"f.x:5": "a"}),
    ],
)
def test_headers(gather, data, expected):
    documents, account = gather(csv_file, data)
    assert texts(documents) == expected
    assert not account.skipped


def test_broken_rows_are_counted_by_their_line(gather):
    data = b'n,text\n1,a\n2\n3,b,c\n4,"q"q\n\n5,\n6,"two\nlines"\n7,last\n'
    documents, account = gather(csv_file, data)
    assert texts(documents) == {"f.x:2": "a", "f.x:8": "two\nlines", "f.x:10": "last"}
    assert account.examples == {
        "row with too few columns": ["f.x:3: 1, not 2"],
        "row with too many columns": ["f.x:4: 3, not 2"],
        "row with a quote inside a quoted field": ["f.x:5"],
        "empty": ["f.x:7"],
    }
    for line, row in ((2, b"2"), (2, b"3,b,c"), (2, b'4,"q"q'), (2, b'5,"open')):
        with pytest.raises(DataError, match=f"^f.x:{line}: "):
            gather(csv_file, b"n,text\n" + row + b"\n", strict=True)


def test_a_quote_that_is_never_closed_is_said(gather):
    documents, account = gather(csv_file, b'n,text\n1,a\n2,"b\n3,c\n')
    assert texts(documents) == {"f.x:2": "a"}
    assert account.examples == {"quote that is never closed, with what follows it": ["f.x:3"]}


def test_a_missing_column_is_told_with_those_there_are(gather):
    with pytest.raises(DataError, match=r"no column 'body' \(--text_field\); it has id, text\."):
        gather(csv_file, b"id,text\n1,a\n", text_field="body")


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \n"])
def test_nothing_in_it(gather, data):
    documents, account = gather(csv_file, data)
    assert not documents
    assert account.skipped == {"empty": 1}


def test_what_is_past_the_cap_ends_the_file(gather, monkeypatch):
    """In the middle of a field nobody knows where the next row begins."""
    monkeypatch.setattr(csv_file, "MAX_RECORD", 1000)
    documents, account = gather(csv_file, b'n,text\n1,a\n2,"' + b"x\n" * 700 + b'"\n3,b\n')
    assert texts(documents) == {"f.x:2": "a"}
    assert account.examples == {"field longer than 0 MB, with what follows it": ["f.x:3"]}
    documents, account = gather(csv_file, b"n,text\n1,a\n2," + b"x" * 5000 + b"\n3,b\n")
    assert texts(documents) == {"f.x:2": "a"}
    assert account.examples == {"line longer than 0 MB, with what follows it": ["f.x:3"]}


def test_undecodable_bytes_are_replaced(gather):
    documents, account = gather(csv_file, b"n,text\n1,a\xff\n")
    assert [document.text for document in documents] == ["a�"]
    assert account.changed == {streams.REPLACED: 1}


def test_a_chat_in_a_cell(gather):
    data = 'id,messages\n1,"[{""role"": ""user"", ""content"": ""hi""}]"\n2,nothing\n'
    documents, account = gather(csv_file, data.encode(), content="chat")
    assert texts(documents) == {"f.x:2": "User: hi"}
    assert account.examples == {"record whose field 'messages' is no list of messages": ["f.x:3"]}
