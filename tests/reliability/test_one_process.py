"""Modes 6 and 7: one run a folder, one process a run."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT
from reliability.child_runs import hold, pretrain

from llmforge.errors import ConfigError, StorageError
from llmforge.runtime import run_lock
from llmforge.runtime.commands import run_command
from llmforge.runtime.run_lock import Holder, RunLock, alone_in, holder, refuse_running

HERE = os.uname().nodename


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below with its time of change and bytes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run_held_in_training(corpus: Path, *arguments: str) -> int:
    """A run that stands still before its third step."""
    from llmforge.trainer import ForgeTrainer

    ForgeTrainer.training_step = hold(ForgeTrainer.training_step, "training", lambda self, *_: self.state.global_step == 2)
    return pretrain("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "4", "--eval_strategy", "no", *arguments)


@pytest.mark.parametrize("resume", [False, True])
def test_mode_07_a_second_process_is_refused_and_touches_nothing(resume, corpus, start):
    first = start(lambda: run_held_in_training(corpus, "--save_steps", "1"), "first")
    first.until("training")
    first.until("run/checkpoint-2/manifest.json")  # which is written meanwhile
    before = contents(Path("run"))
    second = start(lambda: pretrain("--corpus", str(corpus), "--output_dir", "run", *["--resume"] * resume), "second")
    assert second.wait(5) == 2
    assert second.text().startswith(f"error: --output_dir run is in use by process {first.pid} on {HERE} since ")
    assert second.text().count("\n") == 1
    assert contents(Path("run")) == before
    Path("training.go").touch()
    assert first.wait() == 0
    assert json.loads(Path("run/exit.json").read_text())["reason"] == "finished"


def test_mode_07_a_killed_holder_is_recovered(corpus, start):
    """With two loader workers, which live on for a while."""
    first = start(lambda: run_held_in_training(corpus, "--save_steps", "1", "--dataloader_num_workers", "2"), "first")
    first.until("training")
    first.until("run/checkpoint-2/manifest.json")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert holder("run") is None
    assert Holder.read(Path("run/run.lock")).pid == first.pid, "nobody cleaned up after it"
    again = start(lambda: pretrain("--corpus", str(corpus), "--output_dir", "run", "--resume", "--max_steps", "3"), "again")
    assert again.wait() == 0, again.text()
    assert "resuming from checkpoint-2" in again.text()


def test_mode_07_of_two_that_start_at_once_one_wins(corpus, start, shared_cache):
    """Both are past every check of the command line when they are let go."""
    import llmforge

    def racer(name: str) -> int:
        from llmforge import pretrain as module

        module.prepare_run = hold(module.prepare_run, f"ready-{name}")
        return pretrain("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "1", "--eval_strategy", "no")

    assert llmforge.prepare_run  # imported once, here
    racers = [start(lambda name=name: racer(name), name) for name in "abc"]
    for name, process in zip("abc", racers, strict=True):
        process.until(f"ready-{name}")
    for name in "abc":
        Path(f"ready-{name}.go").touch()
    assert sorted(process.wait() for process in racers) == [0, 2, 2], [process.text() for process in racers]
    losers = [process.text() for process in racers if process.code == 2]
    assert all("is in use by process" in text or "already holds a run" in text for text in losers)
    assert len(json.loads(Path("run/run.json").read_text())["run_id"]) == 12
    assert Path("run/run.log").read_text().count("final model") == 1


def test_mode_06_a_used_folder_is_refused_without_resume(corpus, start):
    """Also where the other run began and ended after the command line was checked."""
    assert start(lambda: pretrain("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "1"), "a").wait() == 0
    before = contents(Path("run"))
    late = start(lambda: pretrain("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "1"), "b")
    assert late.wait() == 2
    assert "already holds a run. Give --resume" in late.text()
    assert contents(Path("run")) == before

    def unchecked() -> int:
        from llmforge import pretrain as module

        module._refuse_taken_folder = lambda folder: None
        return pretrain("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "1")

    later = start(unchecked, "c")
    assert later.wait() == 2
    assert "already holds a run. Give --resume" in later.text()
    before.pop("run.lock")
    after = contents(Path("run"))
    after.pop("run.lock")
    assert after == before


def second(*arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    """A launch in a process of its own, and its seconds of work, which are its own however busy the machine is."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, used.ru_utime + used.ru_stime - begun.ru_utime - begun.ru_stime


def test_mode_07_the_second_ends_at_once_while_the_first_prepares_its_data(corpus, own_cache, start):
    """It does not import what takes seconds; however it names the folder, and from a recipe too."""
    from llmforge.data import prepare

    def slow() -> int:
        prepare._write_splits = hold(prepare._write_splits, "preparing")
        steps = ["--max_steps", "1", "--eval_strategy", "no"]
        return pretrain("--corpus", str(corpus), "--output_dir", "run", *steps)

    first = start(slow, "first")
    first.until("preparing")
    before = contents(Path("run"))
    Path("mine.yaml").write_text("output_dir: run\npreset: gpt2-10m\n")
    names = ["--output_dir run", "--output-dir=run --resume", "--config mine.yaml"]
    launches = [["-m", "llmforge", "pretrain", "--corpus", str(corpus), *name.split()] for name in names]
    launches.append([str(ROOT / "recipes" / "pretrain_go.py"), "--output_dir", "run"])
    for launch in launches:
        done, seconds = second(*launch)
        told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert done.returncode == 2
        assert len(told) == 1
        assert told[0].startswith(f"error: --output_dir run is in use by {holder('run')}. Wait until")
        assert " torch\n" not in done.stderr
        assert seconds < 5
    assert contents(Path("run")) == before
    Path("preparing.go").touch()
    assert first.wait() == 0, first.text()
    assert json.loads(Path("run/exit.json").read_text())["reason"] == "finished"


def test_mode_07_what_only_tells_is_not_refused(tmp_path, capsys):
    lock = RunLock(tmp_path)
    seen = []
    assert run_command(seen.append, ["--output_dir", str(tmp_path), "--help"]) == 0
    assert run_command(seen.append, ["--output_dir", str(tmp_path / "another")]) == 0
    assert run_command(seen.append, ["--output_dir"]) == 0
    assert len(seen) == 3
    assert run_command(seen.append, ["--resume", str(tmp_path)]) == 0, "the run would be its parent"
    (tmp_path / "checkpoint-1").mkdir()
    assert run_command(seen.append, ["--resume", str(tmp_path / "checkpoint-1")]) == 2
    assert "in use by this process" in capsys.readouterr().err
    lock.release()
    assert run_command(seen.append, ["--resume", str(tmp_path / "checkpoint-1")]) == 0


def test_a_folder_made_for_a_run_that_did_not_begin_is_removed_again(tmp_path):
    def fail(folder: Path, begins: bool) -> list[str]:
        with pytest.raises(KeyboardInterrupt), alone_in(folder, lambda: None, begins):
            raise KeyboardInterrupt
        return sorted(path.name for path in tmp_path.rglob("*"))

    assert fail(tmp_path / "run", begins=False) == []
    assert fail(tmp_path / "run", begins=True) == ["run", "run.lock"]
    assert fail(tmp_path / "run", begins=False) == ["run", "run.lock"], "it was there before"


def test_a_lock_that_is_removed_while_one_waits_for_it_is_none(tmp_path, start):
    """A second one waits; the first goes and takes its file with it; a third, that comes then, and the second are not both in."""
    (tmp_path / "run").mkdir()
    lock = RunLock("run")

    def wait() -> None:
        Path("trying").touch()
        mine = RunLock("run")
        assert run_lock._is(mine._descriptor, Path("run/run.lock"))
        Path("in").touch()
        time.sleep(60)

    waiting = start(wait)
    waiting.until("trying")
    time.sleep(0.2)
    lock.path.unlink()
    lock.release()
    waiting.until("in")
    with pytest.raises(ConfigError, match="in use"):
        RunLock("run")


# The lock itself.


def test_a_held_folder_is_refused_also_to_this_process(tmp_path):
    lock = RunLock(tmp_path)
    with pytest.raises(ConfigError, match=r"is in use by this process\. Wait until"):
        RunLock(tmp_path)
    lock.release()
    lock.release()
    RunLock(tmp_path).release()


def test_holder_says_who_and_changes_nothing(tmp_path):
    assert holder(tmp_path) is None
    assert holder(tmp_path / "nowhere") is None
    assert list(tmp_path.iterdir()) == []
    lock = RunLock(tmp_path)
    found = holder(tmp_path)
    assert found is not None
    assert (found.host, found.pid) == (HERE, os.getpid())
    assert abs(found.since - time.time()) < 60
    with pytest.raises(ConfigError, match="in use"):
        refuse_running(tmp_path)
    lock.release()
    assert holder(tmp_path) is None
    refuse_running(tmp_path)


def test_a_look_does_not_turn_a_start_away(tmp_path, start):
    """`holder` holds the lock for an instant; a start waits for that."""
    (tmp_path / "run.lock").touch()

    def begin() -> None:
        Path("begun").touch()
        while not Path("go").exists():
            time.sleep(0.005)
        Path("trying").touch()
        RunLock(tmp_path).release()

    child = start(begin)
    child.until("begun")
    with open(tmp_path / "run.lock") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        Path("go").touch()
        child.until("trying")
        time.sleep(0.2)
        assert child.poll() is None
    assert child.wait() == 0, child.text()


def test_a_holder_that_wrote_nothing_yet_is_another_process(tmp_path):
    with open(tmp_path / "run.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for text in ("", "{", '{"pid": "x"}', "[1]"):
            (tmp_path / "run.lock").write_text(text)
            with pytest.raises(ConfigError, match="is in use by another process"):
                refuse_running(tmp_path)
        (tmp_path / "run.lock").write_text('{"host": "\\u001b[2Jx", "pid": 7, "since": 0}')
        with pytest.raises(ConfigError) as told:
            refuse_running(tmp_path)
        assert "\x1b" not in str(told.value)


def test_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        RunLock(tmp_path / "nowhere")


# File systems without locks.


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr(run_lock, "_flock", lambda *_, **__: None)


def dead_pid() -> int:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_without_locks_the_record_decides(tmp_path, without_locks, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    lock = RunLock(tmp_path)
    assert [record.message for record in caplog.records if "has no file locks" in record.message] != []
    found = holder(tmp_path)
    assert found is not None
    assert found.pid == os.getpid()
    with pytest.raises(ConfigError, match=r"in use by this process.*delete .*run\.lock\.claim"):
        RunLock(tmp_path)
    lock.release()
    assert holder(tmp_path) is None
    RunLock(tmp_path).release()


@pytest.mark.parametrize(
    ("who", "free"),
    [
        (lambda: Holder(HERE, dead_pid(), time.time()), True),
        (
            lambda: Holder(HERE, os.getpid(), 1.0),
            True,
        ),  # its number was used again
        (lambda: Holder("elsewhere", 1, time.time()), False),
        (lambda: Holder(), False),
    ],
    ids=["dead", "used again", "elsewhere", "unreadable"],
)
def test_without_locks_a_dead_holder_of_this_machine_is_recovered(who, free, tmp_path, without_locks):
    found = who()
    (tmp_path / "run.lock.claim").write_text(json.dumps({"host": found.host, "pid": found.pid, "since": found.since}))
    if free:
        RunLock(tmp_path).release()
        assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    else:
        with pytest.raises(ConfigError, match=r"is in use by .* If you know that it is gone, delete"):
            RunLock(tmp_path)


def test_without_locks_a_quicker_ones_claim_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "run.lock.claim"
    dead, quicker = Holder(HERE, dead_pid(), 5.0), Holder(HERE, os.getpid(), time.time())
    path.write_text(json.dumps({"host": quicker.host, "pid": quicker.pid, "since": quicker.since}))
    run_lock._recover(path, dead)
    assert Holder.read(path) == quicker
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
