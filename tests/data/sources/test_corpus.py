"""Documents out of files: what is read, what is left out, and that both are told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from helpers import write_documents

from llmforge.configs.data import DataArguments
from llmforge.data.documents import Document
from llmforge.data.sources.corpus import check_corpus, read_corpus
from llmforge.data.sources.cutting import FEW_DOCUMENTS, SECTION_LENGTH, cut_sections
from llmforge.errors import DataError


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def read(path: Path, **settings):
    documents, report = read_corpus(DataArguments(corpus=str(path), **settings))
    return {document.name: document.text for document in documents}, report


# What is read


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("auto", ["a.go", "b.txt", "c.md", "d.jsonl:1", "e.PY"]),
        ("code", ["a.go", "e.PY"]),
        ("text", ["b.txt"]),
        ("markdown", ["c.md"]),
        ("jsonl", ["d.jsonl:1"]),
    ],
)
def test_a_folder_is_read_by_suffix(root, format, expected):
    write(root, {"a.go": "go", "b.txt": "txt", "c.md": "md", "d.jsonl": '{"text": "line"}', "e.PY": "py", "f.xyz": "?", "g": "?"})
    texts, report = read(root, format=format)
    assert sorted(texts) == expected
    assert report.files == len(expected)
    assert report.skipped == {"another suffix": 7 - len(expected)}


def test_named_suffixes_are_all_that_is_taken(root):
    write(root, {"a.go": "go", "go.mod": "mod", "b.txt": "txt", "c.tmpl.html": "html", "d.html": "no"})
    texts, report = read(root, suffixes=[".mod", ".go", "tmpl.html"])
    assert sorted(texts) == ["a.go", "c.tmpl.html", "go.mod"]
    assert report.skipped == {"another suffix": 2}


def test_a_named_suffix_is_read_as_the_format_says(root):
    write(root, {"data.ndjson": '{"text": "one"}\n{"text": "two"}\n', "old.jsonl": '{"text": "three"}'})
    texts, _ = read(root, format="jsonl", suffixes=[".ndjson"])
    assert texts == {"data.ndjson:1": "one", "data.ndjson:2": "two"}


def test_one_file_can_be_the_corpus_whatever_its_suffix(root):
    write(root, {"book.dat": "text"})
    assert read(root / "book.dat", format="text")[0] == {"book.dat": "text"}


def test_a_text_file_is_one_document_as_it_stands(root):
    text = "  first\n\n\n  second\r\n\tthird  \n"
    write(root, {"a.txt": text})
    assert read(root)[0] == {"a.txt": text}


def test_a_paragraph_is_a_document_when_asked_for(root):
    write(root, {"a.txt": "one\nstill one\n\n \t\ntwo\n\n\n\nthree", "b.go": "f()\n\ng()\n"})
    texts, report = read(root, segment="paragraph")
    assert [text.strip() for text in texts.values()] == ["one\nstill one", "two", "three", "f()\n\ng()"]
    assert not report.changed


def test_paragraphs_of_a_windows_file(root):
    write(root, {"a.txt": "one\r\nstill one\r\n\r\ntwo\r\n"})
    assert len(read(root, segment="paragraph")[0]) == 2


def test_jsonl_gives_one_document_a_line_by_its_field(root):
    lines = [json.dumps({"body": f"text {i}", "text": "another field"}) for i in range(3)]
    write(root, {"a.jsonl": "\n".join(lines)})
    assert read(root, text_field="body")[0] == {f"a.jsonl:{i + 1}": f"text {i}" for i in range(3)}


def test_broken_jsonl_lines_are_counted_with_their_line_number(root):
    good = json.dumps({"text": "good"})
    write(root, {"a.jsonl": f'{good}\n{{"text": \n\n{good}\n[1]\n{{"text": 5}}\n{{"other": "x"}}\n{{"text": " "}}\n'})
    texts, report = read(root)
    assert list(texts) == ["a.jsonl:1", "a.jsonl:4"]
    assert sum(report.skipped.values()) == 5
    assert report.examples["line that is no JSON"] == ["a.jsonl:2"]
    assert report.examples["empty"] == ["a.jsonl:8"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_only_a_newline_ends_a_jsonl_line(root, character):
    write(root, {"a.jsonl": json.dumps({"text": f"one{character}document"}, ensure_ascii=False) + "\r\n"})
    texts, report = read(root)
    assert list(texts.values()) == [f"one{character}document"]
    assert not report.skipped


def test_a_line_nested_too_deeply_is_a_broken_line(root):
    write(root, {"a.jsonl": '{"text": "good"}\n' + "[" * 100_000 + "\n"})
    texts, report = read(root)
    assert list(texts) == ["a.jsonl:1"]
    assert list(report.examples.values()) == [["a.jsonl:2"]]


# What is left out


def test_a_folder_named_like_a_file_is_a_folder(root):
    write(root, {"not_a_file.go/inner.go": "inner", "a.go": "a"})
    assert read(root)[0] == {"a.go": "a", "not_a_file.go/inner.go": "inner"}


def test_what_is_no_regular_file_is_skipped_and_counted(root):
    write(root, {"a.go": "a"})
    os.mkfifo(root / "pipe.go")
    (root / "broken.go").symlink_to(root / "nowhere.go")
    texts, report = read(root)
    assert texts == {"a.go": "a"}
    assert report.skipped == {"no regular file": 2}


def test_a_fifo_as_the_corpus_is_refused_and_does_not_hang(root):
    os.mkfifo(root / "pipe.go")
    with pytest.raises(DataError):
        read(root / "pipe.go")


def test_a_link_that_leaves_the_corpus_is_skipped_and_counted(root, tmp_path):
    write(tmp_path, {"secret.go": "secret"})
    write(root, {"a.go": "a"})
    (root / "out.go").symlink_to(tmp_path / "secret.go")
    (root / "within.go").symlink_to(root / "a.go")
    texts, report = read(root)
    assert texts == {"a.go": "a", "within.go": "a"}
    assert report.skipped == {"link out of the corpus": 1}


def test_a_link_to_itself_is_skipped(root):
    write(root, {"a.go": "a"})
    (root / "loop.go").symlink_to(root / "loop.go")
    texts, report = read(root)
    assert texts == {"a.go": "a"}
    assert sum(report.skipped.values()) == 1


def test_a_linked_folder_is_not_walked_into_and_is_counted(root, tmp_path):
    write(tmp_path, {"elsewhere/b.go": "b"})
    write(root, {"a.go": "a"})
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    texts, report = read(root)
    assert texts == {"a.go": "a"}
    assert sum(report.skipped.values()) == 1


def test_hidden_folders_are_not_entered(root):
    write(root, {"a.go": "a", ".git/b.go": "b", "sub/.cache/c.go": "c", "sub/d.go": "d"})
    assert sorted(read(root)[0]) == ["a.go", "sub/d.go"]


def test_binary_files_among_the_sources_are_counted(root):
    write(root, {"a.go": "a", "b.go": b"ELF\0\1\2", "c.txt": "utf-16".encode("utf-16-le")})
    texts, report = read(root)
    assert texts == {"a.go": "a"}
    assert (report.files, report.bytes, report.skipped, report.examples) == (1, 1, {"binary": 2}, {"binary": ["b.go", "c.txt"]})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_wide_encodings_are_read_where_their_mark_says_so(root, encoding):
    write(root, {"a.txt": "café ž".encode(encoding), "b.jsonl": '{"text": "žluť"}\n'.encode(encoding)})
    texts, report = read(root)
    assert texts == {"a.txt": "café ž", "b.jsonl:1": "žluť"}
    assert report.lines() == []


def test_undecodable_bytes_are_replaced_and_counted(root):
    write(root, {"a.go": b"caf\xe9 end", "b.go": "café"})
    texts, report = read(root)
    assert texts == {"a.go": "caf� end", "b.go": "café"}
    assert report.lines() == ["undecodable bytes replaced in 1 document (e.g. a.go)"]


def test_a_byte_order_mark_is_dropped(root):
    write(root, {"a.go": b"\xef\xbb\xbfpackage a", "b.go": b"\xef\xbb\xbfbad \xff"})
    assert read(root)[0] == {"a.go": "package a", "b.go": "bad �"}


def test_empty_files_are_counted(root):
    write(root, {"a.go": "a", "b.go": "", "c.go": " \n\t\n"})
    texts, report = read(root)
    assert texts == {"a.go": "a"}
    assert report.skipped == {"empty": 2}
    assert report.lines() == ["left out 2 entries: empty (e.g. b.go)"]


def test_a_report_of_a_clean_corpus_is_empty(corpus):
    assert read(corpus)[1].lines() == []


# What is refused


def test_a_missing_corpus_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"--corpus .*nowhere: no such file"):
        check_corpus(DataArguments(corpus=str(tmp_path / "nowhere")))


def test_an_empty_folder_is_refused(root):
    with pytest.raises(DataError, match="is empty"):
        check_corpus(DataArguments(corpus=str(root)))


def test_no_corpus_at_all_is_refused():
    with pytest.raises(DataError, match="--corpus FOLDER"):
        check_corpus(DataArguments())


@pytest.mark.parametrize(
    ("files", "settings", "told"),
    [
        ({"a.xyz": "x", "b.xyz": "y"}, {}, ["known suffix", "2 another suffix", "a.xyz"]),
        ({"a.go": "x"}, {"suffixes": [".rs", ".zig"]}, [".rs .zig", "1 another suffix", "a.go"]),
        ({"a.go": "x"}, {"format": "jsonl"}, ["format jsonl", "1 another suffix", "a.go"]),
        ({"a.go": "", "b.go": b"\0\0"}, {}, ["1 empty", "a.go", "1 binary", "b.go"]),
        ({"a.jsonl": "no json\n{}\n"}, {}, ["1 line that is no JSON", "a.jsonl:1", "without a field"]),
    ],
)
def test_a_corpus_without_a_document_is_refused_with_what_was_found(root, files, settings, told):
    with pytest.raises(DataError) as caught:
        read(write(root, files), **settings)
    for part in told:
        assert part in str(caught.value)


# Few documents


def prose(seed: int, size: int, newline: str = "\n") -> str:
    """About `size` characters in blocks of uneven length between blank lines."""
    blocks, length, number = [], 0, 0
    while length < size:
        block = newline.join(f"line {seed} {number} {i} of some prose" for i in range(1 + number % 7))
        blank = newline * (2 + number % 3)
        blocks.append(block + blank)
        length += len(blocks[-1])
        number += 1
    return "".join(blocks)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_few_documents_are_cut_into_sections_and_nothing_is_lost(root, newline):
    books = {"a.txt": prose(1, 100_000, newline), "b.txt": prose(2, 60_000, newline), "short.txt": "short"}
    texts, report = read(write(root, books))
    assert len(report.changed) == 1
    assert any("sections of about 8 KB" in line for line in report.lines())
    for name, book in books.items():
        sections = [text for section, text in texts.items() if section.split("#")[0] == name]
        assert "".join(sections) == book
        assert all(len(section) <= SECTION_LENGTH for section in sections)
        assert len(sections) <= 1.2 * len(book) / SECTION_LENGTH + 1  # well filled
        assert all(section.endswith(newline * 2) for section in sections[:-1])  # cut at blank lines


def test_sections_are_named_after_file_and_number(root):
    texts, _ = read(write(root, {"a.txt": prose(1, 20_000), "b.txt": "short"}))
    assert list(texts) == ["a.txt#0", "a.txt#1", "a.txt#2", "b.txt"]


def test_many_documents_are_left_whole(root):
    files = {f"{i:02d}.txt": prose(i, 20_000) for i in range(FEW_DOCUMENTS)}
    texts, report = read(write(root, files))
    assert texts == files
    assert not report.changed


def test_few_short_documents_are_left_whole_without_a_word(root):
    texts, report = read(write(root, {"a.txt": "one\n\ntwo\n", "b.txt": "three"}))
    assert texts == {"a.txt": "one\n\ntwo\n", "b.txt": "three"}
    assert report.lines() == []


def test_a_block_longer_than_a_section_is_kept_whole():
    long = "x" * (2 * SECTION_LENGTH) + "\n\n"
    sections = cut_sections(Document("a", "first\n\n" + long + "last\n"))
    assert [section.text for section in sections] == ["first\n\n", long, "last\n"]


@pytest.mark.parametrize("text", ["x" * (2 * SECTION_LENGTH), "line\n" * SECTION_LENGTH])
def test_a_long_document_without_a_blank_line_stays_one(text):
    assert cut_sections(Document("a", text)) == [Document("a", text)]


@pytest.mark.parametrize("length", [1, 5, 17, 100])
def test_sections_of_any_length_add_up_to_the_document(length):
    text = "\n\n  \n" + prose(3, 2_000) + "tail"
    sections = cut_sections(Document("a", text), length)
    assert "".join(section.text for section in sections).strip() == text.strip()


# Order


def test_order_depends_on_the_paths_alone(tmp_path):
    names = ["b.go", "a/z.go", "a/b/c.go", "a.go", "C.go", "ä.go"]
    orders = []
    for number, order in enumerate([names, names[::-1], sorted(names)]):
        root = tmp_path / str(number)
        for name in order:
            write(root, {name: f"text of {name}"})
        orders.append(list(read(root)[0]))
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(names)


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path):
    """A recipe's config asks for .go; the user gives it one book."""
    (tmp_path / "book.txt").write_text("Call me Ishmael.")
    (tmp_path / "notes").write_text("No suffix.")
    for name in ("book.txt", "notes"):
        documents, _ = read_corpus(DataArguments(corpus=str(tmp_path / name), suffixes=[".go"]))
        assert [document.name for document in documents] == [name]


def denying(monkeypatch, folder):
    """Makes one folder unreadable, for root as well."""
    stock = os.scandir

    def scandir(path="."):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return stock(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listdir(path) if Path(path) != folder else scandir(path))


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    write_documents(tmp_path / "corpus", 3)
    write_documents(tmp_path / "corpus" / "secret", 3)
    denying(monkeypatch, tmp_path / "corpus" / "secret")
    documents, report = read_corpus(DataArguments(corpus=str(tmp_path / "corpus")))
    assert len(documents) == 3
    assert report.skipped == {"unreadable folder (Permission denied)": 1}
    assert report.examples == {"unreadable folder (Permission denied)": ["secret"]}
    with pytest.raises(DataError, match="secret: unreadable folder"):
        read_corpus(DataArguments(corpus=str(tmp_path / "corpus"), strict=True))


def test_a_corpus_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    denying(monkeypatch, tmp_path)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        check_corpus(DataArguments(corpus=str(tmp_path)))


def test_where_gitignore_names_everything_the_way_around_it_is_told(root):
    """As in the source packages of distributions."""
    write(root, {".gitignore": "/*\n", "src/a.py": "x = 1\n"})
    with pytest.raises(DataError, match=r"2 named by \.gitignore, e\.g\. src.*Give --no-gitignore"):
        read(root)
    assert list(read(root, gitignore=False)[0]) == ["src/a.py"]
