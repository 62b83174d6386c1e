"""Early stopping, by its hooks and in a plain Trainer."""

from __future__ import annotations

import copy
import logging
import math

import pytest
from transformers import EarlyStoppingCallback, TrainerControl

from llmforge.callbacks.early_stopping import EarlyStopping
from llmforge.errors import ConfigError


@pytest.fixture
def stops_at(arguments, state):
    """The step at which a callback stops a run with the given evaluations, one every ten steps from 0 on; None if never."""

    def run(callback: EarlyStopping, values: list[float], name: str = "eval_loss") -> int | None:
        state.log_history = []
        for number, value in enumerate(values):
            state.global_step = 10 * number
            state.log_history += [{"step": state.global_step, "loss": 1.0}, {"step": state.global_step, name: value}]
            control = TrainerControl()
            callback.on_evaluate(arguments, state, control, metrics={name: value})
            if control.should_training_stop:
                return state.global_step
        return None

    return run


def test_the_default_patience_is_five_evaluations(stops_at):
    assert stops_at(EarlyStopping(), [3.0, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6]) == 60


def test_an_improvement_starts_the_count_anew(stops_at):
    assert stops_at(EarlyStopping(patience=2), [3.0, 3.1, 2.9, 3.0, 2.8]) is None


def test_an_improvement_too_small_is_none(stops_at):
    falling = [3.0, 2.95, 2.93, 2.92]
    assert stops_at(EarlyStopping(patience=2, min_delta=0.1), falling) == 20
    assert stops_at(EarlyStopping(patience=2, min_delta=0.01), falling) is None


def test_small_steps_add_up_to_an_improvement(stops_at):
    """Each is compared with the last improvement, not with the evaluation before."""
    assert stops_at(EarlyStopping(patience=3, min_delta=0.1), [3.0, 2.96, 2.92, 2.88, 2.84, 2.8, 2.76]) is None


def test_accuracy_is_better_when_it_rises(stops_at):
    rising = [0.1, 0.2, 0.3, 0.4]
    assert stops_at(EarlyStopping("accuracy", patience=2), rising, "eval_accuracy") is None
    assert stops_at(EarlyStopping("accuracy", patience=2), rising[::-1], "eval_accuracy") == 20


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte", "eval_loss"])
def test_the_others_are_better_when_they_fall(stops_at, metric):
    name = f"eval_{metric.removeprefix('eval_')}"
    assert stops_at(EarlyStopping(metric, patience=2), [4.0, 3.0, 2.0, 1.0], name) is None


def test_a_metric_of_one_s_own(stops_at):
    values = [1.0, 2.0, 3.0]
    assert stops_at(EarlyStopping("bleu", patience=2, greater_is_better=True), values, "eval_bleu") is None
    assert stops_at(EarlyStopping("bleu", patience=2), values, "eval_bleu") == 20


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_improvement(stops_at, bad):
    assert stops_at(EarlyStopping(patience=3), [bad, bad, bad, bad]) == 20
    assert stops_at(EarlyStopping(patience=3), [bad, 2.0, bad, 1.0]) is None


def test_an_evaluation_done_twice_counts_once(arguments, state, control):
    callback = EarlyStopping(patience=2)
    state.log_history = [{"step": step, "eval_loss": 1.0} for step in (0, 10, 10, 10)]
    callback.on_evaluate(arguments, state, control)
    assert not control.should_training_stop


def test_a_resumed_run_counts_on_with_the_patience_it_is_given(arguments, state):
    """Trap: transformers' callback, when its state is restored, brings its old patience with it."""
    state.log_history = [{"step": step, "eval_loss": 1.0} for step in (0, 10, 20)]
    state.global_step = 20
    for patience, stops in ((2, True), (3, False)):
        control = TrainerControl()
        EarlyStopping(patience=patience).on_evaluate(arguments, state, control)
        assert control.should_training_stop is stops
    stock = EarlyStoppingCallback(early_stopping_patience=9)
    assert type(stock)(**stock.state()["args"]).early_stopping_patience == 9


@pytest.mark.parametrize(("patience", "stops"), [(2, True), (3, False)])
def test_a_run_that_was_stopped_is_not_trained_on_unless_it_is_given_more_patience(arguments, state, control, patience, stops):
    state.log_history = [{"step": step, "eval_loss": 1.0} for step in (0, 10, 20)]
    state.global_step = 20
    EarlyStopping(patience=patience).on_train_begin(arguments, state, control)
    assert control.should_training_stop is stops


def test_a_metric_that_no_evaluation_has_is_refused_with_the_known_ones(stops_at):
    with pytest.raises(ConfigError, match=r"'perplexty'.*Known: loss"):
        stops_at(EarlyStopping("perplexty"), [3.0, 2.0])


def test_one_evaluation_set_of_several_may_lack_it(arguments, state, control):
    callback = EarlyStopping("books_loss", patience=1)
    state.log_history, state.global_step = [{"step": 10, "eval_code_loss": 1.0}], 10
    callback.on_evaluate(arguments, state, control)
    state.log_history += [{"step": 10, "eval_books_loss": 1.0}]
    callback.on_evaluate(arguments, state, control)
    assert not control.should_training_stop


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"min_delta": -1.0}, {"min_delta": math.nan}, {"min_delta": math.inf}])
def test_settings_that_would_stop_at_once_or_never_are_refused(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        EarlyStopping(**wrong)


@pytest.mark.parametrize(("strategy", "saved"), [("steps", True), ("epoch", True), ("no", False)])
def test_the_stop_itself_is_saved(arguments, state, control, strategy, saved):
    """Otherwise the run, started again from an earlier checkpoint, would train up to the stop once more."""
    arguments.save_strategy = strategy
    state.log_history = [{"step": step, "eval_loss": 1.0} for step in (0, 20)]
    EarlyStopping(patience=1).on_evaluate(arguments, state, control)
    assert (control.should_training_stop, control.should_save) == (True, saved)


def test_why_it_stopped_is_said_once_by_the_first_process(stops_at, state, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    with caplog.at_level(logging.INFO, "llmforge"):
        stops_at(EarlyStopping(patience=1), [2.0, 2.5])
        said = copy.copy(caplog.messages)
        state.is_world_process_zero = False
        stops_at(EarlyStopping(patience=1), [2.0, 2.5])
    assert said == caplog.messages == ["early stopping at step 10: no better eval_loss than 2.0000 of step 0 in 1 evaluations"]
