"""Killed at random moments and gone on with: nothing is lost, nothing is to be done by hand, no bit differs."""

from __future__ import annotations

import random

import pytest
from reliability.chaos import STEPS, Tally, case
from reliability.harness import training, weights

from llmforge.checkpoints import resume


@pytest.fixture(scope="module")
def undisturbed(tokenizer, tmp_path_factory):
    """The last weights of a run that nothing happened to, by preset."""
    made: dict = {}

    def get(preset: str):
        if preset not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            training(folder, tokenizer, preset, max_steps=STEPS).train()
            made[preset] = weights(folder, STEPS)
        return made[preset]

    return get


def test_mode_11_killed_at_random_it_ends_with_the_weights_of_the_undisturbed_run(preset, tokenizer, undisturbed, tmp_path):
    tally, source = Tally(), random.Random(preset)
    while tally.kills < 2:
        case(tmp_path / str(tally.runs), tokenizer, preset, source, undisturbed(preset), tally)
    assert tally.faults == []


def test_control_what_is_not_verified_is_noticed(tokenizer, undisturbed, tmp_path, monkeypatch):
    """The same with a checkpoint torn at every kill, which verification passes over; without it the run cannot go on."""
    monkeypatch.setattr(resume, "verify", lambda *_: [])
    tally, source = Tally(), random.Random(3)
    while not tally.faults and tally.kills < 5:
        case(tmp_path / str(tally.runs), tokenizer, "gpt2-10m", source, undisturbed("gpt2-10m"), tally, tear=True)
    assert tally.faults != []


def test_a_torn_checkpoint_is_passed_over_after_every_kill(tokenizer, undisturbed, tmp_path):
    tally, source = Tally(), random.Random(3)
    while tally.kills < 2:
        case(tmp_path / str(tally.runs), tokenizer, "gpt2-10m", source, undisturbed("gpt2-10m"), tally, tear=True)
    assert tally.faults == []
