"""Steps, time and disk of a run."""

from __future__ import annotations

import pytest

from llmforge.configs.model import ModelArguments
from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import PretrainConfig
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.errors import ConfigError
from llmforge.planning.corpus import CorpusSize
from llmforge.planning.outline import Plan, every, make_plan, rows_of_a_step, step_count
from llmforge.planning.speed import Speed
from llmforge.run import plan_steps
from llmforge.runtime.devices import Device

CARD = Device("cuda", "Card", 24 * 2**30, "bf16")
CORPUS = CorpusSize(800_000, 800, 100_000, 4.0, counted=True, vocabulary=50257, block_size=1024)


def plan(corpus: CorpusSize | None = None, device: Device = CARD, remote: str | None = None, **more) -> Plan:
    given = {name: more.pop(name) for name in ("processes", "sharded", "step_rows", "deadline", "fit_rows") if name in more}
    training = ForgeTrainingArguments(report_to=[], use_cpu=True, **more)
    config = PretrainConfig(training=training, model=ModelArguments(preset="gpt2-124m"), remote=RemoteArguments(remote=remote))
    speed = Speed(10_000, "a test")
    fixed = {"step_rows": 8, "corpus": corpus, "speed": speed} | given
    return make_plan(config, "gpt2-124m", 50257, device, "bf16", **fixed)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_the_rows_of_a_step_are_those_of_a_launch(monkeypatch, processes):
    training = ForgeTrainingArguments(report_to=[], use_cpu=True, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert rows_of_a_step(training, None, processes) == plan_steps(training, 1000)[0] == 12 * processes


def test_the_rows_that_are_given_are_shared_out():
    training = ForgeTrainingArguments(report_to=[], use_cpu=True, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    assert rows_of_a_step(training, 64, 4) == 64
    with pytest.raises(ConfigError, match=r"--effective_batch_size 12 .* 5\. Give --effective_batch_size 10 or 15"):
        rows_of_a_step(training, 12, 5)
    with pytest.raises(ConfigError, match=r"Give --effective_batch_size 5,"):
        rows_of_a_step(training, 3, 5)
    assert (made := plan(processes=4, step_rows=8)).setup.batch.rows * made.setup.accumulation == 2


def test_the_time_is_steps_over_speed_and_the_evaluations():
    made = plan(CORPUS, max_steps=1000, eval_steps=500)
    assert made.duration.steps == 1000
    assert made.duration.tokens == 1000 * 8 * 1024
    assert made.duration.training_seconds == pytest.approx(819.2)
    assert made.duration.evaluation_seconds == pytest.approx(3 * 100_000 / 3 / 10_000)  # at the start, at 500, at 1,000
    assert made.duration.epochs == 10
    assert step_count(ForgeTrainingArguments(report_to=[], use_cpu=True, num_train_epochs=2), CORPUS, 8) == 200
    assert plan(None).duration is None


def test_what_fits_into_a_deadline():
    made = plan(CORPUS, max_steps=5000, deadline=819.2)
    assert 0 < made.deadline_steps < 1000 == round(819.2 / (8 * 1024 / 10_000))
    assert plan(None, deadline=819.2).deadline_steps == 1000
    assert plan(None, deadline=819.2).duration.steps == 1000


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"eval_strategy": "no", "load_best_model_at_end": False}, 1000),
        ({"eval_strategy": "steps", "eval_steps": 100}, 1000 - 40),  # an evaluation is 4.07 steps: 10 of them
        ({"eval_strategy": "steps", "eval_steps": 0.05}, 1000 - 81),  # 20
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, 1000 - 40),  # of 100 steps: 10, the last of which breaks off
    ],
)
def test_evaluations_are_made_within_the_deadline_as_the_trainer_makes_them(settings, steps):
    made = plan(CORPUS, max_steps=5000, deadline=819.2, eval_on_start=False, **settings)
    assert made.deadline_steps == pytest.approx(steps, abs=2)
    assert plan(CORPUS, max_steps=made.deadline_steps, eval_on_start=False, **settings).duration.seconds <= 819.2


def test_disk_and_upload_are_what_is_kept_and_what_is_sent():
    few, many = plan(max_steps=2000, save_total_limit=2), plan(max_steps=2000, save_total_limit=None)
    one = few.checkpoint_bytes
    assert one == pytest.approx(few.memory.weights + few.memory.optimizer, rel=0.01)
    assert (few.disk_bytes - few.memory.weights) / one == pytest.approx(3, abs=0.02)  # two kept, one being written, final/
    assert (many.disk_bytes - many.memory.weights) / one == pytest.approx(5, abs=0.02)
    assert few.upload_bytes is None
    assert plan(max_steps=2000, remote="gs://bucket/runs").upload_bytes == pytest.approx(4 * one + few.memory.weights, rel=0.01)


def test_what_does_not_fit_and_what_does():
    small = Device("cuda", "Card", 6 * 2**30, "bf16")
    assert plan(device=small).largest_rows in (2, 4)
    assert plan(device=small, fit_rows=True).memory.peak <= small.memory < plan(device=small).memory.peak
    assert plan(device=Device("cuda", "Card", 2**30, "bf16")).largest_rows == 0


def test_processes_on_a_cpu_share_its_memory():
    cpu = Device("cpu", "CPU", 16 * 2**30, None)
    assert plan(device=cpu, step_rows=8).largest_rows == 8
    assert plan(device=cpu, step_rows=16, processes=2).largest_rows < 8  # of the same eight of each process


@pytest.mark.parametrize(
    ("rhythm", "strategy", "steps", "times"),
    [(500, "steps", 1000, 2), (0.1, "steps", 1000, 10), (500, "no", 1000, 0), (1, "epoch", 250, 3)],
)
def test_how_often_something_happens(rhythm, strategy, steps, times):
    assert every(rhythm, strategy, steps, 100) == times
