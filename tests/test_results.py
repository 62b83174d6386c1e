"""What is said at the end of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmforge.results import RunResult, _next_commands, _summary
from llmforge.runtime.logs import console
from llmforge.scoring import show
from llmforge.scoring.samples import Sample

FOLDER = Path("runs/one")
VALUES = {"loss": 4.4, "perplexity": 81.5, "bits_per_byte": 2.5, "accuracy": 0.2}


def words(step: int, steps: int, chosen: str = "best", deadline: str | None = None, start=None) -> str:
    config = SimpleNamespace(run=SimpleNamespace(html_report=True), deadline=SimpleNamespace(deadline=deadline))
    return _next_commands(RunResult(FOLDER, FOLDER / "final", chosen, step), start, config, steps)


def test_the_next_commands_are_of_the_model_that_was_made():
    told = words(300, 300)
    for command in ("generate --model runs/one --prompt", "evaluate --model runs/one", "tensorboard --logdir runs "):
        assert command in told
    asked = words(300, 300, start=SimpleNamespace(task=object()))
    assert "generate --model runs/one --interactive" in asked
    assert "evaluate" not in asked  # which needs rows


@pytest.mark.parametrize("deadline", [None, "3m"])
def test_more_of_what_only_made_it_worse_is_not_advised(deadline):
    told = words(373, 1285, deadline=deadline)
    assert "validation was best at step 373 of 1,285" in told
    assert "--resume" not in told
    for step, chosen in ((1100, "best"), (1285, "last"), (0, "best")):
        more = words(step, 1285, chosen, deadline)
        assert "overfitting" not in more
        assert ("--max_steps N" if deadline is None else "a longer --deadline") in more


def test_the_test_split_is_shown_where_there_is_one(capsys):
    result = RunResult(FOLDER, FOLDER / "final", "best", 5, VALUES, VALUES, VALUES | {"perplexity": 97.25})
    console().print(_summary(result, SimpleNamespace(path=FOLDER)))
    shown = capsys.readouterr().out
    assert "test" in shown
    assert "97.250" in shown
    result.test = {}
    console().print(_summary(result, SimpleNamespace(path=FOLDER)))
    assert "test" not in capsys.readouterr().out


def test_a_sample_that_repeats_itself_leaves_the_figures_on_the_screen(capsys):
    show.show_samples({"": [Sample("prompt", "", {"greedy": "```\n\n" * 90, "top_p=0.9": "one\n\ntwo"})]})
    shown = capsys.readouterr().out
    assert shown.count("```") == 8
    assert "82 more lines" in shown
    assert "one" in shown
    assert "two" in shown
