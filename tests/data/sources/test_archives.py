"""Zip and tar: members like files, and what an archive can be made to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib

import pyarrow
import pytest

from llmforge.data.sources import archives, streams
from llmforge.errors import DataError

FILES = {"a.go": "package a", "sub/b.py": "print()", "notes.txt": "notes", "x.png": b"\0\1"}


def zipped(files: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: dict[str, str | bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data).to_pybytes()


PACKERS = {
    "x.zip": zipped,
    "x.tar": tarred,
    "x.tar.gz": lambda files: gzip.compress(tarred(files)),
    "x.tgz": lambda files: gzip.compress(tarred(files)),
    "x.tar.bz2": lambda files: bz2.compress(tarred(files)),
    "x.tar.xz": lambda files: lzma.compress(tarred(files)),
    "X.TAR.ZST": lambda files: zstd(tarred(files)),
}


COMPRESSIONS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def texts(found) -> dict[str, str]:
    return {document.name: document.text for document in found[1]}


@pytest.mark.parametrize("name", PACKERS)
def test_an_archive_is_read_member_by_member(write, load, name):
    found = load(write({name: PACKERS[name](FILES)}) / name)
    assert texts(found) == {f"{name}!/a.go": "package a", f"{name}!/notes.txt": "notes", f"{name}!/sub/b.py": "print()"}
    assert {document.kind for document in found[1]} == {"code", "text"}
    assert (found[2].files, found[2].skipped) == (3, {"another suffix": 1})
    assert len(found[0]) == 1


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_members_are_filtered_as_files_are(write, load, name):
    files = {
        "repo/.gitignore": "*.gen.go\n/build/\n",
        "repo/a.gen.go": "no",
        "repo/build/b.go": "no",
        "repo/build/.gitignore": "!b.go",
        "repo/c.go": "yes",
        "repo/node_modules/d.js": "no",
        "repo/e.min.js": "no",
        "repo/.hidden/f.go": "no",
        "__MACOSX/g.go": "no",
        "repo/h.txt": "another format",
        "repo/i.go": b"\0\0",
        "repo/j.go": "",
        "inner.zip": zipped({"k.go": "no"}),
    }
    found = load(write({name: PACKERS[name](files)}) / name, format="code")
    assert texts(found) == {f"{name}!/repo/c.go": "yes"}
    assert found[2].skipped == {
        "named by .gitignore": 3,
        "in a vendored folder": 1,
        "minified by its name": 1,
        "another suffix": 2,
        "binary": 1,
        "empty": 1,
        "archive within an archive": 1,
    }


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_suffixes_and_the_number_of_files_hold_within_an_archive(write, load, name):
    path = write({name: PACKERS[name]({f"{i}.cfg": f"text {i}" for i in range(5)} | {"a.go": "no"})}) / name
    assert list(texts(load(path, suffixes=[".cfg"], max_files=2)).values()) == ["text 0", "text 1"]


def test_archives_among_texts_are_opened_and_among_code_left_alone(write, load):
    write({"a.txt": "plain", "b/books.zip": zipped({"c.txt": "within"})})
    assert texts(load(write({}), format="text")) == {"a.txt": "plain", "b/books.zip!/c.txt": "within"}
    found = load(write({}))
    assert texts(found) == {"a.txt": "plain"}
    assert found[2].skipped == {"archive within a tree of code": 1}
    assert list(texts(load(f"{write({})}/b/*.zip", format="code", suffixes=[".txt"])).values()) == ["within"]


def parquet(texts: list[str]) -> bytes:
    from pyarrow import parquet, table

    out = io.BytesIO()
    parquet.write_table(table({"text": texts}), out)
    return out.getvalue()


@pytest.mark.parametrize("name", PACKERS)
def test_records_of_compressed_files_and_of_members(write, load, name):
    line = '{"text": "one"}\n{"text": "two"}\n'
    files = {
        "a.jsonl": line,
        "b.jsonl": line.encode("utf-16"),
        "c.csv": "text\none\ntwo\n",
        "d.json": '{"records": [{"text": "one"}, {"text": "two"}], "n": 1}',
        "e.parquet": parquet(["one", "two"]),
    }
    files |= {f"{file}.gz": gzip.compress(data.encode() if isinstance(data, str) else data) for file, data in files.items()}
    members = load(write({name: PACKERS[name](dict(sorted(files.items())))}) / name)
    plain = load(write({f"files/{file}": data for file, data in files.items()}) / "files")
    assert [document.text for document in members[1]] == [document.text for document in plain[1]] == ["one", "two"] * 10
    assert [document.name.partition("!/")[2] for document in members[1]] == [document.name for document in plain[1]]
    assert [account.files for account in (members[2], plain[2])] == [10, 10]


def test_groups_of_members(write, load):
    path = write({"x.zip": zipped({"a/b.txt": "one", "a/c.txt": "two"})}) / "x.zip"
    assert [document.group for document in load(path, group_by="file")[1]] == ["x.zip!/a/b.txt", "x.zip!/a/c.txt"]
    assert {document.group for document in load(path, group_by="folder")[1]} == {"x.zip!/a"}


def test_the_same_bytes_have_the_same_digest_and_others_another(write, load):
    def digest(files):
        return load(write({"x.zip": zipped(files)}) / "x.zip")[0][0].digest

    fixed = {zipfile.ZipInfo("a.go"): "a"}
    assert digest(fixed) == digest(fixed) != digest({zipfile.ZipInfo("a.go"): "b"})


# What an archive can be made to do


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ("../../etc/passwd.txt", "__/__/etc/passwd.txt"),
        ("/etc/cron.txt", "etc/cron.txt"),
        ("a\\..\\b.txt", "a/__/b.txt"),
        ("./a//b.txt", "a/b.txt"),
    ],
)
@pytest.mark.parametrize("archive", ["x.zip", "x.tar"])
def test_names_that_lead_out_are_only_names(write, load, archive, member, name):
    found = load(write({archive: PACKERS[archive]({member: "text"})}) / archive)
    assert texts(found) == {f"{archive}!/{name}": "text"}


def test_links_and_sparse_members_of_a_tar_are_counted(write, load):
    found = load(write({"x.tar": tarred({"a.go": "a"}, {"b.go": "/etc/passwd"})}) / "x.tar")
    assert texts(found) == {"x.tar!/a.go": "a"}
    assert found[2].skipped == {"no regular file": 1}


@pytest.mark.parametrize("name", [name for name in PACKERS if name != "x.tar"])
def test_a_bomb_is_counted_and_not_unpacked(write, load, monkeypatch, name):
    monkeypatch.setattr(streams, "ALWAYS_UNPACKED", 2 << 20)
    monkeypatch.setattr(archives, "ALWAYS_UNPACKED", 2 << 20)
    found = load(write({name: PACKERS[name]({"a.txt": b"small", "bomb.txt": b"x" * (8 << 20)})}) / name, format="text")
    assert texts(found) == {f"{name}!/a.txt": "small"}
    assert found[2].skipped == {"unpacks to more than 200 times its size": 1}


def test_a_zip_without_its_bomb_is_read_on(write, load):
    data = zipped({"a.txt": b"small", "bomb.txt": b"x" * (8 << 20), "c.txt": b"small too"})
    found = load(write({"x.zip": data}) / "x.zip")
    assert texts(found) == {"x.zip!/a.txt": "small", "x.zip!/c.txt": "small too"}
    assert found[2].examples == {"unpacks to more than 200 times its size": ["x.zip!/bomb.txt"]}


@pytest.mark.parametrize(("suffix", "pack"), COMPRESSIONS.items())
def test_a_compressed_file_that_is_a_bomb(write, load, monkeypatch, suffix, pack):
    monkeypatch.setattr(streams, "ALWAYS_UNPACKED", 2 << 20)
    found = load(write({f"a.txt{suffix}": pack(b"x" * (8 << 20)), f"b.txt{suffix}": pack(b"text")}))
    assert list(texts(found).values()) == ["text"]
    assert found[2].examples == {"unpacks to more than 200 times its size": [f"a.txt{suffix}"]}


def test_many_members_that_are_bombs_together(write, load, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_UNPACKED", 4 << 20)
    files = {f"{i:02d}.txt": b"x" * 1_000_000 for i in range(20)}
    found = load(write({"x.zip": zipped(files)}) / "x.zip")
    assert len(found[1]) == 4
    assert found[2].skipped == {"unpacks to more than 200 times its size": 1}


@pytest.mark.parametrize("name", ["x.zip", "x.tar"])
def test_a_member_past_the_cap_is_counted(write, load, monkeypatch, name):
    monkeypatch.setattr(archives, "MEMBER_BYTES", 100)
    source = random.Random(0)
    files = {"a.txt": "short", "b.txt": "".join(source.choices("abcdef ", k=200)), "c.txt": "short too"}
    found = load(write({name: PACKERS[name](files)}) / name)
    assert [document.text for document in found[1]] == ["short", "short too"]
    assert sum(found[2].skipped.values()) == 1


def test_a_zip_that_promises_less_than_it_holds_gives_no_more_than_it_promised(write, load):
    data = bytearray(zipped({"a.txt": "honest " * 100, "b.txt": "fine"}))
    place = data.index(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<L", 5)
    found = load(write({"x.zip": bytes(data)}) / "x.zip")
    assert found[1][-1].text == "fine"
    assert sum(len(document.text) for document in found[1]) < 20


def test_a_member_with_a_password_or_a_wrong_checksum_is_counted_and_the_next_one_read(write, load):
    data = bytearray(zipped({"a.txt": "aaaa", "b.txt": "bbbb", "c.txt": "cccc"}, zipfile.ZIP_STORED))
    place = data.index(b"PK\1\2")
    data[place + 8] |= 1
    data[data.index(b"bbbb")] ^= 1
    found = load(write({"x.zip": bytes(data)}) / "x.zip")
    assert texts(found) == {"x.zip!/c.txt": "cccc"}
    assert found[2].examples == {
        "member with a password": ["x.zip!/a.txt"],
        "broken compressed file or archive": ["x.zip!/b.txt"],
    }
    with pytest.raises(DataError, match=r"x\.zip!/a\.txt: member with a password"):
        load(write({}) / "x.zip", strict=True)


@pytest.mark.parametrize("name", PACKERS)
def test_a_torn_archive_is_counted_and_does_not_stop_the_rest(write, load, name):
    source = random.Random(0)
    data = PACKERS[name]({f"{i}.txt": source.randbytes(3000).hex() for i in range(5)})
    write({"a.txt": "fine", name: data[: len(data) // 2]})
    found = load(write({}), format="text")
    assert found[1][0].text == "fine"
    assert sum(found[2].skipped.values()) >= 1
    with pytest.raises(DataError):
        load(write({}), format="text", strict=True)


@pytest.mark.parametrize("name", PACKERS)
@pytest.mark.parametrize("data", [b"PK\3\4 no archive at all", b"\0" * 2000, zlib.compress(b"text"), b"x"])
def test_what_is_no_archive_at_all(write, load, name, data):
    found = load(write({name: data}) / name)
    assert found[1] == []
    assert sum(found[2].skipped.values()) <= 1


@pytest.mark.parametrize("name", PACKERS)
def test_flipped_bytes_never_raise_anything_but_what_is_counted(write, load, name):
    source = random.Random(1)
    data = PACKERS[name]({f"é{i}.txt": source.randbytes(300).hex() for i in range(4)})
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(source.randint(1, 4)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        load(write({name: bytes(broken)}) / name)


@pytest.mark.parametrize(("suffix", "pack"), COMPRESSIONS.items())
def test_a_torn_compressed_file(write, load, suffix, pack):
    data = pack(random.Random(0).randbytes(5000).hex().encode())
    found = load(write({f"a.txt{suffix}": data[: len(data) // 2]}))
    assert found[1] == []
    assert found[2].examples == {"broken compressed file or archive": [f"a.txt{suffix}"]}
