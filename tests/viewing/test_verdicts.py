"""The four answers, on runs that go well and runs that do not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import BEGUN, made_run

from llmforge.viewing.lines import Message
from llmforge.viewing.run import RunView, view_run
from llmforge.viewing.saved import Checkpoint, Saved
from llmforge.viewing.standing import Standing
from llmforge.viewing.verdicts import Verdict, verdicts


def answers(view: RunView, now: float = BEGUN + 210) -> dict[str, Verdict]:
    names = ("learning", "healthy", "done", "safe")
    return dict(zip(names, verdicts(view, now), strict=True))


@pytest.fixture
def seen(tmp_path: Path):
    """A view of a made run."""
    count = iter(range(99))

    def make(**settings) -> RunView:
        return view_run(made_run(tmp_path / f"run-{next(count)}", **settings))

    return make


def test_a_run_that_learns(seen):
    found = answers(seen())["learning"]
    assert (found.level, found.answer) == ("good", "Yes")
    assert "7.100 to 3.009" in found.why


def test_a_run_that_overfits(seen):
    view = seen(validation=lambda step: 3.0 + abs(step - 80) / 100)
    found = answers(view)["learning"]
    assert (found.level, found.answer) == ("watch", "Overfitting")
    assert "step 80" in found.why
    # Of two evaluations above the best nothing follows yet.
    assert answers(seen(validation=lambda step: 3.0 + abs(step - 120) / 100))["learning"].level == "good"


def test_a_training_that_has_got_worse_too_does_not_overfit(seen):
    view = seen(training=lambda step: 3.0 + abs(step - 80) / 100, validation=lambda step: 3.0 + abs(step - 80) / 100)
    assert answers(view)["learning"].answer == "Not any more"


def test_a_flat_loss(seen):
    assert answers(seen(training=lambda step: 6.9, validation=lambda step: 6.9))["learning"].level == "bad"
    assert answers(seen(steps=100, training=lambda step: 6.9, validation=lambda step: 6.9))["learning"].level == "unknown"


def test_a_loss_that_has_settled(seen):
    found = answers(seen(steps=400, evaluate=10, validation=lambda step: 3.0 + math.exp(-step / 10)))["learning"]
    assert (found.level, found.answer) == ("good", "Yes, it has settled")


def test_a_loss_that_is_no_number(seen):
    view = seen(training=lambda step: math.nan if step > 150 else 3.0, end=None)
    assert answers(view)["healthy"].level == "bad"
    assert answers(seen(validation=lambda step: math.nan if step else 7.0))["learning"].level == "bad"


def test_a_spike_a_slow_down_and_warnings_are_worth_a_look(seen):
    view = seen(steps=400)
    assert answers(view)["healthy"].level == "good"
    view.series["grad_norm"].values[-3] = 50.0
    assert "gradient norm was 50.00 at step 390" in answers(view)["healthy"].why
    view.series["tokens_per_second"].values[-20:] = type(view.series["loss"].values)("d", [400.0] * 20)
    assert "400 tokens a second, where 1,000" in answers(view)["healthy"].why
    assert "1 warning" in answers(replace(view, warnings=[Message("", "WARNING", "x")]))["healthy"].why


def test_silence_of_a_run_that_goes_on(seen):
    view = replace(seen(), standing=Standing("running"))
    assert answers(view, BEGUN + 200 + 290)["healthy"].level == "good"
    assert answers(view, BEGUN + 200 + 400)["healthy"].answer == "It may hang"
    assert answers(seen(), BEGUN + 9999)["healthy"].level == "good"  # it is over


@pytest.mark.parametrize(
    ("state", "answer", "level"),
    [("finished", "It is", "good"), ("killed", "Not finished", "watch"), ("diverged", "Not finished", "bad")],
)
def test_when_it_is_done(seen, state, answer, level):
    found = answers(replace(seen(), standing=Standing(state)))["done"]
    assert (found.answer, found.level) == (answer, level)
    assert "step 200 of 200" in found.why


def test_when_a_run_that_goes_on_is_done(seen):
    found = answers(replace(seen(), standing=Standing("running"), step=50, eta_seconds=3 * 3600.0))["done"]
    assert found.answer == "In 3 h 00 min"
    assert "25%" in found.why
    assert "2026-01-31 15:03 UTC" in found.why


COMMITTED = Checkpoint("checkpoint-160", 160, "committed", "done")


@pytest.mark.parametrize(
    ("saved", "state", "level", "words"),
    [
        (Saved([COMMITTED], "gs://b/r"), "finished", "good", "All of it is in gs://b/r too"),
        (Saved([COMMITTED]), "running", "good", "40 steps are not in it yet"),
        (Saved([COMMITTED]), "killed", "watch", "On this machine only"),
        (Saved(), "running", "watch", "200 steps would be lost"),
        (Saved(), "killed", "bad", "200 steps are lost"),
        (Saved([replace(COMMITTED, here="damaged")]), "finished", "bad", "Damaged: checkpoint-160"),
        (Saved([replace(COMMITTED, remote="failed", problem="403")], "gs://b/r"), "running", "bad", "fail: 403"),
        (Saved([COMMITTED], "gs://b/r", undelivered=["metrics.jsonl"]), "finished", "watch", "Not uploaded yet: metrics.jsonl"),
        (Saved([replace(COMMITTED, here=None)], "gs://b/r"), "finished", "good", "checkpoint is of step 160"),
    ],
)
def test_whether_the_work_is_safe(seen, saved, state, level, words):
    found = answers(replace(seen(), saved=saved, standing=Standing(state)))["safe"]
    assert found.level == level
    assert words in found.why
