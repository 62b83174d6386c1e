"""The progress bar."""

from __future__ import annotations

import sys

import pytest
from transformers import ProgressCallback

from llmforge.callbacks.progress import Progress


@pytest.fixture
def bar(arguments, state, control, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    callback = Progress()
    state.global_step = 0
    callback.on_train_begin(arguments, state, control)
    yield callback
    callback.on_train_end(arguments, state, control)


def test_it_is_the_stock_one_and_takes_its_place():
    assert issubclass(Progress, ProgressCallback)


def test_it_counts_the_steps(bar, arguments, state, control):
    assert (bar.training_bar.total, bar.training_bar.n) == (300, 0)
    state.global_step = 20
    bar.on_step_end(arguments, state, control)
    assert bar.training_bar.n == 20


def test_the_loss_is_in_the_bar_and_raw_dictionaries_are_not_printed(bar, arguments, state, control, capsys):
    bar.on_log(arguments, state, control, logs={"loss": 2.34567, "learning_rate": 1e-3})
    assert bar.training_bar.postfix == "loss=2.346"
    captured = capsys.readouterr()
    assert "learning_rate" not in captured.out + captured.err


@pytest.mark.parametrize("logs", [None, {}, {"eval_loss": 2.0}])
def test_events_without_a_loss_change_nothing(bar, arguments, state, control, logs):
    bar.on_log(arguments, state, control, logs={"loss": 1.0})
    bar.on_log(arguments, state, control, logs=logs)
    assert bar.training_bar.postfix == "loss=1.000"


def test_an_evaluation_has_a_bar_of_its_own(bar, arguments, state, control):
    for _ in range(3):
        bar.on_prediction_step(arguments, state, control, eval_dataloader=range(5))
    assert (bar.prediction_bar.total, bar.prediction_bar.n) == (5, 3)
    bar.on_evaluate(arguments, state, control)
    assert bar.prediction_bar is None
    bar.on_prediction_step(arguments, state, control, eval_dataloader=range(7))
    assert (bar.prediction_bar.total, bar.prediction_bar.n) == (7, 1)
    bar.on_evaluate(arguments, state, control)


def test_a_file_or_a_pipe_has_no_bar_but_a_line_where_nothing_was_said_for_long(arguments, state, control, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    now = [0.0]
    monkeypatch.setattr("llmforge.callbacks.progress.time.monotonic", lambda: now[0])
    callback = Progress()
    state.global_step = 0
    callback.on_train_begin(arguments, state, control)
    for step, seconds in ((1, 30), (2, 61), (3, 90), (4, 130)):
        now[0], state.global_step = seconds, step
        callback.on_step_end(arguments, state, control)
        if step == 3:
            callback.on_log(arguments, state, control, logs={"loss": 1.0})  # whose line says it already
    callback.on_prediction_step(arguments, state, control, eval_dataloader=range(5))
    callback.on_train_end(arguments, state, control)
    assert capsys.readouterr().err == "training: step 2 of 300\n"


def test_other_processes_show_nothing(arguments, another_process, control, capsys):
    callback = Progress()
    callback.on_train_begin(arguments, another_process, control)
    callback.on_step_end(arguments, another_process, control)
    callback.on_prediction_step(arguments, another_process, control, eval_dataloader=range(5))
    callback.on_log(arguments, another_process, control, logs={"loss": 1.0})
    callback.on_evaluate(arguments, another_process, control)
    callback.on_train_end(arguments, another_process, control)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_it_is_closed_at_the_end(arguments, state, control):
    callback = Progress()
    callback.on_train_begin(arguments, state, control)
    callback.on_train_end(arguments, state, control)
    assert callback.training_bar is None
