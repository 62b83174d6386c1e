"""A run with a deadline, in a process of its own so that its time begins with it; its clock goes on when it is looked at."""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

from reliability.child_runs import pretrain

import llmforge.run
from llmforge.planning.dial import MOST_EPOCHS


class Ticks:
    """A clock that is as fast as the steps are, however busy the machine."""

    def __init__(self):
        self.now = time.monotonic()

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def timed(*flags: str) -> int:
    """`pretrain`, in a child: nothing is put back."""
    llmforge.run.Deadline = functools.partial(llmforge.run.Deadline, clock=Ticks())
    return pretrain(*flags)


def record(name: str) -> dict:
    return json.loads(Path("run", name).read_text())


def lines() -> list[dict]:
    return [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]


def test_it_ends_with_its_schedule_and_a_resumed_one_has_what_was_chosen(corpus, start):
    flags = ["--corpus", str(corpus), "--output_dir", "run"]
    child = start(lambda: timed(*flags, "--deadline", "80s"))
    assert child.wait() == 0, child.text()
    assert "with a longer --deadline" in child.text()
    chosen = record("run.json")["config"]["deadline"]["chosen"]
    assert chosen["lr_scheduler_type"] == "linear"
    rates = [line["learning_rate"] for line in lines() if "learning_rate" in line]
    assert rates[-1] < 0.1 * max(rates)
    steps = [line["step"] for line in lines() if "eval_loss" in line]
    assert len(steps) > 3
    assert steps[-1] == lines()[-1]["step"] == record("exit.json")["step"] > 10
    again = start(lambda: timed(*flags, "--deadline", "140s", "--resume"), "again")
    assert again.wait() == 0, again.text()
    assert record("run.json")["config"]["deadline"]["chosen"] == chosen
    assert lines()[-1]["step"] > steps[-1]
    assert "keep" not in again.text()  # what is decided is not told again


def test_a_corpus_that_is_used_up_ends_it_with_its_schedule_too(corpus, start):
    """Before the time is: with the rate at its end, and the last weights judged."""
    child = start(lambda: timed("--corpus", str(corpus), "--output_dir", "run", "--deadline", "30m"))
    assert child.wait(120) == 0, child.text()
    assert "the run ends after about" in child.text()
    assert record("exit.json")["exit_code"] == 0
    *_, last = [line for line in lines() if "learning_rate" in line]
    assert last["learning_rate"] < 0.1 * max(line.get("learning_rate", 0.0) for line in lines())
    assert MOST_EPOCHS - 0.1 < lines()[-1]["epoch"] <= MOST_EPOCHS
    judged = [line["step"] for line in lines() if "eval_loss" in line]
    assert len(judged) > 4
    assert judged[-1] == record("exit.json")["step"]
