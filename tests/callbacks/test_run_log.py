"""metrics.jsonl."""

from __future__ import annotations

import errno
import json
import logging
import math
from types import SimpleNamespace

import pytest

from llmforge.callbacks import run_log
from llmforge.callbacks.run_log import RunLog, describe
from llmforge.errors import ConfigError


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def log(tmp_path, arguments, state, control):
    callback = RunLog(tmp_path)
    callback.attach(SimpleNamespace())

    def write(step: int, **logs):
        state.global_step = step
        callback.on_log(arguments, state, control, logs=logs)

    write.callback = callback
    return write


def test_every_event_is_one_line(log, tmp_path):
    log(10, loss=2.5, learning_rate=1e-4, epoch=0.1)
    log(10, eval_loss=2.25, eval_perplexity=9.5)
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], first["learning_rate"], first["epoch"]) == (10, 2.5, 1e-4, 0.1)
    assert (second["step"], second["eval_loss"]) == (10, 2.25)
    assert first["time"] <= second["time"]


def test_what_says_nothing_is_left_out(log, tmp_path):
    log(10, loss=1.0, total_flos=1e15, eval_model_preparation_time=0.1)
    assert set(lines(tmp_path)[0]) == {"step", "loss", "time"}


def test_a_loss_that_is_no_number_is_shown(log, tmp_path):
    log(10, loss=math.nan, grad_norm=math.inf)
    assert math.isnan(lines(tmp_path)[0]["loss"])
    assert lines(tmp_path)[0]["grad_norm"] == math.inf


def test_an_empty_event_writes_nothing(log, tmp_path):
    log(10)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_other_processes_write_nothing(tmp_path, arguments, another_process, control):
    (tmp_path / "metrics.jsonl").write_text('{"step": 500}\n')
    callback = RunLog(tmp_path)
    callback.attach(SimpleNamespace())
    callback.on_train_begin(arguments, another_process, control)
    callback.on_log(arguments, another_process, control, logs={"loss": 1.0})
    assert lines(tmp_path) == [{"step": 500}]


def test_a_resumed_run_drops_the_lines_past_its_step(log, tmp_path, arguments, state, control):
    for step in (10, 20, 30):
        log(step, loss=float(step))
    state.global_step = 20
    log.callback.on_train_begin(arguments, state, control)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    log(30, loss=3.5)
    assert [line["loss"] for line in lines(tmp_path)] == [10.0, 20.0, 3.5]


def test_a_finished_run_that_goes_on_drops_its_closing_line(log, arguments, state, control, tmp_path):
    log(20, loss=2.0)
    log(20, train_runtime=9.0, train_loss=3.0)
    log.callback.on_train_begin(arguments, state, control)
    assert [sorted(line)[0] for line in lines(tmp_path)] == ["loss"]


def test_a_run_that_starts_over_drops_everything(log, arguments, state, control, tmp_path):
    log(0, eval_loss=9.0)
    log(10, loss=2.0)
    state.global_step = 0
    log.callback.on_train_begin(arguments, state, control)
    assert lines(tmp_path) == []


def test_it_says_that_it_needs_forge_trainer(tmp_path, arguments, state, control):
    with pytest.raises(ConfigError, match="RunLog needs ForgeTrainer"):
        RunLog(tmp_path).on_train_begin(arguments, state, control)


def test_a_line_torn_by_a_kill_is_dropped_on_resume(log, tmp_path, arguments, state, control):
    log(10, loss=1.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')
    log.callback.on_train_begin(arguments, state, control)
    log(20, loss=2.0)
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 2.0]


def test_a_fresh_run_begins_without_a_file(tmp_path, arguments, state, control):
    state.global_step = 0
    callback = RunLog(tmp_path)
    callback.attach(SimpleNamespace())
    callback.on_train_begin(arguments, state, control)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_readable_line_goes_to_the_logger(log, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    with caplog.at_level(logging.INFO, "llmforge"):
        log(
            20,
            loss=4.12345,
            learning_rate=0.0003,
            tokens=5,
            epoch=0.1,
            eval_runtime=2.0,
            tokens_per_second=12345.6,
            eta_seconds=4000.2,
        )
    assert caplog.messages == ["step 20/300 loss=4.123 learning_rate=0.0003 tokens_per_second=12,346 eta=1:06:40"]


def test_values_that_are_no_floats_are_described_as_they_are(state):
    assert describe(state, {"loss": 1, "note": "x", "eval_steps_per_second": 3.0}) == "step 20/300 loss=1 note=x"


def test_mode_02_a_full_disk_holds_lines_up_and_loses_none(log, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    stock, full = run_log.append_json_line, [2, 3]

    def append(path, line):
        if log.callback._waiting[-1]["step"] in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        stock(path, line)

    monkeypatch.setattr(run_log, "append_json_line", append)
    for step in range(1, 5):
        log(step, loss=1.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert caplog.text.count("cannot be written") == 1


def test_another_trouble_with_the_file_is_an_error(log, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run_log, "append_json_line", refuse)
    with pytest.raises(PermissionError):
        log(1, loss=1.0)


def test_the_line_of_a_run_with_a_deadline_says_nothing_twice(state):
    state.global_step, state.max_steps = 20, 884
    line = describe(state, {"loss": 2.5, "run_seconds": 58.81, "max_steps": 884, "eta_seconds": 115.0})
    assert line == "step 20/884 loss=2.5 eta=0:01:55"
