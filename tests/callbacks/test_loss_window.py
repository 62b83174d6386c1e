"""The losses not logged yet are a part of the checkpoint."""

from __future__ import annotations

from llmforge.callbacks.loss_window import LossWindow


def test_it_is_made_again_from_its_state_as_trainer_does():
    state = LossWindow(loss=7.5, steps=3).state()
    again = LossWindow(**state["args"])
    assert (again.loss, again.steps, state["attributes"]) == (7.5, 3, {})


def test_a_fresh_one_is_empty():
    assert LossWindow().state()["args"] == {"loss": 0.0, "steps": 0}
