"""The same mirror in an emulated S3: its own protocol, its own checksums, uploads in parts."""

from __future__ import annotations

import hashlib
import random
import re
import time
import urllib.request
from urllib.parse import quote

import pytest
from remote.runs import RUN_ID, made_checkpoint, made_run, tree

from llmforge.checkpoints import inspect, sync
from llmforge.checkpoints.checksums import PART
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.fetch import download_checkpoint
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.checkpoints.sync import Mirror
from llmforge.configs.remote import RemoteArguments
from llmforge.runtime.commands import run_command

SOME = ("503", "lost response", "corrupt up")
KINDS = [*SOME, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("401", "429", "500", "reset before", "reset after"))]


class S3Bucket:
    """A new bucket, asked past the proxy and not by the library under test."""

    def __init__(self, server: str, name: str):
        self.place, self.name, self.url = f"{server}/{name}", name, f"s3://{name}"
        self._call("PUT", "")

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        # Not looked at, but without one the caller is the public.
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"}
        request = urllib.request.Request(self.place + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.read()

    def names(self) -> list[str]:
        """Of all objects."""
        return sorted(re.findall(r"<Key>([^<]+)</Key>", self._call("GET", "?list-type=2").decode()))

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        return self._call("GET", f"/{quote(name)}")


@pytest.fixture
def s3_bucket(s3_server, s3_proxy, request) -> S3Bucket:
    return S3Bucket(s3_server, f"bucket-{abs(hash(request.node.name)):x}")


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_through_a_fault_arrives_as_it_was_sent(kind, s3_proxy, s3_bucket, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(50_000))
    remote = RemoteFolder(f"{s3_bucket.url}/mine")
    s3_proxy.add(kind, "upload", name="model")
    for _ in range(3):
        try:
            remote.put(path, "a/model")
            break
        except RemoteError:
            continue
    assert s3_bucket.read("mine/a/model") == path.read_bytes()
    assert any(seen.fault for seen in s3_proxy.seen)


def test_a_download_with_a_flipped_bit_is_fetched_again(s3_proxy, s3_bucket, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(50_000))
    remote = RemoteFolder(f"{s3_bucket.url}/mine")
    remote.put(path, "a/model")
    fault = s3_proxy.add("corrupt down", "download", name="model")
    remote.get("a/model", tmp_path / "got", hashlib.sha256(path.read_bytes()).hexdigest())
    assert fault.hits > 1
    assert (tmp_path / "got").read_bytes() == path.read_bytes()


def test_a_large_file_in_parts_is_compared_too(s3_proxy, s3_bucket, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(random.Random(0).randbytes(2 * PART + 1000))
    remote = RemoteFolder(f"{s3_bucket.url}/mine")
    s3_proxy.add("corrupt up", "upload", name="model")
    remote.put(path, "a/model")
    assert s3_bucket.read("mine/a/model") == path.read_bytes()
    assert s3_proxy.count("upload", "model") > 6  # twice: three parts, their beginning and their end


@pytest.mark.slow
def test_a_run_is_mirrored_listed_and_brought_back(s3_proxy, s3_bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sync, "BACKOFF", (0.05, 0.2))
    run, url = made_run(tmp_path / "mine", 1), f"{s3_bucket.url}/mine"
    s3_proxy.add("403", "upload", name="optimizer", times=2)
    mirror = Mirror(run, Courier(url, apart=False), RemoteArguments(remote_total_limit=2), RUN_ID)
    mirror.start()
    for step in (2, 3):
        mirror.add(made_checkpoint(run, step))
        assert mirror.drain(30) == []
    end = time.monotonic() + 20
    while any(name.startswith("mine/checkpoint-2/") for name in s3_bucket.names()):
        assert time.monotonic() < end
        time.sleep(0.05)
    mirror.close()
    assert {name.split("/")[1] for name in s3_bucket.names() if "checkpoint" in name} == {"checkpoint-1", "checkpoint-3"}
    download_checkpoint(RemoteFolder(url), "checkpoint-3", tmp_path / "new")
    assert tree(tmp_path / "new" / "checkpoint-3") == tree(run / "checkpoint-3")
    assert run_command(inspect.main, ["verify", url]) == 0
    assert capsys.readouterr().out.splitlines() == ["checkpoint-1: sound", "checkpoint-3: sound"]
