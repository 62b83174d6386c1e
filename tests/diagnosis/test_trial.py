"""A training that does not learn, or a checkpoint that is not sound, is found by the training run."""

from __future__ import annotations

import pytest

from llmforge.checkpoints.manifest import list_checkpoints
from llmforge.diagnosis import trial


@pytest.fixture
def played(monkeypatch, tmp_path):
    """Puts made-up losses in the place of the training; the checkpoint is there and sound."""

    def play(first: list[float], second: list[float], problems: tuple[str, ...] = (), saved: bool = True):
        losses = [first, second]
        monkeypatch.setattr(trial, "_prepare", lambda folder: None)
        monkeypatch.setattr(trial, "_train", lambda data, folder, steps, checkpoint: (losses.pop(0), "cpu"))
        monkeypatch.setattr(trial, "list_checkpoints", lambda folder: [tmp_path] if saved else list_checkpoints(folder))
        monkeypatch.setattr(trial, "verify", lambda checkpoint: list(problems))
        return trial.train_a_little(lambda what: None)

    return play


def test_a_training_that_learns_is_well(played):
    found = played([6.0, 5.0, 2.0], [1.9])
    assert (found.level, found.see) == ("ok", "")
    assert "loss 6.00 to 2.00" in found.text


@pytest.mark.parametrize(("first", "see"), [([6.0, 6.0, 5.9], "loss-flat"), ([6.0, float("nan"), 2.0], "loss-nan")])
def test_a_training_that_does_not_learn_is_a_failure(played, first, see):
    found = played(first, [1.0])
    assert (found.level, found.see) == ("failure", see)


def test_a_checkpoint_that_is_not_sound_is_a_failure(played):
    assert "not sound: model.safetensors: is missing" in played([6.0, 2.0], [1.0], ("model.safetensors: is missing",)).text
    assert played([6.0, 2.0], [1.0], saved=False).level == "failure"


@pytest.mark.parametrize("second", [[6.0], [], [2.0, 1.9]])
def test_a_resume_that_begins_anew_is_a_failure(played, second):
    found = played([6.0, 2.0], second)
    assert (found.level, found.see) == ("failure", "resume-refused")
