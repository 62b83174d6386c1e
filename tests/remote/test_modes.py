"""Failure modes 18 to 23, each with what a user would see of it, in trainings and at the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import write_documents
from reliability.child_runs import TINY, Child
from reliability.harness import At, differing, training, weights
from remote.runs import RUN_ID, made_checkpoint, made_run, tree

from llmforge import mirroring, pretrain
from llmforge.callbacks.checkpoint_sync import CheckpointSync
from llmforge.checkpoints import inspect, sync
from llmforge.checkpoints.courier import Courier
from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.fetch import download_checkpoint, newest_remote
from llmforge.checkpoints.manifest import list_checkpoints, verify
from llmforge.checkpoints.probe import probe
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.checkpoints.sync import Mirror
from llmforge.configs.remote import RemoteArguments
from llmforge.runtime.commands import run_command

EVER = float("inf")


@pytest.fixture(autouse=True)
def hasty(quick, monkeypatch) -> None:
    monkeypatch.setattr(sync, "BACKOFF", (0.05, 0.2))
    monkeypatch.setattr(sync, "ROUND", 0.1)


@pytest.fixture
def start() -> Iterator[Callable[..., Child]]:
    """Starts children, which end with the test."""
    children: list[Child] = []

    def begin(function: Callable[[], int | None]) -> Child:
        children.append(Child(function))
        return children[-1]

    yield begin
    for child in children:
        child.kill()


@pytest.fixture
def mirror(bucket) -> Iterator[Callable[..., Mirror]]:
    """Mirrors of run folders at ``gs://<bucket>/<folder's name>``, in this process and not started."""
    made: list[Mirror] = []

    def begin(run: Path, run_id: str = RUN_ID, **settings: object) -> Mirror:
        run.mkdir(parents=True, exist_ok=True)
        made.append(Mirror(run, Courier(f"{bucket.url}/{run.name}", apart=False), RemoteArguments(**settings), run_id))
        return made[-1]

    yield begin
    for each in made:
        each.close()


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    """What the library logged."""
    from llmforge.runtime.logs import logger

    told: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(logger, level, lambda text, *arguments: told.append(text % arguments))
    return told


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


# 18: deleted under the uploader


def test_mode_18_what_is_on_its_way_is_not_deleted_here(proxy, watched, mirror, tokenizer, tmp_path):
    """A limit of one checkpoint, and a store that does not answer: the one on its way and the newest stay."""
    run = tmp_path / "mine"
    it = mirror(run, upload_queue=1)
    trainer = training(run, tokenizer, callbacks=[CheckpointSync(it)], save_total_limit=1, max_steps=4)
    proxy.add("black hole", "upload", name="checkpoint-1/model", times=EVER)
    trainer.add_callback(At(1, lambda: time.sleep(0.5)))
    trainer.train()
    kept = [path.name for path in list_checkpoints(run)]
    assert "checkpoint-1" in kept
    assert "checkpoint-4" in kept
    assert [problem for path in list_checkpoints(run) for problem in verify(path)] == []
    proxy.clear()
    assert it.drain(30) == []
    assert watched.checkpoints("mine")[-1] == "checkpoint-4"
    assert {"checkpoint-1", "checkpoint-4"} <= set(watched.checkpoints("mine"))
    assert it.pinned() == set()


# 19: corrupted on the way


def test_mode_19_a_bit_that_flips_is_found_and_sent_or_fetched_again(proxy, watched, mirror, messages, tmp_path):
    run = made_run(tmp_path / "mine")
    it = mirror(run)
    it.start()
    up = proxy.add("corrupt up", "upload", name="optimizer.pt")
    it.add(made_checkpoint(run, 1))
    assert it.drain(30) == []
    assert up.hits >= 2
    assert any("optimizer.pt did not arrive as it was sent" in message for message in messages)
    assert watched.damage("mine") == []
    down = proxy.add("corrupt down", "download", name="model")
    download_checkpoint(RemoteFolder(f"{watched.url}/mine"), "checkpoint-1", tmp_path / "new")
    assert down.hits >= 2
    assert tree(tmp_path / "new" / "checkpoint-1") == tree(run / "checkpoint-1")


# 20: a partial checkpoint visible


def test_mode_20_without_its_manifest_it_does_not_exist(proxy, watched, mirror, tmp_path):
    run = made_run(tmp_path / "mine")
    it = mirror(run)
    it.start()
    it.add(made_checkpoint(run, 1))
    assert it.drain(30) == []
    proxy.add("black hole", "upload", name="checkpoint-2/manifest.json", times=EVER)
    it.add(made_checkpoint(run, 2))
    wait(lambda: any(seen.fault for seen in proxy.seen))
    url = f"{watched.url}/mine"
    assert len(watched.names("mine/checkpoint-2/")) == 7
    assert newest_remote(RemoteFolder(url)) == "checkpoint-1"
    assert run_command(inspect.main, ["download", url, "2", "--output_dir", "down"]) == 4
    assert run_command(inspect.main, ["download", url, "--output_dir", "down"]) == 0
    assert [path.name for path in list_checkpoints(Path("down"))] == ["checkpoint-1"]
    # The manifest is the last to come, and nothing of its checkpoint is sent after it.
    sent = [seen.name for seen in proxy.seen if seen.phase == "upload" and "/checkpoint-1/" in seen.name]
    assert sent[-1].endswith("/manifest.json")


# 21: uploads slower than saves


def test_mode_21_slower_than_saves_the_queue_is_bounded_and_training_never_waits(
    proxy, watched, mirror, messages, tmp_path, monkeypatch
):
    run = made_run(tmp_path / "mine")
    it = mirror(run, upload_queue=1)
    it.start()
    proxy.add("slow", rate=100_000, times=EVER)
    goes_on, ask = threading.Event(), it.courier.ask

    def slowly(task: str, *arguments: object) -> object:
        if task == "send_checkpoint":
            goes_on.wait(60)
        return ask(task, *arguments)

    monkeypatch.setattr(it.courier, "ask", slowly)
    longest, most = 0.0, 0
    for step in range(1, 9):
        path = made_checkpoint(run, step, size=20_000)
        began = time.monotonic()
        it.add(path)
        longest = max(longest, time.monotonic() - began)
        most = max(most, len(it.pinned()))
    assert longest < 20  # who waited for an upload would do so for a minute
    assert most <= 3  # one on its way, one that waits, the best
    goes_on.set()
    proxy.clear()
    assert it.drain(60) == []
    record = json.loads((run / "uploads.json").read_text())
    states = {name: item["state"] for name, item in record["checkpoints"].items()}
    dropped = [name for name, state in states.items() if state == "superseded"]
    assert record["superseded"] == len(dropped) > 0
    assert states["checkpoint-8"] == states["checkpoint-1"] == "done"
    assert watched.checkpoints("mine")[-1] == "checkpoint-8"
    assert not set(dropped) & set(watched.checkpoints("mine"))
    assert sum("is not uploaded: newer ones came before its turn" in message for message in messages) == len(dropped)


# 22: credentials missing or expired


@pytest.mark.parametrize(
    ("kind", "phase", "said", "means"),
    [
        ("403", "upload", "nothing can be written there: permission denied", "denied"),
        ("403", "download", "nothing can be read back there: permission denied", "denied"),
        ("403", "delete", "nothing can be deleted there: permission denied", "denied"),
        ("401", "upload", "no credentials, or none that are accepted", "credentials"),
    ],
)
def test_mode_22_the_probe_says_what_cannot_be_done(kind, phase, said, means, proxy, bucket):
    proxy.add(kind, phase, times=EVER)
    with pytest.raises(RemoteError) as error:
        probe(RemoteFolder(f"{bucket.url}/mine"))
    assert said in str(error.value)
    assert error.value.remedy
    assert (error.value.kind, error.value.exit_code) == (means, 5)
    proxy.clear()


def test_mode_22_the_probe_of_a_store_that_is_well_leaves_nothing(proxy, bucket):
    probe(RemoteFolder(f"{bucket.url}/mine"))
    assert [proxy.count(phase) > 0 for phase in ("upload", "download", "delete")] == [True] * 3
    assert bucket.names() == []
    with pytest.raises(RemoteError, match="no such bucket"):
        probe(RemoteFolder("gs://never-made/mine"))


def test_mode_22_credentials_that_expire_later_stop_nothing_and_it_mends(proxy, watched, mirror, messages, tokenizer, tmp_path):
    run = tmp_path / "mine"
    it = mirror(run)
    trainer = training(run, tokenizer, callbacks=[CheckpointSync(it)], save_total_limit=2, max_steps=4)
    proxy.add("401", times=EVER)
    trainer.add_callback(At(3, lambda: time.sleep(0.5)))
    trainer.train()
    assert trainer.state.global_step == 4
    assert watched.names() == []
    assert any("no credentials, or none that are accepted" in message for message in messages)
    assert len(it.undelivered()) >= 2
    proxy.clear()
    assert it.drain(30) == []
    assert watched.checkpoints("mine")[-1] == "checkpoint-4"
    assert watched.damage("mine") == []


# 23: exit with uploads pending; and whole runs


@pytest.fixture
def command(tmp_path, capfd) -> Callable[..., tuple[int, str]]:
    """`llmforge pretrain` of the smallest model in this process: exit code and what was printed."""
    corpus = write_documents(tmp_path / "corpus")

    def call(*arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        code = run_command(pretrain.main, [*TINY, "--corpus", str(corpus), "--use_cpu", "--save_steps", "1", *arguments])
        out, err = capfd.readouterr()
        return code, out + err

    return call


def test_mode_23_what_is_undelivered_at_the_end_is_told_and_delivered_by_the_next_start(command, proxy, watched, capfd):
    remote = ("--remote", watched.url, "--output_dir", "runs/mine", "--drain_seconds", "1")
    proxy.add("503", "upload", name="checkpoint-3", times=EVER)
    code, told = command(*remote, "--max_steps", "3")
    assert code == 5
    assert re.search(r"Not uploaded yet: .*checkpoint-3", told.splitlines()[-1])
    assert "llmforge checkpoints upload runs/mine --all" in told.splitlines()[-1]
    end = json.loads(Path("runs/mine/exit.json").read_text())
    assert end["exit_code"] == 5
    assert "checkpoint-3" in end["undelivered_uploads"]
    assert run_command(inspect.main, ["status", "runs/mine", "--json"]) == 0
    assert "checkpoint-3" in json.loads(capfd.readouterr().out)["undelivered_uploads"]
    assert "checkpoint-3" not in watched.checkpoints("mine")
    proxy.clear()
    code, told = command(*remote, "--max_steps", "3", "--resume", "--drain_seconds", "60")
    assert code == 0, told
    assert watched.checkpoints("mine")[-1] == "checkpoint-3"
    assert json.loads(watched.read("mine/exit.json"))["undelivered_uploads"] == []
    run = Path("runs/mine")
    there = {name.removeprefix("mine/") for name in watched.names("mine/")}
    expected = {"run.json", "metrics.jsonl", "run.log", "exit.json", "final/model.safetensors", "tokenizer/tokenizer.json"}
    assert expected <= there
    for name in ("run.json", "exit.json", "metrics.jsonl", "final/model.safetensors", "tokenizer/tokenizer.json"):
        assert watched.read(f"mine/{name}") == (run / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("signals", [["SIGTERM"], ["SIGTERM", "SIGTERM"], ["SIGINT", "SIGINT"]], ids=" ".join)
def test_mode_23_stopped_while_the_store_does_not_answer_it_ends_in_time_and_says_what_is_left(
    signals, proxy, watched, start, tmp_path, capfd
):
    corpus = write_documents(tmp_path / "corpus")
    arguments = [
        *TINY,
        "--corpus",
        str(corpus),
        "--use_cpu",
        "--save_steps",
        "2",
        "--max_steps",
        "5000",
        "--output_dir",
        "runs/mine",
    ]
    proxy.add("black hole", "upload", name="/model", times=EVER)

    def stopped() -> int:
        mirroring._GRACE = 3.0  # instead of 20
        return run_command(pretrain.main, [*arguments, "--output_dir", "runs/mine", "--remote", watched.url])

    child = start(stopped)
    wait(lambda: proxy.count("upload", "/model") > 0, 60)
    begun = time.monotonic()
    for name in signals:
        child.signal(getattr(signal, name))
        time.sleep(1.2)  # a second press within a second counts as the same one
    assert child.wait(60) == 75, child.text()
    assert time.monotonic() - begun < 30
    newest = list_checkpoints(Path("runs/mine"))[-1]
    assert verify(newest) == []
    if signals[0] == "SIGTERM":  # a second Ctrl-C leaves no time for a record
        assert newest.name in json.loads(Path("runs/mine/exit.json").read_text())["undelivered_uploads"]
    assert watched.checkpoints("mine") == []
    proxy.clear()
    assert run_command(inspect.main, ["upload", "runs/mine", "--all"]) == 0
    assert watched.checkpoints("mine")[-1] == newest.name


@pytest.mark.slow
def test_a_machine_that_is_gone_is_replaced_by_the_url_alone(command, proxy, watched, start, tmp_path):
    """Killed in the middle, its folder deleted; a new one goes on from the bucket to the weights of an undisturbed run."""
    from llmforge.callbacks import run_log

    settings = ("--max_steps", "5", "--resid_pdrop", "0.1", "--save_total_limit", "2", "--logging_steps", "1")
    assert command(*settings, "--output_dir", "runs/undisturbed")[0] == 0
    arguments = [*TINY, "--corpus", "corpus", "--use_cpu", "--save_steps", "1", *settings]

    def first() -> int:
        stock = run_log.RunLog.on_log

        def held(self, args, state, *given, **named):
            while state.global_step == 3:  # till it is killed
                time.sleep(0.05)
            return stock(self, args, state, *given, **named)

        run_log.RunLog.on_log = held
        return run_command(pretrain.main, [*arguments, "--output_dir", "runs/mine", "--remote", watched.url])

    child = start(first)
    wait(lambda: bool(watched.checkpoints("mine")), 120)
    child.kill()
    shutil.rmtree("runs/mine")
    code, told = command(*settings, "--output_dir", "elsewhere/mine", "--remote", watched.url, "--resume", f"{watched.url}/mine")
    assert code == 0, told
    assert "resuming from checkpoint-" in told
    assert differing(weights(Path("elsewhere/mine"), 5), weights(Path("runs/undisturbed"), 5)) == []
    assert watched.checkpoints("mine")[-1] == "checkpoint-5"
    lines = [json.loads(line) for line in Path("elsewhere/mine/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]


def test_a_store_that_cannot_be_used_is_told_before_anything_slow(command, proxy, bucket):
    proxy.add("403", "upload", times=EVER)
    code, told = command("--remote", bucket.url, "--output_dir", "runs/mine", "--max_steps", "1")
    assert code == 5
    assert told.splitlines()[-1].startswith("error: ")
    assert "nothing can be written there: permission denied" in told
    assert "documents" not in told
    assert not os.path.exists("runs/mine/run.json")
