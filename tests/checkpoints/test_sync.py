"""The mirror: nothing waits for it, nothing that matters is left out, and its record tells the truth."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from checkpoints.stores import checkpoint

from llmforge.checkpoints import sync
from llmforge.checkpoints import uploads as records
from llmforge.checkpoints.commit import delete
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.manifest import list_checkpoints
from llmforge.checkpoints.mirrored import delete_checkpoint, remote_checkpoints
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.checkpoints.sync import Mirror
from llmforge.checkpoints.uploads import Uploads, read_uploads
from llmforge.configs.remote import RemoteArguments
from llmforge.runtime.signals import stop_signals


class Link(Courier):
    """A courier whose link can be cut (`down`), or held (`gate` is cleared)."""

    def __init__(self, url):
        super().__init__(url, apart=False)
        self.down = False
        self.gate = threading.Event()
        self.gate.set()
        self.asked: Counter[str] = Counter()
        self.over = False

    def ask(self, task, *arguments):
        self.asked[task] += 1
        while not self.gate.wait(0.05):
            if self.over:
                raise RemoteError("it is over")
        if self.down:
            raise RemoteError("no link")
        return super().ask(task, *arguments)

    def close(self):
        self.over = True
        super().close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sync, "BACKOFF", (0.05, 0.2))
    monkeypatch.setattr(sync, "ROUND", 0.1)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def mirror(run, tmp_path):
    made = []

    def make(start=True, **settings) -> Mirror:
        mirror = Mirror(run, Link(f"file://{tmp_path}/store/run"), RemoteArguments(**settings), "run")
        made.append(mirror)
        if start:
            mirror.start()
        return mirror

    yield make
    for each in made:
        each.close()


@pytest.fixture
def remote(tmp_path):
    return RemoteFolder(f"file://{tmp_path}/store/run")


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def states(run: Path) -> dict[str, str]:
    record = json.loads((run / "uploads.json").read_text())
    return {name: upload["state"] for name, upload in record["checkpoints"].items()}


def test_what_is_committed_goes_to_the_store_and_is_noted(run, mirror, remote):
    it = mirror()
    (run / "metrics.jsonl").write_text('{"step": 5}\n')
    (run / "final").mkdir()
    (run / "final" / "config.json").write_text("{}")
    it.add(checkpoint(run, 5))
    assert it.drain(60) == []
    it.close()
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    assert {"metrics.jsonl", "final/config.json"} <= set(remote.names())
    record = json.loads((run / "uploads.json").read_text())
    assert record["remote"] == remote.url
    upload = record["checkpoints"]["checkpoint-5"]
    assert (upload["state"], upload["attempts"], upload["error"]) == ("done", 1, None)
    assert upload["bytes"] == sum(path.stat().st_size for path in (run / "checkpoint-5").iterdir())
    assert record["files"]["metrics.jsonl"]["state"] == "done"


@pytest.mark.parametrize(("known", "asked", "first"), [
    (True, "SIGTERM", "checkpoint-5"),
    (True, None, "metrics.jsonl"),
    (False, "SIGTERM", "metrics.jsonl"),  # who goes on from there has no curves otherwise
])  # fmt: skip
def test_once_a_stop_is_asked_for_the_checkpoint_goes_first(known, asked, first, run, mirror, remote, monkeypatch):
    """A scheduler gives thirty seconds, and on a slow link a long run's curves take them all."""
    it, sent = mirror(start=False), []
    (run / "metrics.jsonl").write_text('{"step": 4}\n')
    if known:
        assert it.send([]) == []
        (run / "metrics.jsonl").write_text('{"step": 4}\n{"step": 5}\n')
    ask = it.courier.ask
    monkeypatch.setattr(it.courier, "ask", lambda task, path, *more: (sent.append(Path(path).name), ask(task, path, *more))[1])
    monkeypatch.setattr(stop_signals, "_reason", asked)
    checkpoint(run, 5)
    assert it.send(["checkpoint-5"]) == []
    assert next(name for name in sent if name in ("checkpoint-5", "metrics.jsonl")) == first
    assert (remote_checkpoints(remote), remote.read("metrics.jsonl")) == (["checkpoint-5"], (run / "metrics.jsonl").read_bytes())


def test_once_a_stop_is_asked_for_the_records_do_not_share_the_link_with_the_checkpoint(run, mirror, remote, monkeypatch):
    """But go after it."""
    it = mirror()
    (run / "metrics.jsonl").write_text("1\n")
    assert it.drain(60) == []
    held, ask = threading.Event(), it.courier.ask

    def slowly(task, *arguments):
        if task == "send_checkpoint":
            held.wait(60)
        return ask(task, *arguments)

    monkeypatch.setattr(it.courier, "ask", slowly)
    monkeypatch.setattr(stop_signals, "_reason", "SIGTERM")
    (run / "metrics.jsonl").write_text("1\n2\n")
    it.add(checkpoint(run, 5))
    assert it.drain(1.0) == ["checkpoint-5", "metrics.jsonl"]
    assert remote.read("metrics.jsonl") == b"1\n"
    held.set()
    assert it.drain(60) == []
    assert remote.read("metrics.jsonl") == b"1\n2\n"


def test_records_go_again_when_they_changed_and_not_otherwise(run, mirror, remote):
    it = mirror()
    (run / "metrics.jsonl").write_text("1\n")
    assert it.drain(60) == []
    sent = it.courier.asked["put"]
    it.refresh(at_once=True)
    time.sleep(0.3)
    assert it.courier.asked["put"] == sent
    (run / "metrics.jsonl").write_text("1\n2\n")
    it.refresh()
    until(lambda: remote.read("metrics.jsonl") == b"1\n2\n")


def test_a_save_does_not_wait_for_the_link_and_what_waits_is_pinned(run, mirror, remote):
    it = mirror()
    it.courier.gate.clear()
    begun = time.monotonic()
    it.add(checkpoint(run, 5))
    assert time.monotonic() - begun < 20
    assert it.pinned() == {5}
    until(lambda: states(run)["checkpoint-5"] == "uploading" or it.courier.asked["begin_at"])
    assert it.drain(0.3) == ["checkpoint-5"]
    it.courier.gate.set()
    assert it.drain(60) == []
    assert it.pinned() == set()


def test_without_background_a_save_waits_for_its_upload_and_not_for_a_store_that_fails(run, mirror, remote):
    it = mirror(background_upload=False)
    it.add(checkpoint(run, 5))
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    it.courier.down = True
    begun = time.monotonic()
    it.add(checkpoint(run, 10))
    assert time.monotonic() - begun < 20
    assert states(run)["checkpoint-10"] in ("failed", "uploading")
    assert it.uploads.checkpoints["checkpoint-10"].attempts >= 1


def test_a_link_slower_than_the_saves_leaves_out_what_is_old_but_not_the_best(run, mirror, remote):
    """At most `upload_queue` wait besides the one on its way; what is left out is counted, and its disk free."""
    it = mirror(remote_total_limit=0)
    it.add(checkpoint(run, 1))
    assert it.drain(60) == []
    it.courier.gate.clear()
    it.add(checkpoint(run, 2))
    until(lambda: it.waiting.active == "checkpoint-2")
    for step in range(3, 9):
        it.add(checkpoint(run, step, best=4 if step >= 4 else None))
        assert len(it.pinned()) <= 3
    assert it.pinned() == {2, 4, 8}
    assert json.loads((run / "uploads.json").read_text())["superseded"] == 4
    assert [name for name, state in states(run).items() if state == "superseded"] == [f"checkpoint-{n}" for n in (3, 5, 6, 7)]
    it.courier.gate.set()
    assert it.drain(60) == []
    assert remote_checkpoints(remote) == [f"checkpoint-{n}" for n in (1, 2, 4, 8)]


def test_a_store_that_fails_is_tried_again_until_it_mends(run, mirror, remote, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    it = mirror()
    it.courier.down = True
    it.add(checkpoint(run, 5))
    (run / "metrics.jsonl").write_text("1\n")
    until(lambda: it.courier.asked["begin_at"] + it.courier.asked["send_checkpoint"] >= 4)
    assert it.undelivered() == ["checkpoint-5", "metrics.jsonl"]
    it.courier.down = False
    assert it.drain(60) == []
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    # Once, however often it was tried; a record may have been caught twice.
    told = {id(record): record.getMessage() for record in caplog.records if "no link" in record.getMessage()}
    assert sorted(told.values()) == sorted(set(told.values()))


def test_the_end_waits_within_its_bound_and_says_what_is_left(run, mirror):
    it = mirror()
    it.courier.gate.clear()
    it.add(checkpoint(run, 5))
    (run / "metrics.jsonl").write_text("1\n")
    begun = time.monotonic()
    assert it.drain(0.5) == ["checkpoint-5", "metrics.jsonl"]
    assert 0.4 < time.monotonic() - begun < 20
    begun = time.monotonic()
    assert it.drain(60, lambda: 0.3) == ["checkpoint-5", "metrics.jsonl"]
    assert time.monotonic() - begun < 20
    it.close()
    assert states(run)["checkpoint-5"] in ("queued", "failed")
    assert not list(run.glob(".partial-*"))


def test_the_next_start_delivers_what_the_last_one_could_not(run, mirror, remote):
    first = mirror()
    first.courier.down = True
    first.add(checkpoint(run, 5))
    (run / "metrics.jsonl").write_text("1\n")
    assert first.drain(0.3) == ["checkpoint-5", "metrics.jsonl"]
    first.close()
    second = mirror()
    assert second.drain(60) == []
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    second.close()
    third = mirror()
    assert third.drain(60) == []
    assert third.courier.asked["send_checkpoint"] == third.courier.asked["put"] == 0


def test_a_checkpoint_that_is_damaged_here_holds_nothing_up_and_is_not_called_delivered(run, mirror, remote):
    it = mirror()
    path = checkpoint(run, 5)
    (path / "config.json").write_text("broken")
    it.add(path)
    it.add(checkpoint(run, 10))
    assert it.drain(60) == ["checkpoint-5"]
    it.close()
    assert remote_checkpoints(remote) == ["checkpoint-10"]
    assert "damaged" in json.loads((run / "uploads.json").read_text())["checkpoints"]["checkpoint-5"]["error"]
    assert it.pinned() == set()


def test_the_store_keeps_the_newest_and_the_best_and_nothing_of_others(run, mirror, remote):
    it = mirror(remote_total_limit=2)
    for step in (5, 10, 15, 20):
        it.add(checkpoint(run, step, best=5))
        assert it.drain(60) == []
    it.close()
    assert remote_checkpoints(remote) == ["checkpoint-5", "checkpoint-20"]
    assert states(run) == {
        **{"checkpoint-5": "done", "checkpoint-10": "deleted"},
        **{"checkpoint-15": "deleted", "checkpoint-20": "done"},
    }
    assert {name.partition("/")[0] for name in remote.names()} == {"checkpoint-5", "checkpoint-20"}
    again = mirror(remote_total_limit=2)
    assert again.drain(60) == []
    assert again.courier.asked["send_checkpoint"] == 0


def test_what_a_broken_deletion_left_in_the_store_goes_with_the_next_one(run, mirror, remote):
    it = mirror()
    it.add(checkpoint(run, 5))
    assert it.drain(60) == []
    remote.delete("checkpoint-5/manifest.json")
    remote.write("checkpoint-7/config.json", b"of somebody else")
    it.add(checkpoint(run, 10))
    assert it.drain(60) == []
    assert {name.partition("/")[0] for name in remote.names()} == {"checkpoint-7", "checkpoint-10"}


def test_local_copies_are_released_but_for_the_newest_and_the_best(run, mirror):
    it = mirror(release_local=True)
    for step in (5, 10, 15, 20):
        it.add(checkpoint(run, step, best=10 if step >= 10 else None))
        assert it.drain(60) == []
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-10", "checkpoint-20"]


def test_local_copies_that_are_not_uploaded_are_never_released(run, mirror):
    it = mirror(release_local=True, upload_queue=1)
    it.courier.gate.clear()
    for step in (5, 10, 15):
        it.add(checkpoint(run, step))
    it.courier.gate.set()
    assert it.drain(60) == []
    it.close()
    kept = {path.name for path in list_checkpoints(run)}
    assert {name for name, state in states(run).items() if state != "done"} <= kept


def test_later_checkpoints_of_a_course_that_was_left_are_withdrawn(run, mirror, remote):
    first = mirror()
    for step in (5, 10):
        first.add(checkpoint(run, step))
    assert first.drain(60) == []
    first.close()
    (run / "checkpoint-10").rename(run / "aside")
    second = mirror(start=False)
    second.start(5)
    second.add(checkpoint(run, 7))
    assert second.drain(60) == []
    assert remote_checkpoints(remote) == ["checkpoint-5", "checkpoint-7"]


def test_a_course_is_left_at_once_and_what_the_run_goes_on_from_is_there(run, mirror, remote):
    """Before anything new is saved: a machine that is lost by then is gone on with from what was chosen."""
    first = mirror()
    for step in (5, 10):
        first.add(checkpoint(run, step))
    assert first.drain(60) == []
    first.close()
    delete_checkpoint(remote, "checkpoint-5", "run")
    (run / "checkpoint-10").rename(run / "aside")
    second = mirror(start=False)
    second.start(5)
    until(lambda: remote_checkpoints(remote) == ["checkpoint-5"])
    second.close()


def test_the_record_of_the_end_goes_last(run, mirror, remote):
    it = mirror()
    assert it.drain(60) == []
    (run / "exit.json").write_text("{}")
    assert it.undelivered() == []
    it.send_last(5)
    assert remote.read("exit.json") == b"{}"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"remote": 1}', '{"remote": "x", "superseded": 0, "checkpoints": {"a": {"b": 1}}}']
)
def test_a_damaged_record_is_made_anew(run, content):
    (run / "uploads.json").write_text(content)
    assert read_uploads(run) is None
    assert Uploads(run, "gs://bucket/run").checkpoints == {}


def test_a_record_of_another_place_says_nothing_of_this_one(run, mirror):
    it = mirror()
    it.add(checkpoint(run, 5))
    assert it.drain(60) == []
    it.close()
    assert Uploads(run, it.courier.url).checkpoints["checkpoint-5"].state == "done"
    assert Uploads(run, "gs://bucket/run").checkpoints == {}


# A process of its own


@pytest.fixture
def apart(tmp_path):
    """A courier that speaks to a folder by a process of its own."""
    courier = Courier(f"file://{tmp_path}/store/run")
    yield courier
    courier.close()


def test_the_process_does_what_it_is_asked_and_hands_over_what_goes_wrong(run, apart, remote, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.INFO, "llmforge")
    path = checkpoint(run, 5)
    assert apart.ask("send_checkpoint", path) > 0
    assert apart.ask("checkpoints") == ["checkpoint-5"]
    with pytest.raises(RemoteError, match="no checkpoint") as caught:
        apart.ask("delete_checkpoint", "final", "run")
    assert (caught.value.kind, caught.value.exit_code) == ("refused", 5)
    assert apart.ask("delete_checkpoint", "checkpoint-5", "other") is False
    until(lambda: "is of another run and stays" in caplog.text)
    until(lambda: apart.moved > 0)
    # Killed, it is started again.
    apart._process.kill()
    apart._process.join()
    until(lambda: apart._pipe is None)
    assert apart.ask("checkpoints") == ["checkpoint-5"]
    apart._process.kill()
    apart.close()
    with pytest.raises(RemoteError, match="it is over"):
        apart.ask("checkpoints")


# The beginning, the records, what is left lying


def test_how_it_ended_is_forgotten_in_the_store_when_the_run_goes_on(run, mirror, remote):
    first = mirror()
    (run / "exit.json").write_text('{"exit_code": 75}')
    (run / "divergence.json").write_text("{}")
    assert first.drain(60) == []
    until(lambda: "exit.json" in remote.names())
    first.close()
    for name in ("exit.json", "divergence.json"):
        (run / name).unlink()
    second = mirror()
    until(lambda: not second._is_busy())
    assert not {"exit.json", "divergence.json"} & set(remote.names())


def test_where_nothing_may_be_deleted_the_rest_goes_on(run, mirror, remote, monkeypatch):
    remote.write("exit.json", b'{"exit_code": 75}')
    stock = RemoteFolder.delete

    def refuse(self, name):
        if name == "exit.json":
            raise RemoteError("permission denied", kind="denied")
        stock(self, name)

    monkeypatch.setattr(RemoteFolder, "delete", refuse)
    it = mirror()
    it.add(checkpoint(run, 5))
    assert it.drain(60) == []
    assert remote_checkpoints(remote) == ["checkpoint-5"]


def test_a_record_that_cannot_be_sent_does_not_hold_up_the_others(run, mirror, remote, monkeypatch):
    stock = Link.ask

    def refuse(self, task, *arguments):
        if task == "put" and arguments[1] == "metrics.jsonl":
            raise RemoteError("no link")
        return stock(self, task, *arguments)

    monkeypatch.setattr(Link, "ask", refuse)
    (run / "metrics.jsonl").write_text("1\n")
    (run / "samples.jsonl").write_text("1\n")
    (run / "eval.json").write_text("{}")
    it = mirror()
    assert it.drain(1) == ["metrics.jsonl"]
    assert {"samples.jsonl", "eval.json"} <= set(remote.names())


def test_while_an_upload_is_waited_for_the_processor_is_left_to_others(run, mirror):
    """The files are looked at some times a second, not without a pause."""
    it = mirror()
    it.courier.gate.clear()
    it.add(checkpoint(run, 5))
    until(lambda: it.courier.asked["send_checkpoint"] == 1 or it.courier.asked["begin_at"] == 1)
    looks, changed = [], it.records.changed
    it.records.changed = lambda: looks.append(1) or changed()
    assert "checkpoint-5" in it.drain(1.5)
    assert 0 < len(looks) < 40


def test_a_record_that_grows_is_sent_in_proportion_to_its_size_and_whole_with_a_checkpoint(run, mirror, remote, monkeypatch):
    """Rounds of a file that grows by one per cent each: ten times its size in all, and not a hundred times."""
    monkeypatch.setattr(sync, "ROUND", 0.0)
    sent: list[int] = []
    stock = RemoteFolder.put

    def counted(self, path, name, *more):
        sent.append(path.stat().st_size if name == "metrics.jsonl" else 0)
        return stock(self, path, name, *more)

    monkeypatch.setattr(RemoteFolder, "put", counted)
    it = mirror()
    until(lambda: not it._is_busy())
    line = b"x" * 4095 + b"\n"
    (run / "metrics.jsonl").write_bytes(line * 100)
    it.refresh(at_once=True)
    until(lambda: "metrics.jsonl" in remote.names() and not it.records.changed())
    for _ in range(100):
        with open(run / "metrics.jsonl", "ab") as file:
            file.write(line)
        it.refresh()
        time.sleep(0.01)
    size = (run / "metrics.jsonl").stat().st_size
    time.sleep(0.1)
    assert size * 2 < sum(sent) < size * 11
    it.refresh(at_once=True)
    until(lambda: not it.records.changed())
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(line)
    it.refresh()
    time.sleep(0.2)
    assert remote.sizes()["metrics.jsonl"] == size
    it.add(checkpoint(run, 5))
    until(lambda: remote.sizes()["metrics.jsonl"] == size + len(line))


def test_the_curves_up_to_a_checkpoint_are_in_the_store_before_it(run, mirror, remote, monkeypatch):
    """The machine may be gone the moment the checkpoint is there; rounds of the records come when they come."""
    monkeypatch.setattr(sync, "ROUND", 3600.0)
    stock, before = Link.ask, {}

    def watched(self, task, *arguments):
        if task == "send_checkpoint":
            before[arguments[0].name] = remote.read("metrics.jsonl")
        return stock(self, task, *arguments)

    monkeypatch.setattr(Link, "ask", watched)
    monkeypatch.setattr(Mirror, "refresh", lambda self, at_once=False: None)
    (run / "metrics.jsonl").write_text("1\n")
    it = mirror()
    it.add(checkpoint(run, 1))
    until(lambda: not it.waiting.names)
    (run / "metrics.jsonl").write_text("1\n2\n")
    it.add(checkpoint(run, 2))
    until(lambda: not it.waiting.names)
    assert before == {"checkpoint-1": b"1\n", "checkpoint-2": b"1\n2\n"}


def test_a_record_that_is_replaced_while_it_is_sent_arrives_as_it_was(run, mirror, remote, monkeypatch):
    stock, seen = RemoteFolder._put_file, []

    def replacing(self, path, *rest):
        (run / "exit.json").write_text(json.dumps(seen))
        seen.append(len(seen))
        stock(self, path, *rest)

    it = mirror(start=False)
    (run / "exit.json").write_text("{}")
    monkeypatch.setattr(RemoteFolder, "_put_file", replacing)
    assert it.records.send("exit.json") is None
    assert remote.read("exit.json") == b"{}"
    assert [name for name, _ in it.records.changed()] == ["exit.json"]  # to be sent again


def test_of_two_that_send_the_same_record_the_older_does_not_arrive_last(run, mirror, remote):
    it = mirror(start=False)
    it.courier.gate.clear()
    (run / "exit.json").write_text("old")
    first = threading.Thread(target=it.records.send, args=("exit.json",))
    first.start()
    until(lambda: it.courier.asked["put"] == 1)
    (run / "exit.json").write_text("newer")
    last = threading.Thread(target=it.records.send, args=("exit.json",))
    last.start()
    time.sleep(0.2)
    assert it.courier.asked["put"] == 1
    it.courier.gate.set()
    first.join()
    last.join()
    assert remote.read("exit.json") == b"newer"


def test_half_of_a_checkpoint_that_was_left_out_is_deleted(run, mirror, remote, monkeypatch):
    """Its upload broke off, newer ones came, and it is not here any more: nobody else would know of it."""
    stock = RemoteFolder.put

    def breaks(self, path, name, *more):
        if name == "checkpoint-5/optimizer.pt":
            raise RemoteError("no link")
        return stock(self, path, name, *more)

    monkeypatch.setattr(RemoteFolder, "put", breaks)
    monkeypatch.setattr(sync, "BACKOFF", (1.0, 1.0))  # it waits, and is not on its way, when the next one comes
    it = mirror(upload_queue=1)
    path = checkpoint(run, 5)
    it.add(path)
    until(lambda: states(run)["checkpoint-5"] == "failed")
    assert any(name.startswith("checkpoint-5/") for name in remote.names())
    it.add(checkpoint(run, 10))
    until(lambda: states(run)["checkpoint-5"] == "superseded")
    delete(path)
    assert it.drain(60) == []
    it.add(checkpoint(run, 15))
    assert it.drain(60) == []
    assert {name.partition("/")[0] for name in remote.names()} == {"checkpoint-10", "checkpoint-15"}
    assert "checkpoint-5" not in states(run)


def test_half_of_an_upload_of_a_machine_that_is_gone_is_deleted(run, mirror, remote):
    """It is in no record of this machine; in another run's place nothing of the kind is touched."""
    remote.write("checkpoint-7/config.json", b"half")
    (run / "run.json").write_text('{"run_id": "run"}')
    remote.write("run.json", b'{"run_id": "run"}')
    it = mirror()
    it.add(checkpoint(run, 10))
    assert it.drain(60) == []
    assert {name.partition("/")[0] for name in remote.names()} == {"checkpoint-10", "run.json"}
    remote.write("checkpoint-7/config.json", b"half")
    remote.write("run.json", b'{"run_id": "other"}')
    it.close()
    again = mirror()
    again.add(checkpoint(run, 15))
    assert again.drain(60) == []
    assert "checkpoint-7/config.json" in remote.names()


@pytest.mark.parametrize("best", [None, 5])
def test_a_local_copy_of_what_the_store_dropped_by_its_limit_is_released_too(best, run, mirror, remote):
    it = mirror(release_local=True, remote_total_limit=1)
    for step in (5, 10, 15, 20):
        it.add(checkpoint(run, step, best=best))
        assert it.drain(60) == []
    assert remote_checkpoints(remote) == ["checkpoint-5", "checkpoint-20"] if best else ["checkpoint-20"]
    assert [path.name for path in list_checkpoints(run)] == (["checkpoint-5", "checkpoint-20"] if best else ["checkpoint-20"])


def test_the_record_can_be_read_while_another_thread_changes_it(run, monkeypatch):
    def slowly(item):
        time.sleep(1e-4)  # the other thread's turn, in the middle
        return item

    monkeypatch.setattr(Uploads, "save", lambda self: None)
    monkeypatch.setattr(records, "replace", slowly)
    uploads, stop, failures = Uploads(run, "gs://b/run"), threading.Event(), []

    def look():
        while not stop.is_set():
            try:
                records.undelivered(run, uploads.copy())
            except RuntimeError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(200):
        uploads.change(uploads.checkpoint(f"checkpoint-{number}"), "superseded")
        time.sleep(1e-3)
        if number % 20 == 0:
            uploads.forget_past(())
    stop.set()
    thread.join()
    assert failures == []


def test_closing_does_not_wait_for_a_process_that_hangs(run, apart, tmp_path):
    """As on a dead network disk: here a pipe that nobody writes to stands for the file."""
    (tmp_path / "store" / "run").mkdir(parents=True, exist_ok=True)
    pipe = tmp_path / "store" / "run" / "run.json"
    os.mkfifo(pipe)

    def ask():
        with pytest.raises(RemoteError):
            apart.ask("run_id")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    held: list[int] = []

    def reads() -> bool:
        with contextlib.suppress(OSError):  # nobody does yet
            held.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held)

    until(reads)
    begun = time.monotonic()
    apart.close()
    asking.join(20)
    assert not asking.is_alive()
    assert time.monotonic() - begun < 20
    os.close(held[0])
