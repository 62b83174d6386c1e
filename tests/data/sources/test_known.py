"""A file that has not changed is not read again, and one that has is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmforge.configs.source import Source
from llmforge.data.documents import Account
from llmforge.data.sources import cutting, known, units
from llmforge.data.sources.known import KnownFiles


@pytest.fixture
def corpus(tmp_path: Path, own_cache) -> Path:
    """Files that were left alone for a minute, as far as they say: texts, an empty and a binary one."""
    folder = tmp_path / "c"
    folder.mkdir()
    for name, content in {"a.txt": b"one\n", "b.txt": b"two\n", "empty.txt": b"", "binary.txt": b"\0\1\2" * 100}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def settled(monkeypatch):
    """Files count as left alone at once: their true time of change cannot be set back."""
    monkeypatch.setattr(known, "_SETTLED", -(10**12))


def found(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings) -> tuple[list[units.Unit], Account, set[str]]:
    """The units, what was left out, and the files that were read for it."""
    read: set[str] = set()
    real = units._units_of

    def watched(one, source, account, path):
        read.add(one.name)
        yield from real(one, source, account, path)

    source, account = Source(path=str(folder), format="text", **settings), Account()
    with monkeypatch.context() as patch:
        patch.setattr(units, "_units_of", watched)
        memory = KnownFiles(source)
        made = list(units.find_units(source, account, memory))
        memory.save()
    return made, account, read


def test_what_has_not_changed_is_not_read_again(corpus, settled, monkeypatch):
    first = found(corpus, monkeypatch)
    assert first[2] == {"a.txt", "b.txt", "empty.txt", "binary.txt"}
    assert first[1].skipped == {"empty": 1, "binary": 1}
    again = found(corpus, monkeypatch)
    assert again == (first[0], first[1], set())


@pytest.mark.parametrize("how", ["appended", "same size and time", "another file under its name", "times set"])
def test_what_has_changed_is_read_again(corpus, settled, monkeypatch, how):
    first, _, _ = found(corpus, monkeypatch)
    path = corpus / "a.txt"
    before = path.stat()
    time.sleep(0.02)  # the clock that files are stamped by ticks every few milliseconds
    if how == "appended":
        path.write_text("one\nmore\n")
    elif how == "same size and time":
        path.write_text("eno\n")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "another file under its name":
        (corpus.parent / "other").write_text("eno\n")
        os.utime(corpus.parent / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(corpus.parent / "other", path)
    else:
        os.utime(path)
    second, _, read = found(corpus, monkeypatch)
    assert read == {"a.txt"}
    assert (second[0].digest == first[0].digest) == (how == "times set")
    assert second[1] == first[1]


def test_what_was_just_written_is_read_again(corpus, monkeypatch):
    """Its times may not tell what is written to it within the same tick of the clock."""
    found(corpus, monkeypatch)
    assert found(corpus, monkeypatch)[2] == {"a.txt", "b.txt", "empty.txt", "binary.txt"}


def test_what_is_gone_is_forgotten_and_what_is_new_is_read(corpus, settled, monkeypatch):
    found(corpus, monkeypatch)
    (corpus / "a.txt").unlink()
    (corpus / "c.txt").write_text("three\n")
    made, _, read = found(corpus, monkeypatch)
    assert ([unit.name for unit in made], read) == (["b.txt", "c.txt"], {"c.txt"})
    assert "a.txt" not in KnownFiles(Source(path=str(corpus), format="text")).path.read_text()


def test_the_ranges_of_a_large_file_are_known(tmp_path, own_cache, settled, monkeypatch):
    monkeypatch.setattr(cutting, "RANGE_BYTES", 1000)
    monkeypatch.setattr(cutting, "WHOLE_BYTES", 2000)
    path = tmp_path / "c" / "large.txt"
    path.parent.mkdir()
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    first = found(path.parent, monkeypatch)
    assert len(first[0]) > 5
    again = found(path.parent, monkeypatch)
    assert again == (first[0], first[1], set())


def test_other_settings_have_a_memory_of_their_own(corpus, settled, monkeypatch):
    found(corpus, monkeypatch)
    assert found(corpus, monkeypatch, segment="paragraph")[2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_tried_again(corpus, settled, monkeypatch):
    (corpus / "a.txt").chmod(0)
    assert found(corpus, monkeypatch)[1].skipped["unreadable (Permission denied)"] == 1
    assert found(corpus, monkeypatch)[2] == {"a.txt"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xff", b'{"PATH": 1}'])
def test_a_damaged_memory_is_none(corpus, settled, monkeypatch, content):
    first = found(corpus, monkeypatch)
    KnownFiles(Source(path=str(corpus), format="text")).path.write_bytes(content.replace(b"PATH", str(corpus / "a.txt").encode()))
    assert found(corpus, monkeypatch) == first
