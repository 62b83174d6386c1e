"""What a resumed run may differ in, and what has to be named for it."""

from __future__ import annotations

import logging

import pytest
from helpers import training_args

from llmforge.checkpoints.drift import differences, refuse_drift, training_settings
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.errors import ConfigError

KNOWN = {"learning_rate", "weight_decay", "optim", "n_layer"}


def changed(folder, **changes) -> set[str]:
    """Which of the changed settings count."""
    then, now = (training_settings(training_args(folder, **options).to_dict()) for options in ({}, changes))
    return set(differences(then, now))


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-5},
        {"weight_decay": 0.5},
        {"adam_beta2": 0.9},
        {"warmup_steps": 7},
        {"max_grad_norm": 0.5},
        {"seed": 3},
        {"min_lr_ratio": 0.5},
        {"lr_scheduler_type": "linear"},
        {"label_smoothing_factor": 0.1},
        {"metric_for_best_model": "accuracy"},
    ],
    ids=str,
)
def test_mode_12_what_changes_the_training_counts(change, tmp_path):
    assert changed(tmp_path, **change) == set(change)


@pytest.mark.parametrize(
    "change",
    [
        {"logging_steps": 7},
        {"save_total_limit": 7},
        {"max_steps": 7},
        {"dataloader_num_workers": 2},
        {"activation_checkpointing": True},
        {"run_name": "another"},
        {"report_to": ["tensorboard"]},
        {"per_device_train_batch_size": 2},
    ],
    ids=str,
)
def test_what_does_not_is_free(change, tmp_path):
    assert changed(tmp_path, **change) == set()


def test_a_setting_that_an_older_record_does_not_have_is_no_difference():
    assert differences({"a": 1}, {"a": 1, "b": 2}) == {}


def test_values_are_compared_as_json_brings_them_back(tmp_path):
    assert differences({"a": [1, 2], "b": "x"}, {"a": (1, 2), "b": tmp_path.__class__("x")}) == {}


def test_mode_12_all_differences_are_told_in_one_line_and_how_to_accept_them():
    found = {"learning_rate": (0.1, 0.2), "n_layer": (2, 3), "data": ("here", "there")}
    with pytest.raises(ConfigError) as error:
        refuse_drift("run", found, [], KNOWN)
    assert str(error.value) == (
        "run has --learning_rate 0.1, not 0.2; has --n_layer 2, not 3; was trained on other rows (here) than the ones given "
        "(there). Give the same, or --accept_changes learning_rate,n_layer,data to go on all the same."
    )


def test_mode_12_each_has_to_be_named(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    found = {"learning_rate": (0.1, 0.2), "weight_decay": (0.1, 0.0)}
    with pytest.raises(ConfigError, match=r"run has --weight_decay 0\.1, not 0\.0\. .*--accept_changes weight_decay"):
        refuse_drift("run", found, ["learning_rate"], KNOWN)
    refuse_drift("run", found, ["learning_rate", "weight_decay"], KNOWN)
    assert "accepted: weight_decay is 0.0, was 0.1" in caplog.text


def test_another_optimizer_cannot_be_accepted():
    with pytest.raises(ConfigError, match=r"Give --optim muon\."):
        refuse_drift("run", {"optim": ("muon", "sgd")}, ["optim"], KNOWN)


def test_a_name_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"--accept_changes learning_rte: no such setting\. Did you mean learning_rate"):
        refuse_drift("run", {}, ["learning_rte"], KNOWN)


def test_what_was_accepted_and_is_no_difference_any_more_is_nothing(tmp_path):
    """The same command starts a run again and again."""
    refuse_drift("run", {}, ["learning_rate", "data"], KNOWN)


@pytest.mark.parametrize("given", [["a_b,c"], ["a_b", "c"], ["--a-b", "c,"], ["a_b, c"]])
def test_names_are_taken_as_people_write_them(given):
    assert CheckpointArguments(accept_changes=given).accept_changes == ["a_b", "c"]
