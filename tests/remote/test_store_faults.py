"""Single files through a network that fails in every way of the matrix: what arrives is what was sent, or it is told."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from remote.proxy import KINDS, STATUSES

from llmforge.checkpoints import objects
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.remote import RemoteFolder

pytestmark = pytest.mark.usefixtures("quick")

EVER = float("inf")
#: Faults of one request that need no help from outside to be over.
PASSING = [kind for kind in KINDS if kind not in ("401", "403", "black hole")]
#: One of each sort is in the suite, the others where there is time.
SOME = ("503", "reset after", "lost response", "corrupt up", "corrupt down")


def sliced(kinds: list[str]) -> list:
    """The kinds as parameters, those not among `SOME` slow."""
    return [pytest.param(kind, marks=() if kind in SOME else pytest.mark.slow) for kind in kinds]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(random.Random(0).randbytes(60_000))
    return path


@pytest.mark.parametrize("kind", sliced(PASSING))
def test_an_upload_that_is_hit_once_arrives_or_fails_and_arrives_when_it_is_tried_again(kind, proxy, bucket, file):
    remote = RemoteFolder(f"{bucket.url}/pre/run")
    proxy.add(kind, "upload", name="model", rate=600_000)
    failures = 0
    for _ in range(3):
        try:
            remote.put(file, "checkpoint-1/model.safetensors")
            break
        except RemoteError:
            failures += 1
    assert failures < 2
    assert bucket.read("pre/run/checkpoint-1/model.safetensors") == file.read_bytes()
    assert bucket.names() == ["pre/run/checkpoint-1/model.safetensors"]
    assert [seen.fault for seen in proxy.seen if seen.fault] == (
        [kind] if "down" not in kind else [seen.fault for seen in proxy.seen if seen.fault]
    )


@pytest.mark.parametrize("kind", ["corrupt up", *sliced([*STATUSES, "reset after", "lost response"])])
def test_an_upload_that_never_gets_through_fails_and_leaves_nothing_that_passes_for_it(kind, proxy, bucket, file):
    remote = RemoteFolder(f"{bucket.url}/pre/run")
    proxy.add(kind, "upload", name="model", times=EVER)
    with pytest.raises(RemoteError) as error:
        remote.put(file, "checkpoint-1/model.safetensors")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 5
    assert {"401": "credentials", "403": "denied", "corrupt up": "corrupt"}.get(kind, "unreachable") == error.value.kind
    if kind != "lost response":
        assert bucket.names() == []
    proxy.clear()
    remote.put(file, "checkpoint-1/model.safetensors")
    assert bucket.read("pre/run/checkpoint-1/model.safetensors") == file.read_bytes()


@pytest.mark.parametrize("kind", sliced(PASSING))
def test_a_download_that_is_hit_once_is_what_is_stored(kind, proxy, bucket, file, tmp_path):
    bucket.write("pre/run/a/model.safetensors", file.read_bytes())
    remote, target = RemoteFolder(f"{bucket.url}/pre/run"), tmp_path / "down"
    proxy.add(kind, "download", rate=600_000)
    failures = 0
    for _ in range(3):
        try:
            remote.get("a/model.safetensors", target)
            break
        except RemoteError:
            assert not target.exists()
            failures += 1
    assert failures < 2
    assert target.read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["down", "model.safetensors"]


@pytest.mark.parametrize("kind", ["corrupt down", *sliced([*STATUSES, "reset after", "cut down"])])
def test_a_download_that_never_gets_through_fails_and_leaves_nothing(kind, proxy, bucket, file, tmp_path):
    bucket.write("pre/run/a/model.safetensors", file.read_bytes())
    remote, target = RemoteFolder(f"{bucket.url}/pre/run"), tmp_path / "down"
    proxy.add(kind, "download", times=EVER)
    with pytest.raises(RemoteError):
        remote.get("a/model.safetensors", target)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", sliced([kind for kind in PASSING if "corrupt" not in kind]))
def test_a_deletion_that_is_hit_once_is_done_in_the_end_and_of_nothing_else(kind, proxy, bucket):
    for name in ("pre/run/a/x", "pre/run/a/xy", "pre/other/a/x"):
        bucket.write(name, b"x")
    remote = RemoteFolder(f"{bucket.url}/pre/run")
    proxy.add(kind, "delete")
    failures = 0
    for _ in range(3):
        try:
            remote.delete("a/x")
            break
        except RemoteError:
            failures += 1
    assert failures < 2
    assert bucket.names() == ["pre/other/a/x", "pre/run/a/xy"]


@pytest.mark.parametrize("phase", ["upload", "download", "delete", "list"])
def test_a_black_hole_is_given_up_within_the_bound(phase, proxy, bucket, file, tmp_path, monkeypatch):
    """Not after minutes: what waits for it is the drain at a run's end."""
    monkeypatch.setattr(objects, "PATIENCE", 1.0)
    bucket.write("pre/run/a/x", b"x")
    remote = RemoteFolder(f"{bucket.url}/pre/run")
    proxy.add("black hole", phase, times=EVER)
    work = {
        "upload": lambda: remote.put(file, "a/y"),
        "download": lambda: remote.get("a/x", tmp_path / "down"),
        "delete": lambda: remote.delete("a/x"),
        "list": lambda: remote.sizes(),
    }
    began = time.monotonic()
    with pytest.raises(RemoteError, match="does not answer"):
        work[phase]()
    assert time.monotonic() - began < 20
