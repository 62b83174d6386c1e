"""How a run ends: what its record says before, while and after it waits for its uploads."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
import torch

from llmforge import ending, mirroring
from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import PretrainConfig, RunArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.ending import end_run, explain
from llmforge.errors import Preempted, StorageError, TrainingDiverged
from llmforge.runtime.run_folder import RunFolder
from llmforge.runtime.signals import stop_signals


class Stuck:
    """What stands for a mirror: it waits as it is told to, and then delivers, or does not; `then` happens while it waits."""

    def __init__(self, folder, delivers=True, then=lambda: None):
        self.folder, self.delivers, self.then = folder, delivers, then
        self.left, self.seen, self.waited = ["checkpoint-5", "metrics.jsonl"], None, 0.0

    def undelivered(self):
        return list(self.left)

    def drain(self, seconds, hurried):
        self.seen = json.loads((self.folder / "exit.json").read_text())
        self.then()
        begun = time.monotonic()
        while not self.delivers and time.monotonic() - begun < seconds and hurried() != 0:
            time.sleep(0.01)
        self.waited = time.monotonic() - begun
        self.left = [] if self.delivers else self.left
        return self.undelivered()


@pytest.fixture(autouse=True)
def listening():
    """To Ctrl-C as well, which a job in a script's background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def end(tmp_path):
    """`end_run` of a run in `tmp_path`: what is to be raised, and ``exit.json``."""
    run = RunFolder(tmp_path)
    run.write_record(name="mine")
    config = PretrainConfig(
        training=ForgeTrainingArguments(output_dir=str(tmp_path), use_cpu=True), remote=RemoteArguments(drain_seconds=30)
    )

    def call(mirror=None, error=None):
        with stop_signals.installed():
            told = end_run(run, config, mirror, error)
        return told, json.loads((tmp_path / "exit.json").read_text())

    return call


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_while_it_waits_the_record_says_what_is_undelivered_and_then_that_it_is_not(end, tmp_path):
    mirror = Stuck(tmp_path)
    told, record = end(mirror)
    assert (mirror.seen["exit_code"], mirror.seen["undelivered_uploads"]) == (5, ["checkpoint-5", "metrics.jsonl"])
    assert mirror.seen["reason"].startswith("Not uploaded yet: checkpoint-5")
    assert told is None
    assert (record["exit_code"], record["reason"], record["undelivered_uploads"]) == (0, "finished", [])


def test_a_failure_is_recorded_before_its_uploads_are_waited_for(end, tmp_path):
    mirror, error = Stuck(tmp_path), TrainingDiverged("The loss is NaN.")
    told, record = end(mirror, error)
    assert (mirror.seen["exit_code"], mirror.seen["undelivered_uploads"]) == (6, ["checkpoint-5", "metrics.jsonl"])
    assert told is error
    assert (record["exit_code"], record["reason"], record["undelivered_uploads"]) == (6, "The loss is NaN.", [])


def test_what_stays_undelivered_is_a_failure_of_a_run_that_finished(end, tmp_path):
    told, record = end(Stuck(tmp_path, delivers=False, then=lambda: setattr(stop_signals, "insisted", True)))
    assert isinstance(told, StorageError)
    assert (record["exit_code"], record["undelivered_uploads"]) == (5, ["checkpoint-5", "metrics.jsonl"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_it_waits_it_was_interrupted(number, end, tmp_path, monkeypatch):
    monkeypatch.setattr(mirroring, "_GRACE", 0.2)
    told, record = end(Stuck(tmp_path, delivers=False, then=lambda: ask(number)))
    assert isinstance(told, Preempted)
    assert "Not uploaded yet: checkpoint-5" in str(told)
    assert (record["exit_code"], record["undelivered_uploads"]) == (75, ["checkpoint-5", "metrics.jsonl"])


def test_stopped_while_it_waits_and_delivered_in_time_it_is_finished(end, tmp_path):
    told, record = end(Stuck(tmp_path, then=ask))
    assert told is None
    assert (record["exit_code"], record["reason"]) == (0, "finished")


def test_the_grace_counts_from_the_signal(tmp_path, monkeypatch):
    """What was saved meanwhile took of it: a scheduler's patience does not begin with the uploads."""
    monkeypatch.setattr(mirroring, "_GRACE", 1.0)
    run, mirror = RunFolder(tmp_path), Stuck(tmp_path, delivers=False)
    config = PretrainConfig(training=ForgeTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with stop_signals.installed():
        stop_signals.deferred = True
        ask()
        time.sleep(0.8)
        end_run(run, config, mirror, Preempted("Stopped by SIGTERM.", step=3))
    assert mirror.waited < 0.5


def test_a_second_ctrl_c_before_the_uploads_are_waited_for_is_heard(tmp_path):
    run, mirror = RunFolder(tmp_path), Stuck(tmp_path, delivers=False)
    config = PretrainConfig(training=ForgeTrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with stop_signals.installed():
        stop_signals.deferred = True
        ask(signal.SIGINT)
        stop_signals._pressed -= 10
        with pytest.raises(KeyboardInterrupt) as pressed:
            ask(signal.SIGINT)
            threading.Event().wait(1)
        end_run(run, config, mirror, pressed.value)
    assert mirror.waited < 0.5
    assert json.loads((tmp_path / "exit.json").read_text())["exit_code"] == 75


def test_another_process_s_record_stays_and_learns_what_is_undelivered(end, tmp_path):
    (tmp_path / "exit.json").write_text('{"exit_code": 6, "reason": "The loss is NaN.", "undelivered_uploads": []}')
    end(Stuck(tmp_path, delivers=False, then=lambda: setattr(stop_signals, "insisted", True)), RuntimeError("gone"))
    record = json.loads((tmp_path / "exit.json").read_text())
    assert (record["exit_code"], record["reason"]) == (6, "The loss is NaN.")
    assert record["undelivered_uploads"] == ["checkpoint-5", "metrics.jsonl"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug"), TrainingDiverged("The loss is NaN.")])
def test_a_record_that_cannot_be_put_right_does_not_hide_why_it_ended(error, end, tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("The disk is full.", "Free some space.")

    monkeypatch.setattr(ending, "correct_exit", full)
    told, record = end(Stuck(tmp_path), error)
    assert told is (error if isinstance(error, TrainingDiverged) else None)  # None: `error` is raised as it is
    assert record["exit_code"] == {KeyboardInterrupt: 75, RuntimeError: 1}.get(type(error), 6)
    with pytest.raises(StorageError, match="disk is full"):
        end(Stuck(tmp_path))


@pytest.mark.parametrize(
    ("rows", "chosen", "processes", "told"),
    [
        (8, False, 1, "Give --auto_batch, which"),
        (8, False, 2, "Give 4 and more --gradient_accumulation_steps"),
        (8, True, 2, "Leave --auto_batch out: give 4 and more"),
        (1, False, 1, "Add --activation_checkpointing, or take"),
    ],
)
def test_out_of_memory_suggests_what_was_not_given_and_works(monkeypatch, rows, chosen, processes, told):
    training = ForgeTrainingArguments(use_cpu=True, per_device_train_batch_size=rows)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    remedy = explain(
        torch.OutOfMemoryError("full"), PretrainConfig(training=training, run=RunArguments(auto_batch=chosen))
    ).remedy
    assert remedy.startswith(told)
    assert ("--auto_batch" in remedy) is (chosen or (rows, processes) == (8, 1))
