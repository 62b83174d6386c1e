"""The machine is gone: the run goes on from the store alone, and ends with the weights it would have ended with."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from reliability.child_runs import pretrain
from safetensors.torch import load_file

from llmforge.checkpoints.manifest import list_checkpoints
from llmforge.checkpoints.mirrored import remote_checkpoints
from llmforge.checkpoints.remote import RemoteFolder

STEPS = ("--max_steps", "8", "--save_steps", "2", "--save_total_limit", "2", "--eval_strategy", "no")
#: With a best checkpoint, which is not the newest when the machine goes.
JUDGED = ("--eval_strategy", "steps", "--eval_steps", "4")

SECONDS = 240.0


@pytest.fixture
def run(corpus, start, tmp_path):
    """``run(name, *flags)``: a training in a process of its own, mirrored into ``store/``."""
    return lambda name, *flags: start(
        lambda: pretrain("--corpus", str(corpus), "--remote", f"file://{tmp_path}/store", *STEPS, *flags), name
    )


def final(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "final" / "model.safetensors")


def record(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "exit.json").read_text())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def until_uploaded(child, store: RemoteFolder, step: int) -> None:
    end = time.monotonic() + 60
    while f"checkpoint-{step}" not in remote_checkpoints(store):
        assert child.poll() is None, child.text()
        assert time.monotonic() < end, child.stuck()
        time.sleep(0.01)


def test_from_the_url_alone(run, tmp_path):
    """Killed, and its folder deleted; `--resume URL` and nothing else makes an equal run of it, with all its records."""
    whole = run("whole", "--output_dir", "elsewhere/whole", *JUDGED)
    assert whole.wait(SECONDS) == 0, whole.text()
    store = RemoteFolder(f"file://{tmp_path}/store/mine")
    killed = run("killed", "--output_dir", "first/mine", *JUDGED)
    until_uploaded(killed, store, 6)
    killed.kill()
    shutil.rmtree("first")
    again = run("again", "--resume", f"file://{tmp_path}/store/mine", *JUDGED)
    assert again.wait(SECONDS) == 0, again.text()
    assert same(final("runs/mine"), final("elsewhere/whole"))
    assert record("runs/mine")["undelivered_uploads"] == []
    lines = [json.loads(line) for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    log = Path("runs/mine/run.log").read_text()
    assert log.index("step 1/8") < log.index("resuming from checkpoint-")  # that of the machine that is gone, and this one's
    # What is in the store at the end is the run: restored once more, there is nothing to do.
    assert remote_checkpoints(store)[-1] == "checkpoint-8"
    assert json.loads(store.read("exit.json")) == record("runs/mine")
    assert store.read("final/model.safetensors") == Path("runs/mine/final/model.safetensors").read_bytes()
    assert store.read("metrics.jsonl") == Path("runs/mine/metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_plain_resume_takes_what_is_newer_here_or_there(run, tmp_path):
    store = RemoteFolder(f"file://{tmp_path}/store/mine")
    begun = run("begun", "--output_dir", "runs/mine", "--max_steps", "4")
    assert begun.wait(SECONDS) == 0, begun.text()
    shutil.rmtree("runs/mine/checkpoint-4")  # the disk lost the newest
    there = run("there", "--output_dir", "runs/mine", "--resume", "--max_steps", "6")
    assert there.wait(SECONDS) == 0, there.text()
    assert "resuming from checkpoint-4" in there.text()
    store.delete("checkpoint-6/manifest.json")  # and now it is the store that did
    here = run("here", "--output_dir", "runs/mine", "--resume")
    assert here.wait(SECONDS) == 0, here.text()
    assert "resuming from checkpoint-6" in here.text()
    assert remote_checkpoints(store)[-1] == "checkpoint-8"


def test_stopped_by_sigterm_the_checkpoint_is_in_the_store_when_the_process_ends(run, tmp_path):
    store = RemoteFolder(f"file://{tmp_path}/store/mine")
    child = run("child", "--output_dir", "runs/mine", "--max_steps", "5000", "--save_steps", "40")
    until_uploaded(child, store, 40)
    child.signal(signal.SIGTERM)
    assert child.wait(SECONDS) == 75, child.text()
    [*_, newest] = list_checkpoints(Path("runs/mine"))
    assert remote_checkpoints(store)[-1] == newest.name
    assert record("runs/mine")["undelivered_uploads"] == []
    assert json.loads(store.read("exit.json"))["exit_code"] == 75


def test_what_cannot_be_uploaded_is_in_the_exit_code_and_the_next_start_delivers_it(run, tmp_path):
    """The store goes away after the start: training does not stop, and its end does not call itself a success."""
    place = tmp_path / "store" / "mine"
    child = run("child", "--output_dir", "runs/mine", "--drain_seconds", "1")
    child.until("runs/mine/checkpoint-2")
    while not place.is_file():  # the mirror may just make the folder again
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(IsADirectoryError):
            place.write_text("a file where the folder was")
    assert child.wait(SECONDS) == 5, child.text()
    assert "Not uploaded yet" in child.text()
    assert Path("runs/mine/final/model.safetensors").is_file()
    left = record("runs/mine")
    assert left["exit_code"] == 5
    assert {"checkpoint-8", "final/model.safetensors"} <= set(left["undelivered_uploads"])
    place.unlink()
    again = run("again", "--output_dir", "runs/mine", "--resume")
    assert again.wait(SECONDS) == 0, again.text()
    assert remote_checkpoints(RemoteFolder(f"file://{place}"))[-1] == "checkpoint-8"
    assert record("runs/mine")["undelivered_uploads"] == []


def test_a_new_run_does_not_go_where_another_one_is(run, tmp_path):
    begun = run("begun", "--output_dir", "here/mine", "--max_steps", "2")
    assert begun.wait(SECONDS) == 0, begun.text()
    store = RemoteFolder(f"file://{tmp_path}/store/mine")
    before = store.sizes()
    other = run("other", "--output_dir", "there/mine")
    assert other.wait(SECONDS) == 2, other.text()
    assert "already holds another run" in other.text()
    wrong = run("wrong", "--resume", f"file://{tmp_path}/store/mine/checkpoint-7")
    assert wrong.wait(SECONDS) == 4, wrong.text()
    nothing = run("nothing", "--resume", f"file://{tmp_path}/store/nobody")
    assert nothing.wait(SECONDS) == 4, nothing.text()
    assert store.sizes() == before


def test_a_store_that_cannot_be_written_is_told_before_anything_is_prepared(run, tmp_path, own_cache):
    (tmp_path / "store").write_text("a file")
    child = run("child", "--output_dir", "runs/mine")
    assert child.wait(SECONDS) == 5, child.text()
    assert "nothing can be written there" in child.text()
    assert "Traceback" not in child.text()
    assert not own_cache.exists()
    assert not Path("runs/mine/run.json").exists()
