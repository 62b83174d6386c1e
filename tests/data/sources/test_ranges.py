"""Large files: in ranges, in bounded memory, and the same text as if they were read whole."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import tracemalloc

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.sources import cutting
from llmforge.data.sources.cutting import cut_stream, paragraphs
from llmforge.data.sources.units import find_units, read_unit
from llmforge.errors import DataError


@pytest.fixture
def small_ranges(monkeypatch):
    """Ranges of 2 KB, whole files up to 4 KB, sections of a large one of 500 bytes."""
    for name, value in {"RANGE_BYTES": 2048, "WHOLE_BYTES": 4096, "LINE_BYTES": 4096, "LARGE_SECTION_BYTES": 500}.items():
        monkeypatch.setattr(cutting, name, value)


def prose(blocks: int, seed: int = 0) -> str:
    source = random.Random(seed)
    return "".join(
        "".join(f"line {i} {'w' * source.randint(0, 60)}\n" for _ in range(source.randint(1, 9))) + "\n" for i in range(blocks)
    )


def lines(count: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [f"text {i} {'é' * source.randint(0, 90)}" for i in range(count)]


def jsonl(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


def test_jsonl_in_ranges_keeps_every_line_and_its_number(write, load, small_ranges):
    texts = lines(200)
    units, documents, account = load(write({"a.jsonl": jsonl(texts)}))
    assert len(units) > 5
    assert all(unit.size <= 2048 for unit in units)
    assert [(document.name, document.text) for document in documents] == [
        (f"a.jsonl:{i + 1}", text) for i, text in enumerate(texts)
    ]
    assert (account.files, account.bytes) == (1, len(jsonl(texts).encode()))


def test_ranges_name_the_line_or_byte_they_begin_with(write, load, small_ranges):
    content = jsonl(lines(100))
    units, _, _ = load(write({"a.jsonl": content}))
    raw = content.encode()
    for unit in units:
        assert int(unit.name.rpartition(":")[2]) == raw[: unit.start].count(b"\n") + 1
    assert len({unit.name for unit in units}) == len(units)


def test_an_appended_line_changes_the_last_range_alone(write, load, small_ranges):
    texts = lines(200)
    before, _, _ = load(write({"a.jsonl": jsonl(texts)}))
    after, _, _ = load(write({"a.jsonl": jsonl([*texts, "one more"])}))
    assert [(unit.name, unit.digest) for unit in before[:-1]] == [(unit.name, unit.digest) for unit in after[: len(before) - 1]]
    assert before[-1].digest != after[len(before) - 1].digest
    assert len(after) <= len(before) + 1


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_paragraphs_are_the_same_in_ranges_and_whole(write, load, monkeypatch, newline):
    text = prose(300).replace("\n", newline)
    path = write({"a.txt": text.encode()})
    whole = load(path, segment="paragraph")
    monkeypatch.setattr(cutting, "RANGE_BYTES", 2048)
    cut = load(path, segment="paragraph")
    assert len(cut[0]) > 5
    assert len(whole[0]) == 1
    assert cut[1] == whole[1]
    assert len(cut[1]) == 300
    raw = text.encode()
    for document in cut[1]:
        place = int(document.name.removeprefix("a.txt@"))
        assert raw[place:].startswith(document.text.encode())


def test_a_text_too_large_for_one_document_is_cut_into_sections_and_nothing_is_lost(write, load, small_ranges):
    text = prose(100)
    units, documents, account = load(write({"a.txt": text}))
    assert len(units) > 3
    assert "".join(document.text for document in documents) == text
    assert len(documents) > len(text) / 500
    assert all(document.text.endswith("\n\n") for document in documents)
    assert list(account.changed.items()) == [("larger than 32 MB: cut into sections of about 64 KB", 1)]
    assert len({document.name for document in documents}) == len(documents)


def test_without_blank_lines_the_cut_is_at_a_line_end(write, load, small_ranges):
    text = "".join(f"{line}\n" for line in lines(300))
    units, documents, _ = load(write({"a.go": text}))
    assert len(units) > 3
    assert "".join(document.text for document in documents) == text
    assert all(document.text.endswith("\n") for document in documents)
    assert {document.kind for document in documents} == {"code"}


def test_a_file_up_to_the_limit_is_one_document(write, load, small_ranges):
    _, documents, _ = load(write({"a.txt": "x\n\n" * 1365, "b.txt": "x\n\n" * 1366}), format="text")
    assert [document.name for document in documents if document.name.startswith("a")] == ["a.txt"]
    assert len([document for document in documents if document.name.startswith("b")]) > 1


@pytest.mark.parametrize(
    ("name", "pack"), [("a.txt.gz", gzip.compress), ("a.txt.bz2", bz2.compress), ("a.txt.xz", lzma.compress)]
)
def test_a_large_compressed_text_is_cut_alike(write, load, small_ranges, name, pack):
    text = prose(100)
    plain = load(write({"a.txt": text}) / "a.txt")[1]
    units, packed, account = load(write({name: pack(text.encode())}) / name)
    assert len(units) == 1
    assert "".join(document.text for document in packed) == "".join(document.text for document in plain)
    assert max(len(document.text) for document in packed) <= 500
    assert account.bytes == len(text.encode())


def test_a_large_utf16_text_is_read_in_one_go(write, load, small_ranges):
    text = prose(100).replace("w", "ž")
    _, documents, _ = load(write({"a.txt": text.encode("utf-16")}))
    assert len(documents) > 10
    assert "".join(document.text for document in documents) == text


# Lines that are too long


def test_an_over_long_line_is_left_out_with_its_number_and_the_rest_is_read(write, load, small_ranges):
    texts = lines(60)
    content = jsonl([*texts[:30], "x" * 9000, *texts[30:]])
    _, documents, account = load(write({"a.jsonl": content}))
    assert [document.text for document in documents] == texts
    assert documents[-1].name == "a.jsonl:61"
    assert account.examples == {"line longer than 32 MB": ["a.jsonl:31"]}


@pytest.mark.parametrize("place", [0, 30, 60])
def test_an_over_long_line_within_a_compressed_file(write, load, small_ranges, place):
    texts = lines(60)
    content = jsonl([*texts[:place], "x" * 9000, *texts[place:]])
    _, documents, account = load(write({"a.jsonl.gz": gzip.compress(content.encode())}))
    assert [document.text for document in documents] == texts
    assert account.examples == {"line longer than 32 MB": [f"a.jsonl.gz:{place + 1}"]}


def test_an_over_long_line_stops_a_strict_source(write, load, small_ranges):
    with pytest.raises(DataError, match=r"a\.jsonl:1: line longer"):
        load(write({"a.jsonl": jsonl(["x" * 9000])}), strict=True)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.go"])
def test_a_huge_file_of_one_line_takes_neither_its_size_in_memory_nor_gives_a_document(write, load, monkeypatch, name):
    monkeypatch.setattr(cutting, "RANGE_BYTES", 1 << 20)
    monkeypatch.setattr(cutting, "WHOLE_BYTES", 2 << 20)
    monkeypatch.setattr(cutting, "LINE_BYTES", 2 << 20)
    path = write({name: b"x" * (40 << 20)})
    tracemalloc.start()
    units, documents, account = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert units == documents == []
    assert account.skipped == {"line longer than 32 MB": 1}
    assert peak < 12 << 20


@pytest.mark.parametrize("segment", ["file", "paragraph"])
def test_memory_is_bounded_while_a_large_file_is_read(write, monkeypatch, segment):
    monkeypatch.setattr(cutting, "RANGE_BYTES", 1 << 20)
    monkeypatch.setattr(cutting, "WHOLE_BYTES", 2 << 20)
    path = write({"a.txt": ("x" * 9_999 + "\n\n") * 2_400})
    tracemalloc.start()
    account = Account()
    for unit in find_units(Source(path=str(path), format="text", segment=segment), account):
        for _ in read_unit(unit, account):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert account.bytes > 20 << 20
    assert peak < 8 << 20


# The cutting itself


def pieces(data: bytes, length: int, chunk: int, at_blank_lines: bool = True):
    over_long: list[int] = []
    parts = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    return list(cut_stream(parts, length, over_long.append, at_blank_lines)), over_long


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_come_out_whole_and_in_place_whatever_the_chunks(monkeypatch, seed):
    monkeypatch.setattr(cutting, "LINE_BYTES", 2000)
    source = random.Random(seed)
    data = b"".join(source.choice([b"\n", b" \n", b"\r\n", b"ab\n", b"x" * source.randint(0, 150)]) for _ in range(200))
    at_blank_lines = bool(seed % 2)
    length = source.choice([1, 7, 50, 300])
    for chunk in (1, 13, 4096):
        found, over_long = pieces(data, length, chunk, at_blank_lines)
        assert not over_long
        assert found == pieces(data, length, 1, at_blank_lines)[0]
        assert b"".join(piece.data for piece in found) == data
        for piece in found:
            assert data[piece.start :].startswith(piece.data)
            assert piece.line == data[: piece.start].count(b"\n")
        assert all(piece.data.endswith(b"\n") for piece in found[:-1])


@pytest.mark.parametrize(("line", "left_out"), [(400, False), (401, True), (5000, True)])
@pytest.mark.parametrize("chunk", [1, 64, 10_000])
def test_the_longest_line_that_is_read(monkeypatch, line, left_out, chunk):
    monkeypatch.setattr(cutting, "LINE_BYTES", 400)
    long = b"x" * (line - 1) + b"\n"
    found, over_long = pieces(b"first\n" + long + b"last\n", 50, chunk)
    assert over_long == ([2] if left_out else [])
    assert b"".join(piece.data for piece in found) == b"first\n" + (b"" if left_out else long) + b"last\n"
    assert found[-1].line + found[-1].data.count(b"\n") == 3
    assert (found[-1].start, found[-1].data) == (len(b"first\n") + line, b"last\n")


def test_blocks_between_blank_lines_and_where_they_start():
    data = b" \n\none\ntwo\n \t\n\nthree\r\n\r\nfour"
    ((piece,), _) = pieces(data, 100, 100)
    assert list(paragraphs(piece)) == [(3, b"one\ntwo\n"), (15, b"three\r\n"), (24, b"four")]
    assert all(data[start:].startswith(block) for start, block in paragraphs(piece))


@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n\n", b" \n\t\n"])
def test_nothing_but_blank_lines_has_no_paragraph(text):
    assert [block for piece in pieces(text, 10, 10)[0] for _, block in paragraphs(piece) if block.strip()] == []
