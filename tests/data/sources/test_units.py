"""Units and their digests, and the documents of every kind of file."""

from __future__ import annotations

import pickle

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account, Document
from llmforge.data.sources.cutting import cut_sections
from llmforge.data.sources.units import find_units, read_unit
from llmforge.errors import DataError

BOOK = (
    "The Project Gutenberg eBook of Mice\n\nThis eBook is for the use of anyone anywhere.\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK MICE ***\n\n"
    + "".join(f"Mouse {i} came in and sat down by the fire.\n\n" for i in range(400))
    + "*** END OF THE PROJECT GUTENBERG EBOOK MICE ***\n\nUpdated editions will replace the previous one.\n"
)


def units_of(path, **settings):
    return list(find_units(Source(path=str(path), **settings), Account()))


# Digests


def test_a_digest_is_content_and_kind_and_nothing_else(write):
    write({"a.txt": "same", "b.txt": "same", "c.txt": "other", "d.go": "same"})
    a, b, c, d = units_of(write({}))
    assert a.digest == b.digest
    assert len({a.digest, c.digest, d.digest}) == 3
    assert all(len(unit.digest) == 32 for unit in (a, b, c, d))
    assert [unit.size for unit in (a, c)] == [4, 5]


def test_settings_do_not_change_a_digest_and_one_byte_does(write):
    (before,) = units_of(write({"a.txt": "x" * 10_000}))
    (same,) = units_of(write({}), format="text", clean=False)
    (after,) = units_of(write({"a.txt": "x" * 9_999 + "y"}))
    assert before.digest == same.digest != after.digest


def test_units_travel_to_other_processes(write):
    for unit in units_of(write({"a.txt": "text", "b.go": "package b"})):
        copy = pickle.loads(pickle.dumps(unit))
        assert copy == unit
        assert list(read_unit(copy, Account())) == list(read_unit(unit, Account()))


def test_a_dataset_on_disk_has_a_digest_and_a_function_has_none(write):
    root = write({"train/data.arrow": "rows", "dataset_dict.json": "{}"})
    (before,) = units_of(root, format="hf")
    assert (before.kind, before.size) == ("hf", 6)
    write({"train/data.arrow": "other rows"})
    (after,) = units_of(root, format="hf")
    assert before.digest != after.digest
    for source in ({"format": "python", "path": "module:function"}, {"format": "hf", "path": "someone/somewhat"}):
        (unit,) = units_of(**source)
        assert (unit.digest, unit.kind) == ("", source["format"])


# Kinds


@pytest.mark.parametrize(
    ("name", "format", "kind"),
    [
        ("a.md", "auto", "markdown"),
        ("a.MDX", "auto", "markdown"),
        ("a.rst", "auto", "text"),
        ("a.ndjson", "auto", "jsonl"),
        ("a.json", "auto", "json"),
        ("a.tsv", "auto", "csv"),
        ("a.parquet", "auto", "parquet"),
        ("a.npz", "auto", "npz"),
        ("a.txt.gz", "auto", "text"),
        ("a.jsonl.zst", "auto", "jsonl"),
        ("a.py.xz", "code", "code"),
        ("a.md", "text", None),
        ("a.txt", "gutenberg", "gutenberg"),
        ("a.json", "jsonl", None),
        ("gz", "auto", None),
        ("a.go/README", "auto", None),
    ],
)
def test_kinds_by_suffix(write, name, format, kind):
    assert [unit.kind for unit in units_of(write({name: "text"}), format=format)] == ([kind] if kind else [])


@pytest.mark.parametrize(("format", "kind"), [("auto", "text"), ("jsonl", "jsonl"), ("csv", "csv"), ("code", "code")])
def test_a_file_that_is_named_is_what_the_format_says(write, format, kind):
    (unit,) = units_of(write({"data.odd": "text"}) / "data.odd", format=format)
    assert unit.kind == kind


def test_documents_carry_their_kind(write, load):
    documents = load(write({"a.md": "# a", "b.go": "package b", "c.txt": "c"}))[1]
    assert {document.name: document.kind for document in documents} == {"a.md": "markdown", "b.go": "code", "c.txt": "text"}


def test_records_of_every_kind(write, load):
    write({"a.json": '[{"text": "one"}, {"text": "two"}]', "b.csv": "text,n\nthree,1\n", "c.jsonl": '{"text": "four"}\n'})
    documents = load(write({}))[1]
    assert [document.text for document in documents] == ["one", "two", "three", "four"]


def test_records_without_the_field_are_refused_by_name_and_counted_in_a_folder_of_all_sorts(write, load):
    path = write({"a.go": "package a", "b.csv": "name,n\nx,1\n"})
    _, documents, account = load(path)
    assert [document.name for document in documents] == ["a.go"]
    assert account.examples == {"csv file without the fields that are asked for": ["b.csv"]}
    for given, settings in ((path / "b.csv", {}), (path, {"format": "csv"}), (path, {"strict": True})):
        with pytest.raises(DataError, match="column 'text'"):
            load(given, **settings)


# Sections


@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_fences_of_markdown_stay_whole(fence):
    block = f"{fence}python\n" + "x = 1\n\n" * 3000 + f"{fence}\n\n"
    text = "Prose before.\n\n" * 300 + block + "Prose after.\n\n" * 300
    sections = cut_sections(Document("a.md", text, "markdown"))
    assert "".join(section.text for section in sections) == text
    assert len(sections) >= 3
    assert [block in section.text for section in sections].count(True) == 1
    assert len(cut_sections(Document("a.txt", text))) > len(sections)


def test_a_fence_that_is_never_closed_and_one_within_another():
    opened = "a\n\n" * 4000 + "```\n" + "b\n\n" * 4000
    assert cut_sections(Document("a", opened, "markdown"))[-1].text.endswith("b\n\n")
    nested = "````\n" + "```\n\nx\n\n" * 2000 + "````\n\n" + "prose\n\n" * 2000
    assert cut_sections(Document("a", nested, "markdown"))[0].text.startswith("````")
    assert all("```" not in section.text for section in cut_sections(Document("a", nested, "markdown"))[1:])


# Books


def test_a_book_is_one_document_as_it_stands(write, load):
    _, documents, account = load(write({"a.txt": BOOK}), format="gutenberg")
    assert documents == [Document("a.txt", BOOK, "text")]
    assert not account.changed


def test_a_book_that_is_cut_loses_its_header_and_licence_first(write, load):
    _, documents, account = load(write({"a.txt": BOOK}), format="gutenberg", segment="paragraph")
    assert len(documents) > 2
    assert documents[0].text.startswith("Mouse 0 ")
    assert documents[-1].text.rstrip().endswith("Mouse 399 came in and sat down by the fire.")
    assert not any("GUTENBERG" in document.text for document in documents)
    assert sum(account.changed.values()) >= 2


def test_a_book_is_left_alone_without_cleaning(write, load):
    documents = load(write({"a.txt": BOOK}), format="gutenberg", segment="paragraph", clean=False)[1]
    assert documents[0].text == "The Project Gutenberg eBook of Mice\n"
