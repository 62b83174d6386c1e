"""Mode 16: SIGTERM and Ctrl-C, in every phase of a run, with real signals to real processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT
from reliability.child_runs import TINY, hold, pretrain
from transformers import TrainerControl

from llmforge.callbacks import stop
from llmforge.checkpoints import commit
from llmforge.checkpoints.manifest import verify
from llmforge.errors import Preempted
from llmforge.runtime import signals
from llmforge.runtime.signals import StopSignals, stop_signals
from llmforge.storage.records import read_json, read_json_lines
from llmforge.trainer import ForgeTrainer

#: Enough for a checkpoint of the tiny model to be committed on a busy machine.
GRACE = 10.0


def held_run(corpus, where: str, *arguments: str) -> int:
    """A run of 6 steps that stands still, once, at a point of its third step; the file is called as the point is."""
    third = {
        "step": ("training_step", lambda self, *_: self.state.global_step == 2),
        "evaluation": ("prediction_step", lambda self, *_: self.is_in_train and self.state.global_step == 3),
        "saving": ("_save_checkpoint", lambda self, *_: self.state.global_step == 3),
        "finishing": ("predict", lambda self, *_: True),
        "first": ("create_optimizer", lambda self, *_: True),
        "begin": ("_prepare_for_training", lambda self, *_: True),
    }
    method, when = third[where]
    setattr(ForgeTrainer, method, hold(getattr(ForgeTrainer, method), where, when))
    steps = ["--max_steps", "6", "--eval_steps", "3", "--save_steps", "3", "--split_ratios", "0.6,0.2,0.2"]
    return pretrain("--corpus", str(corpus), "--output_dir", "run", *steps, *arguments)


def go_on(where: str) -> None:
    Path(f"{where}.go").touch()


def ended(step: int | None, newest: str | None, reason: str = "SIGTERM") -> dict:
    """The exit record, which must be of a run that was stopped."""
    record = read_json("run/exit.json")
    assert (record["exit_code"], record["step"], record["newest_checkpoint"]) == (75, step, newest)
    assert reason in record["reason"]
    return record


def assert_untorn(start, step: int, *arguments: str) -> None:
    """The run goes on from where it was stopped and finishes; nothing was logged twice."""
    again = start(lambda: pretrain("--corpus", str(CORPUS[0]), "--output_dir", "run", "--resume", *AGAIN, *arguments), "again")
    assert again.wait() == 0, again.text()
    assert f"resuming from checkpoint-{step}" in again.text()
    steps = [line["step"] for line in read_json_lines("run/metrics.jsonl") if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in read_json_lines("run/metrics.jsonl") if "eval_loss" in line] == [3, 6]


CORPUS: list = []
AGAIN = ["--max_steps", "6", "--eval_steps", "3", "--save_steps", "3", "--split_ratios", "0.6,0.2,0.2"]


@pytest.fixture(autouse=True)
def remembered(corpus):
    CORPUS[:] = [corpus]


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("where", "step"), [("step", 3), ("evaluation", 3), ("saving", 3), ("first", None), ("begin", None), ("finishing", 6)]
)
def test_mode_16_sigterm_commits_a_checkpoint_and_ends_with_75(where, step, times, corpus, start):
    child = start(lambda: held_run(corpus, where))
    child.until(where)
    for _ in range(times):
        child.signal(signal.SIGTERM)
        time.sleep(0.05)
    go_on(where)
    assert child.wait(GRACE) == 75, child.text()
    ended(step, f"checkpoint-{step}" if step else None)
    assert "Traceback" not in child.text()
    assert child.text().splitlines()[-1].startswith("interrupted")
    lines = read_json_lines("run/metrics.jsonl") if step else []
    if where in ("step", "evaluation"):
        assert [line for line in lines if "eval_loss" in line] == [], "half an evaluation"
    if step:
        assert_untorn(start, step)


def committing(corpus, seconds: float = 30.0) -> int:
    """A run whose first checkpoint takes its time, in the background."""
    commit.commit = hold(commit.commit, "committing", seconds=seconds)
    return held_run(corpus, "finishing", "--save_steps", "1", "--eval_steps", "1")


def press_once(child) -> None:
    """Ctrl-C, till it was heard."""
    child.signal(signal.SIGINT)
    end = time.monotonic() + 60
    while "Ctrl-C again stops at once" not in child.text():
        assert time.monotonic() < end, child.text()
        time.sleep(0.01)


def test_mode_16_while_a_checkpoint_is_being_committed(corpus, start):
    """It is committed, and so is the one of the step that the run stops at."""
    child = start(lambda: committing(corpus))
    child.until("committing")
    child.signal(signal.SIGTERM)
    time.sleep(0.3)
    go_on("committing")
    assert child.wait(GRACE) == 75, child.text()
    step = read_json("run/exit.json")["step"]
    ended(step, f"checkpoint-{step}")
    assert verify(Path(f"run/checkpoint-{step}")) == verify(Path("run/checkpoint-1")) == []


def test_mode_16_a_second_ctrl_c_does_not_wait_for_a_commit(corpus, start):
    """Nor does the process: Python, at its end, would wait for the thread that writes."""

    def run() -> int:
        signals._SECOND_PRESS_SECONDS = 0.5
        code = committing(corpus, seconds=180)
        Path("returned").touch()
        return code

    child = start(run)
    child.until("committing")
    press_once(child)
    time.sleep(0.7)
    assert child.poll() is None
    child.signal(signal.SIGINT)
    assert child.wait(60) == 75, child.text()
    assert child.seconds < 30
    assert not Path("returned").exists()
    ended(read_json("run/exit.json")["step"], None, "Ctrl-C")
    assert list(Path("run").glob("checkpoint-*")) == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGUSR1, "SIGUSR1")])
def test_mode_16_ctrl_c_and_the_schedulers_warning_do_the_same(number, name, corpus, start):
    child = start(lambda: held_run(corpus, "step"))
    child.until("step")
    child.signal(number)
    go_on("step")
    assert child.wait(GRACE) == 75, child.text()
    ended(3, "checkpoint-3", name)
    told = "stopping after this step, with a checkpoint; Ctrl-C again stops at once" in child.text()
    assert told == (number == signal.SIGINT)


def test_mode_16_sigterm_twice_is_still_one(corpus, start):
    child = start(lambda: held_run(corpus, "saving"))
    child.until("saving")
    for _ in range(3):
        child.signal(signal.SIGTERM)
        time.sleep(0.05)
    go_on("saving")
    assert child.wait(GRACE) == 75, child.text()
    ended(3, "checkpoint-3")
    assert_untorn(start, 3)


def test_mode_16_a_second_ctrl_c_after_two_seconds_stops_at_once(corpus, start):
    """While a step takes for ever; one within two seconds, here three, is the same press, which a launcher passes on."""
    assert signals._SECOND_PRESS_SECONDS == 2

    def run() -> int:
        signals._SECOND_PRESS_SECONDS = 3.0
        return held_run(corpus, "step", "--save_steps", "1", "--eval_steps", "1")

    child = start(run)
    child.until("step")
    press_once(child)
    child.signal(signal.SIGINT)
    time.sleep(3.2)
    assert child.poll() is None
    child.signal(signal.SIGINT)
    assert child.wait(GRACE) == 75
    ended(2, "checkpoint-2", "Ctrl-C")


def test_mode_16_a_checkpoint_of_the_step_is_not_saved_twice(corpus, start):
    """Asked in the evaluation of a step that is saved already, and again at a resume without a step."""

    def run() -> int:
        save = ForgeTrainer._save_checkpoint

        def counted(self, *arguments, **named) -> None:
            with open("saves", "a") as file:
                file.write("x")
            save(self, *arguments, **named)

        ForgeTrainer._save_checkpoint = counted
        return held_run(corpus, "step")

    child = start(run)
    child.until("step")
    child.signal(signal.SIGTERM)
    go_on("step")
    assert child.wait(GRACE) == 75
    assert Path("saves").read_text() == "x"
    Path("begin").unlink(missing_ok=True)
    again = start(lambda: held_run(corpus, "begin", "--resume"), "again")
    again.until("begin")
    again.signal(signal.SIGTERM)
    go_on("begin")
    assert again.wait(GRACE) == 75
    ended(3, "checkpoint-3")


def test_mode_16_without_saving_it_stops_without_a_checkpoint(corpus, start):
    child = start(lambda: held_run(corpus, "step", "--save_strategy", "no"))
    child.until("step")
    child.signal(signal.SIGTERM)
    go_on("step")
    assert child.wait(GRACE) == 75
    ended(3, None)


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["once", "twice"])
def test_mode_16_during_tokenizing_nothing_is_torn(times, corpus, own_cache, start):
    from llmforge.data import prepare

    def run() -> int:
        prepare._write_splits = hold(prepare._write_splits, "packing")
        return pretrain("--corpus", str(corpus), "--output_dir", "run", "--max_steps", "1", "--eval_strategy", "no")

    child = start(run)
    child.until("packing")
    for _ in range(times):
        child.signal(signal.SIGTERM)
    assert child.wait(GRACE) == 75
    assert child.text().splitlines()[-1] == "interrupted by SIGTERM"
    assert not Path("run").exists()
    assert list(own_cache.rglob(".*")) == [], "what is half-made is taken away"
    assert start(lambda: pretrain("--corpus", str(corpus), "--max_steps", "1", "--eval_strategy", "no"), "again").wait() == 0


def test_mode_16_loader_workers_survive_a_signal_to_the_whole_group(corpus, start):
    """As systemd and Slurm send it: to every process of the job."""
    arguments = ["--dataloader_num_workers", "2", "--dataloader_prefetch_factor", "1"]
    child = start(lambda: held_run(corpus, "step", *arguments))
    child.until("step")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.killpg(child.pid, number)
    time.sleep(0.2)
    go_on("step")
    assert child.wait(GRACE) == 75, child.text()
    ended(3, "checkpoint-3", "Ctrl-C")


# What is installed, and where.


def test_signals_go_back_to_whom_they_belonged():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    signals = StopSignals()
    with signals.installed(), signals.installed():
        assert signal.getsignal(signal.SIGTERM) == signals._handle
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_ignored_signals_stay_ignored_and_a_used_sigusr1_keeps_its_use():
    mine = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGUSR1, mine), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignals().installed():
            assert signal.getsignal(signal.SIGUSR1) is mine
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_a_notebook_and_a_thread_keep_their_interrupts(monkeypatch):
    import threading

    signals, before = StopSignals(), signal.getsignal(signal.SIGINT)
    seen = []

    def look() -> None:
        with signals.installed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: object()))
    look()
    assert seen == [before, before]


def callback_of(step: int) -> tuple[stop.StopOnSignal, tuple]:
    """A `StopOnSignal` on a made-up trainer, and what its hooks take."""
    checkpoints = SimpleNamespace(settle=lambda: None, has=lambda step: True)
    callback = stop.StopOnSignal()
    callback.attach(SimpleNamespace(checkpoints=checkpoints, is_in_train=True))
    args = SimpleNamespace(world_size=1, save_strategy="steps", output_dir="run")
    return callback, (args, SimpleNamespace(global_step=step), TrainerControl())


@pytest.fixture
def asked(monkeypatch):
    """This process was asked to stop, which nobody has heard yet."""
    monkeypatch.setattr(stop_signals, "_reason", "SIGTERM")
    monkeypatch.setattr(stop_signals, "deferred", False)


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(("step", "when"), [(0, "before the first step"), (7, "after step 7")])
def test_a_training_that_is_stopped_already_does_not_begin(step, when):
    callback, hook = callback_of(step)
    with pytest.raises(Preempted, match=rf"Stopped by SIGTERM {when}\. Go on with --output_dir run --resume"):
        callback.on_train_begin(*hook)


@pytest.mark.usefixtures("asked")
def test_a_checkpoint_is_saved_before_the_training_is_told_to_stop():
    """What stands in `control` is saved in the checkpoint: one that says stop would not be gone on with."""
    callback, hook = callback_of(0)
    stop_signals._reason = None
    callback.on_train_begin(*hook)
    stop_signals._reason = "SIGTERM"
    hook[1].global_step = 1
    hook[2].should_evaluate = True
    callback.on_step_end(*hook)
    assert (hook[2].should_save, hook[2].should_evaluate, hook[2].should_training_stop) == (True, False, False)
    callback.on_save(*hook)
    assert hook[2].should_training_stop
    with pytest.raises(Preempted):
        callback.on_epoch_end(*hook)


def test_stocks_own_way_of_stopping_is_refused():
    from llmforge.configs.training import ForgeTrainingArguments
    from llmforge.errors import ConfigError

    with pytest.raises(ConfigError, match="--enable_jit_checkpoint"):
        ForgeTrainingArguments(output_dir="run", enable_jit_checkpoint=True)


# Several processes.


def test_processes_agree_on_when_to_ask_again(monkeypatch):
    """Fast steps are counted, slow ones are asked after each; the exchange is made up."""
    clock, asked = [0.0], []
    monkeypatch.setattr(stop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stop.torch.distributed, "all_reduce", lambda answer, **_: asked.append(clock[0]))
    for seconds, gap in ((0.01, 10), (0.0001, 64), (0.5, 1)):
        agreement = stop.Agreement(group=object())
        for _ in range(300):
            clock[0] += seconds
            assert not agreement.reached()
        assert asked[-1] - asked[-2] == pytest.approx(gap * seconds, rel=0.11)
    stop_signals._reason = "SIGTERM"
    try:
        assert agreement.reached(at_once=True)
    finally:
        stop_signals._reason = None


def launched(*launcher: str, steps: int = 100000, more: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*launcher, "-m", "llmforge", "pretrain", *TINY, "--corpus", str(CORPUS[0]), "--output_dir", "run"]
    command += ["--max_steps", str(steps), "--eval_strategy", "no", "--save_steps", "100000", "--use_cpu", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    with open("launch.out", "w") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)


def until_trained(process: subprocess.Popen, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while len(read_json_lines("run/metrics.jsonl")) < 3:
        assert process.poll() is None, Path("launch.out").read_text()
        assert time.monotonic() < end, Path("launch.out").read_text()
        time.sleep(0.05)


def until_ended(seconds: float = 30.0) -> dict:
    end = time.monotonic() + seconds
    while not Path("run/exit.json").exists():
        assert time.monotonic() < end, Path("launch.out").read_text()
        time.sleep(0.02)
    return read_json("run/exit.json")


ACCELERATE = [str(Path(sys.executable).with_name("accelerate")), "launch"]
TORCHRUN = [str(Path(sys.executable).with_name("torchrun"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ([*TORCHRUN, *shlex.split("--nproc-per-node 2 --standalone")], signal.SIGTERM),
        ([*ACCELERATE, *shlex.split("--multi_gpu --num_processes 2 --main_process_port 0 --num_machines 1")], signal.SIGTERM),
        ([*ACCELERATE, *shlex.split("--num_processes 1 --cpu")], signal.SIGTERM),
        ([*ACCELERATE, *shlex.split("--num_processes 1 --cpu")], signal.SIGKILL),
    ],
    ids=["torchrun", "accelerate two", "accelerate one", "launcher killed"],
)
def test_mode_16_under_a_launcher(launcher, number):
    """The exit record tells what a launcher's own exit code does not, and no process is left."""
    process = launched(*launcher)
    try:
        until_trained(process)
        begin = time.monotonic()
        process.send_signal(number)
        record = until_ended()
        assert time.monotonic() - begin < 20
        assert record["exit_code"] == 75
        assert record["newest_checkpoint"] == f"checkpoint-{record['step']}"
        assert len(list(Path("run", record["newest_checkpoint"]).glob("rng_state*.pth"))) == (2 if "2" in launcher else 1)
        process.wait(30)
        end = time.monotonic() + 30
        while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).stdout and time.monotonic() < end:
            time.sleep(0.1)
        assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_mode_16_one_of_two_processes_is_asked():
    """Both stop at the same step, with one checkpoint."""
    process = launched(*TORCHRUN, *shlex.split("--nproc-per-node 2 --standalone"))
    try:
        until_trained(process)
        ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        assert len(ranks) == 2
        os.kill(int(ranks[1]), signal.SIGTERM)
        record = until_ended()
        assert record["exit_code"] == 75
        assert sorted(path.name for path in Path("run").glob("checkpoint-*")) == [f"checkpoint-{record['step']}"]
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_one_of_two_processes_is_killed():
    """The other does not wait for it for ever, nothing is left behind, and the run goes on from its last commit."""
    process = launched(*TORCHRUN, *shlex.split("--nproc-per-node 2 --standalone"), more=("--save_steps", "2"))
    try:
        until_trained(process)
        ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(ranks[1]), signal.SIGKILL)
        assert process.wait(90) != 0
        assert not subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True).stdout
        newest = max(int(path.name.split("-")[1]) for path in Path("run").glob("checkpoint-*"))
        assert newest >= 2
        again = launched(*TORCHRUN, *shlex.split("--nproc-per-node 2 --standalone"), steps=newest + 2, more=("--resume",))
        assert again.wait(180) == 0, Path("launch.out").read_text()
        assert f"resuming from checkpoint-{newest}" in Path("run/run.log").read_text()
        assert read_json("run/exit.json")["exit_code"] == 0
    finally:
        process.terminate()
        process.wait(60)
