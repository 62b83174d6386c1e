"""A folder in a store: what arrives is what was sent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import time

import pytest

from llmforge.checkpoints import objects, remote
from llmforge.checkpoints.checksums import PART, Digest, digest_file, told_checksum
from llmforge.checkpoints.failures import RemoteError, explain
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.errors import ConfigError, StorageError


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    if request.param == "file":
        return RemoteFolder(f"file://{tmp_path}/store/run")
    import fsspec

    fsspec.filesystem("memory").store.clear()
    return RemoteFolder("memory://bucket/run")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    return path


def test_what_was_put_is_listed_read_fetched_and_deleted(store, file, tmp_path):
    assert store.names() == []
    assert store.put(file, "a/b.txt") == 10
    store.put(file, "c.txt")
    assert store.sizes() == {"a/b.txt": 10, "c.txt": 10}
    assert store.names("a") == ["a/b.txt"]
    assert store.read("a/b.txt") == b"some bytes"
    store.get("a/b.txt", tmp_path / "back" / "b.txt", hashlib.sha256(b"some bytes").hexdigest())
    assert (tmp_path / "back" / "b.txt").read_bytes() == b"some bytes"
    store.rename("c.txt", "d.txt")
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert store.names() == ["d.txt"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\b", "a\0b", "", "C:/x", "a//b", "."])
def test_names_that_lead_elsewhere_are_refused_by_everything(tmp_path, file, name):
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    calls = [
        lambda: store.put(file, name),
        lambda: store.get(name, tmp_path / "got"),
        lambda: store.read(name),
        lambda: store.delete(name),
        lambda: store.write(name, b""),
    ]
    for call in calls:
        with pytest.raises(RemoteError, match="is no name") as caught:
            call()
        assert caught.value.kind == "refused"
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "got").exists()


def test_a_file_in_a_folder_store_is_whole_or_not_there(tmp_path, file, monkeypatch):
    """A copy that is cut off leaves what was there before."""
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    store.put(file, "x")
    file.write_bytes(b"other bytes")

    def cut(source, target, **kwargs):
        with open(target, "wb") as half:
            half.write(b"oth")
        raise OSError(5, "input/output error")

    monkeypatch.setattr(store._opened[0], "put_file", cut)
    with pytest.raises(RemoteError):
        store.put(file, "x")
    assert store.read("x") == b"some bytes"
    assert store.names() == ["x"]


class Flipping:
    """Puts a wrong byte into the first `times` objects that pass, up or down."""

    def __init__(self, store, method, times):
        self.left, self.real = times, getattr(store._opened[0], method)
        self.up = method == "put_file"
        setattr(store._opened[0], method, self)

    def __call__(self, source, target, **kwargs):
        self.real(source, target, **kwargs)
        if self.left:
            self.left -= 1
            path = target.removeprefix("file://")
            with open(path, "r+b") as broken:
                broken.write(b"X")


def test_what_is_corrupted_on_the_way_up_is_sent_again(tmp_path, file):
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    Flipping(store, "put_file", 1)
    store.put(file, "x")
    assert store.read("x") == b"some bytes"


def test_what_is_always_corrupted_on_the_way_up_is_not_left_there(tmp_path, file):
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    Flipping(store, "put_file", 99)
    with pytest.raises(RemoteError, match="does not arrive as it is sent") as caught:
        store.put(file, "x")
    assert caught.value.kind == "corrupt"
    assert store.names() == []


def test_what_is_corrupted_on_the_way_down_is_fetched_again(tmp_path, file):
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    store.put(file, "x")
    sha256 = hashlib.sha256(b"some bytes").hexdigest()
    Flipping(store, "get_file", 1)
    store.get("x", tmp_path / "got", sha256)
    assert (tmp_path / "got").read_bytes() == b"some bytes"
    Flipping(store, "get_file", 99)
    with pytest.raises(RemoteError) as caught:
        store.get("x", tmp_path / "other", sha256)
    assert caught.value.kind == "corrupt"
    assert not (tmp_path / "other").exists()


def test_a_bit_that_flipped_in_the_store_is_found(tmp_path, file):
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    store.put(file, "x")
    (tmp_path / "store" / "run" / "x").write_bytes(b"some bytez")
    with pytest.raises(RemoteError, match="damaged in the store"):
        store.get("x", tmp_path / "got", hashlib.sha256(b"some bytes").hexdigest())


def test_a_disk_that_is_full_here_is_told_as_that(tmp_path, file, monkeypatch):
    store = RemoteFolder(f"file://{tmp_path}/store/run")
    store.put(file, "x")

    def full(source, target, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._opened[0], "get_file", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        store.get("x", tmp_path / "got")
    assert not isinstance(caught.value, RemoteError)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://", "no folder"),
        ("plain/path", "no folder"),
        ("nonsense://a/b", "nonsense"),
        ("https://a/b", "https"),
        ("sftp://me:hunter2@host", "paramiko|sftp"),
    ],
)
def test_what_is_no_store_is_refused(url, said):
    with pytest.raises(ConfigError, match=said) as caught:
        RemoteFolder(url).names()
    assert "hunter2" not in str(caught.value)


# What stores tell of their objects


def test_the_checksum_of_googles_store():
    digest = Digest("gs", 9)
    digest.update(b"1234")
    digest.update(b"56789")
    assert digest.stored == base64.b64encode(bytes.fromhex("e3069283")).decode()  # the check value of CRC-32C
    assert told_checksum("gs", {"crc32c": digest.stored}) == digest.stored
    assert told_checksum("gs", {}) is None


@pytest.mark.parametrize("size", [0, 1, PART, 2 * PART - 1, 2 * PART, 2 * PART + 1, 3 * PART])
def test_the_etag_of_s3_as_its_library_sends_a_file_of_that_size(tmp_path, size):
    """Below two parts in one request, whose ETag is the MD5; else in parts."""
    data = bytes(size)
    path = tmp_path / "x"
    path.write_bytes(data)
    parts = [data[start : start + PART] for start in range(0, size, PART)]
    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest() + f"-{len(parts)}"
    expected = hashlib.md5(data).hexdigest() if size < 2 * PART else whole
    assert digest_file(path, "s3").stored == expected
    assert told_checksum("s3", {"ETag": f'"{expected}"'}) == expected
    assert told_checksum("s3", {"ETag": '"opaque"'}) is None


# What goes wrong


class HttpError(Exception):
    def __init__(self, code):
        super().__init__(f"Bearer hunter2 https://store/x?X-Goog-Signature=hunter2, {code}")
        self.code = code


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpError(401), "credentials"),
        (NoCredentialsError("hunter2"), "credentials"),
        (HttpError(403), "denied"),
        (OSError("Forbidden: https://x?sig=hunter2"), "denied"),
        (PermissionError("hunter2"), "denied"),
        (FileNotFoundError("hunter2"), "missing"),
        (HttpError(404), "missing"),
        (HttpError(503), "unreachable"),
        (HttpError("429"), "unreachable"),
        (TimeoutError("hunter2"), "unreachable"),
        (ConnectionResetError("hunter2"), "unreachable"),
        (ValueError("hunter2"), "unreachable"),
    ],
)
def test_a_failure_is_one_line_without_what_the_store_quotes(error, kind):
    with pytest.raises(RemoteError) as caught, explain("gs://bucket/run", "gs"):
        raise error
    told = caught.value
    assert told.kind == kind
    assert "gs://bucket/run" in str(told)
    assert "hunter2" not in str(told)
    assert "\n" not in str(told)
    assert told.__cause__ is None
    assert told.__suppress_context__


def test_a_store_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    """And one that gives signs of life is not."""
    from fsspec.asyn import AsyncFileSystem

    class Slow(AsyncFileSystem):
        async def _rm_file(self, path, **kwargs):
            await asyncio.sleep(60)

        async def _pipe_file(self, path, value, **kwargs):
            for _ in range(14):
                await asyncio.sleep(0.1)
                store.count(1)

    monkeypatch.setattr(objects, "PATIENCE", 0.6)
    store = RemoteFolder("memory://bucket/run")
    store.__dict__["_opened"] = (Slow(skip_instance_cache=True), "bucket/run")
    begun = time.monotonic()
    with pytest.raises(RemoteError, match="does not answer"):
        store.delete("x")
    assert time.monotonic() - begun < 20
    store.write("x", b"")


def test_the_libraries_do_not_log_tracebacks_with_requests(tmp_path):
    RemoteFolder(f"file://{tmp_path}/store").names()
    for name in ("gcsfs", "s3fs", "aiobotocore"):
        assert not logging.getLogger(name).isEnabledFor(logging.ERROR)


def test_names_in_the_store_that_lead_elsewhere_are_left_out(monkeypatch, file):
    import fsspec

    fsspec.filesystem("memory").store.clear()
    store = RemoteFolder("memory://bucket/run")
    store.put(file, "good")
    found = {"/bucket/run/good": {"size": 10}, "/bucket/run/a\\b": {"size": 1}, "/bucket/run/../x": {"size": 1}}
    monkeypatch.setattr(type(store._opened[0]), "find", lambda *_, **__: found)
    assert store.names() == ["good"]


def test_several_are_done_at_once_and_the_first_failure_is_told(tmp_path):
    store = RemoteFolder(f"file://{tmp_path}/store")
    assert store.each(lambda item: item * 2, range(9)) == [item * 2 for item in range(9)]
    with pytest.raises(ZeroDivisionError):
        store.each(lambda item: 1 // item, [1, 0, 2])
    assert remote.WORKERS > 1
