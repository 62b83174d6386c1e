"""The mirror through every network fault of the matrix: uploading (U), deleting in the store (D), coming back (L).

After each case every checkpoint that the bucket shows is whole (it is looked at all the while), the newest one is there or
told as undelivered, ``uploads.json`` says what the bucket says, and nothing outside of the run's prefix was touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from remote.proxy import KINDS, FaultProxy
from remote.runs import RUN_ID, made_checkpoint, made_run, tree

from llmforge.checkpoints import objects, sync
from llmforge.checkpoints import remote as folders
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.fetch import download_checkpoint, newest_remote
from llmforge.checkpoints.manifest import verify
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.checkpoints.status import run_status
from llmforge.checkpoints.sync import Mirror
from llmforge.configs.remote import RemoteArguments
from llmforge.errors import LlmforgeError

EVER = float("inf")
#: What is in the suite for each phase; the rest where there is time (`make chaos`).
SOME = ("429", "lost response", "corrupt up", "corrupt down", "401")


def every(kinds: tuple[str, ...] = KINDS, some: tuple[str, ...] = SOME) -> list:
    """Kinds as parameters, those not among `some` slow."""
    return [pytest.param(kind, marks=() if kind in some else pytest.mark.slow) for kind in kinds]


def slow(*names: str) -> list:
    """Parameters for where there is time."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def hasty(quick, monkeypatch) -> None:
    """Attempts follow one another at once, and a black hole is given up soon."""
    monkeypatch.setattr(sync, "BACKOFF", (0.05, 0.2))
    monkeypatch.setattr(sync, "ROUND", 0.1)
    monkeypatch.setattr(objects, "PATIENCE", 0.6)


@pytest.fixture
def mirror(bucket) -> Iterator[Callable[..., Mirror]]:
    """Starts mirrors of run folders at ``gs://<bucket>/<folder's name>``, in this process."""
    made: list[Mirror] = []

    def begin(run: Path, step: int = 0, start: bool = True, **settings: object) -> Mirror:
        made.append(Mirror(run, Courier(f"{bucket.url}/{run.name}", apart=False), RemoteArguments(**settings), RUN_ID))
        if start:
            made[-1].start(step)
        return made[-1]

    yield begin
    for each in made:
        each.close()


def states(run: Path) -> dict[str, str]:
    """Of the checkpoints, as ``uploads.json`` has them."""
    return {name: upload["state"] for name, upload in json.loads((run / "uploads.json").read_text())["checkpoints"].items()}


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.fixture
def neighbours(bucket) -> Iterator[None]:
    """What else is in the bucket stays as it is, to the end."""
    others = {"mine-too/checkpoint-1/manifest.json": b'{"files": {}}', "min": b"1", "other": b"2"}
    for name, body in others.items():
        bucket.write(name, body)
    yield
    there = bucket.everything()
    assert {name: body for name, body in there.items() if not re.match(r"mine(-\d+)?/", name)} == others


#: What can happen to an upload for ever, and to a download.
UP = tuple(kind for kind in KINDS if kind not in ("corrupt down", "cut down", "slow"))
DOWN = tuple(kind for kind in KINDS if kind not in ("corrupt up", "slow"))


# U: uploading


@pytest.mark.parametrize("kind", every())
@pytest.mark.parametrize("name", ["model.safetensors", *slow("manifest.json", "run.json")])
def test_u_a_fault_that_passes_costs_nothing(name, kind, proxy, watched, mirror, neighbours, tmp_path):
    run = made_run(tmp_path / "mine", 1)
    proxy.add(kind, "upload", name=name, times=2 if kind in ("401", "403") else 1, rate=600_000)
    it = mirror(run)
    it.add(made_checkpoint(run, 2))
    assert it.drain(30) == []
    assert watched.checkpoints("mine") == ["checkpoint-1", "checkpoint-2"]
    assert watched.damage("mine") == []
    assert states(run) == {"checkpoint-1": "done", "checkpoint-2": "done"}
    assert watched.read("mine/run.json") == (run / "run.json").read_bytes()


@pytest.mark.parametrize("kind", every(UP, ("403", "corrupt up")))
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_u_a_fault_that_stays_is_told_and_the_next_start_delivers(name, kind, proxy, watched, mirror, neighbours, tmp_path):
    run = made_run(tmp_path / "mine", 1)
    proxy.add(kind, "upload", name=f"checkpoint-2/{name}", times=EVER)
    first = mirror(run)
    wait(lambda: watched.checkpoints("mine") == ["checkpoint-1"])
    first.add(made_checkpoint(run, 2))
    left = first.drain(1.0)
    first.close()
    there = watched.checkpoints("mine")
    if kind == "lost response":
        # What is lost is only the word that it arrived: the next attempt, or the close of the first, may find it there, whole.
        assert left == ["checkpoint-2"] or "checkpoint-2" in there
        assert states(run)["checkpoint-2"] != "done" or "checkpoint-2" in there
    else:
        assert left == ["checkpoint-2"]
        assert states(run)["checkpoint-2"] in ("failed", "queued", "uploading")
        assert there == ["checkpoint-1"]
    assert run_status(run)["undelivered_uploads"] == left
    assert watched.damage("mine") == []
    proxy.clear()
    again = mirror(run, step=2)
    assert again.drain(30) == []
    assert watched.checkpoints("mine") == ["checkpoint-1", "checkpoint-2"]
    assert watched.damage("mine") == []
    assert states(run) == {"checkpoint-1": "done", "checkpoint-2": "done"}
    assert run_status(run)["undelivered_uploads"] == []


def test_u_killed_after_its_parts_were_put_together_none_of_them_stays(proxy, watched, mirror, neighbours, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PART", 20_000)
    run = made_run(tmp_path / "mine", 1, size=60_000)
    url = f"{watched.url}/mine"

    def until_put_together(name: str, work: Callable[[], object]) -> None:
        """Do it in a child that is killed when the parts of a file were put together and are to be deleted."""
        fault = proxy.add("black hole", "delete", name=f".parts/{name}", times=EVER)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                work()
            os._exit(0)
        wait(lambda: fault.hits > 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        proxy.clear()

    model = "checkpoint-1/model.safetensors"
    until_put_together(model, lambda: RemoteFolder(url).put(run / model, model))
    assert watched.names("mine/.parts/")
    it = mirror(run)
    assert it.drain(30) == []
    assert watched.checkpoints("mine") == ["checkpoint-1"]
    assert watched.names("mine/.parts/") == []
    it.close()
    # Of something that nobody goes on with, the next start finds them.
    until_put_together("final", lambda: RemoteFolder(url).put(run / model, "final/model.safetensors"))
    assert watched.names("mine/.parts/final/")
    again = mirror(run)
    assert again.drain(30) == []
    assert watched.names("mine/.parts/") == []


# D: deleting in the store


@pytest.mark.parametrize("kind", every(tuple(kind for kind in KINDS if "corrupt" not in kind), ("500", "lost response")))
def test_d_a_fault_while_deleting_leaves_nothing_half(kind, proxy, watched, mirror, neighbours, tmp_path):
    """The oldest goes, the best (of step 1) and the newest stay; what could not be deleted goes after the next upload."""
    run = made_run(tmp_path / "mine", 1)
    it = mirror(run, remote_total_limit=2)
    proxy.add(kind, "delete", times=3, rate=600_000)
    for step in range(2, 7):
        it.add(made_checkpoint(run, step))
        assert it.drain(30) == []
        name = f"checkpoint-{step}"
        wait(lambda name=name: watched.checkpoints("mine")[-1] == name)
    wait(lambda: watched.checkpoints("mine") == ["checkpoint-1", "checkpoint-6"])
    assert watched.damage("mine") == []
    wait(lambda: {name.split("/")[1] for name in watched.names("mine/checkpoint-")} == {"checkpoint-1", "checkpoint-6"})


def test_d_no_permission_to_delete_is_told_and_holds_nothing_up(proxy, watched, mirror, neighbours, tmp_path, caplog):
    run = made_run(tmp_path / "mine", 1)
    it = mirror(run, remote_total_limit=1)
    proxy.add("403", "delete", times=EVER)
    for step in (2, 3):
        it.add(made_checkpoint(run, step))
        assert it.drain(30) == []
    assert watched.checkpoints("mine") == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert watched.damage("mine") == []


# L: coming back


def come_back(remote: RemoteFolder, folder: Path, tries: int = 4) -> int:
    """Download the newest checkpoint; how often that failed. What stands as a checkpoint is whole, at any time."""
    for failed in range(tries):
        try:
            download_checkpoint(remote, newest_remote(remote) or "checkpoint-0", folder)
            return failed
        except LlmforgeError as error:
            problems = [*str(error).splitlines()[1:], *(path for path in folder.glob("checkpoint-*") if verify(path))]
            if problems:
                raise AssertionError(problems) from error
    raise AssertionError(f"it failed {tries} times")


@pytest.fixture
def stored(bucket, tmp_path) -> dict[str, str]:
    """A run of two checkpoints in the store; the hashes of the newer one's files."""
    run = made_run(tmp_path / "made" / "mine", 1, 2)
    for name in tree(run):
        bucket.write(f"mine/{name}", (run / name).read_bytes())
    return tree(run / "checkpoint-2")


@pytest.mark.parametrize("kind", every())
@pytest.mark.parametrize("phase", ["download", *slow("list")])
def test_l_a_fault_that_passes_costs_an_attempt_at_most(phase, kind, proxy, bucket, stored, neighbours, tmp_path):
    proxy.add(kind, phase, rate=600_000)
    assert come_back(RemoteFolder(f"{bucket.url}/mine"), tmp_path / "new") < 2
    assert tree(tmp_path / "new" / "checkpoint-2") == stored
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("kind", every(DOWN, ("503", "corrupt down")))
def test_l_a_fault_that_stays_leaves_no_checkpoint_and_what_came_is_kept(kind, proxy, bucket, stored, neighbours, tmp_path):
    fault = proxy.add(kind, "download", name="optimizer.pt", times=EVER)
    remote = RemoteFolder(f"{bucket.url}/mine")
    with pytest.raises(LlmforgeError) as error:
        download_checkpoint(remote, "checkpoint-2", tmp_path / "new")
    assert error.value.exit_code in (4, 5)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "new").glob("checkpoint-*")) == []
    proxy.clear()
    before = len(proxy.seen)
    download_checkpoint(remote, "checkpoint-2", tmp_path / "new")
    assert tree(tmp_path / "new" / "checkpoint-2") == stored
    fetched = {seen.name.rpartition("/")[2] for seen in proxy.seen[before:] if seen.phase == "download"}
    assert "model.safetensors" not in fetched
    assert fault.hits


# Killed, in all three


def killed_at(number: int, proxy: FaultProxy, work: Callable[[], object]) -> bool:
    """Do `work` in a child whose request of that number is never answered, and kill it there; False if it was done by then."""
    fault = proxy.add("black hole", times=EVER, after=number)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
        os._exit(0)
    end = time.monotonic() + 30
    while fault.hits <= number and os.waitpid(child, os.WNOHANG) == (0, 0):
        assert time.monotonic() < end
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    proxy.clear()
    return fault.hits > number


def sending(run: Path, url: str) -> Callable[[], object]:
    """Upload and tidy a run in the store, as a mirror in a process of its own; the best of step 1 and the newest stay."""

    def work() -> None:
        it = Mirror(run, Courier(url, apart=False), RemoteArguments(remote_total_limit=2), RUN_ID)
        it.start(9)
        it.drain(30)
        it.close()

    return work


def killed_and_finished(number: int, proxy, watched, mirror, run: Path) -> bool:
    """Kill the upload of two further checkpoints, and the deletion after it, at a request; the next start ends it."""
    name = run.name
    hit = killed_at(number, proxy, sending(run, f"{watched.url}/{name}"))
    assert watched.damage(name) == []
    assert "checkpoint-1" in watched.checkpoints(name)
    it = mirror(run, step=9, remote_total_limit=2)
    assert it.drain(30) == []
    wait(lambda: watched.checkpoints(name)[-1] == "checkpoint-3")
    it.add(made_checkpoint(run, 4))
    assert it.drain(30) == []
    wait(lambda: watched.checkpoints(name) == ["checkpoint-1", "checkpoint-4"])
    wait(lambda: {one.split("/")[1] for one in watched.names(f"{name}/checkpoint-")} == {"checkpoint-1", "checkpoint-4"})
    assert watched.damage(name) == []
    it.close()
    return hit


@pytest.mark.parametrize("number", [4, 20, 45])
def test_killed_while_uploading_or_deleting_the_next_start_ends_it(number, proxy, watched, mirror, neighbours, tmp_path):
    run = made_run(tmp_path / "mine", 1)
    it = mirror(run)
    assert it.drain(30) == []
    it.close()
    for step in (2, 3):
        made_checkpoint(run, step)
    assert killed_and_finished(number, proxy, watched, mirror, run)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10))
def test_killed_at_every_request_of_an_upload_and_a_deletion(first, proxy, watched, mirror, neighbours, tmp_path):
    number, hit = first, True
    while hit:
        run = made_run(tmp_path / f"mine-{number}", 1)
        it = mirror(run)
        assert it.drain(30) == []
        it.close()
        for step in (2, 3):
            made_checkpoint(run, step)
        hit = killed_and_finished(number, proxy, watched, mirror, run)
        number += 10
    assert number > 30


@pytest.mark.parametrize("number", [1, 6, 12])
def test_killed_while_downloading_it_goes_on_where_it_was(number, proxy, bucket, stored, tmp_path):
    url, folder = f"{bucket.url}/mine", tmp_path / "new"
    assert killed_at(number, proxy, lambda: download_checkpoint(RemoteFolder(url), "checkpoint-2", folder))
    assert list(folder.glob("checkpoint-*")) == []
    download_checkpoint(RemoteFolder(url), "checkpoint-2", folder)
    assert tree(folder / "checkpoint-2") == stored
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]


@pytest.mark.slow
def test_killed_at_every_request_of_a_download(proxy, bucket, stored, tmp_path):
    url, number, hit = f"{bucket.url}/mine", -1, True
    while hit:
        number += 1
        folder = tmp_path / str(number)
        hit = killed_at(number, proxy, lambda folder=folder: download_checkpoint(RemoteFolder(url), "checkpoint-2", folder))
        assert hit != bool(list(folder.glob("checkpoint-*")))
        download_checkpoint(RemoteFolder(url), "checkpoint-2", folder)
        assert tree(folder / "checkpoint-2") == stored
    assert number > 10
