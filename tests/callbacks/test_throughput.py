"""Rates, with a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from llmforge.callbacks import throughput
from llmforge.callbacks.throughput import Throughput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(throughput.time, "perf_counter", clock)
    return clock


@pytest.fixture
def arguments():
    return SimpleNamespace(bf16=False, fp16=False, tf32=None, use_cpu=False, world_size=1, include_num_input_tokens_seen="no")


@pytest.fixture
def run(clock, arguments, state, control):
    """Moves a callback through steps, pauses and log events."""

    class Run:
        def __init__(self):
            state.global_step = 0

        def begin(self, callback, **kwargs):
            self.callback = callback
            callback.on_train_begin(arguments, state, control, **kwargs)

        def step(self, seconds: float, useful: int = 0):
            self.callback.on_step_begin(arguments, state, control)
            clock.now += seconds
            state.global_step += 1
            state.num_input_tokens_seen += useful
            self.callback.on_step_end(arguments, state, control)

        def log(self, **logs):
            state.log_history = [*(state.log_history or []), {**logs, "step": state.global_step}]
            self.callback.on_log(arguments, state, control, logs=logs)
            return logs

        def pause(self, hook: str, seconds: float):
            clock.now += seconds
            getattr(self.callback, hook)(arguments, state, control)

    return Run()


def test_tokens_and_useful_tokens_a_second(run):
    run.begin(Throughput(tokens_per_step=1000))
    for _ in range(4):
        run.step(0.5, useful=900)
    logs = run.log(loss=3.0)
    assert (logs["tokens_per_second"], logs["useful_tokens_per_second"]) == (2000.0, 1800.0)


@pytest.mark.parametrize("hook", ["on_evaluate", "on_save"])
def test_the_time_of_evaluations_and_saves_is_left_out(run, clock, hook):
    run.begin(Throughput(tokens_per_step=1000))
    run.step(1.0)
    assert run.log(loss=3.0)["tokens_per_second"] == 1000.0
    run.pause(hook, 50.0)
    clock.now += 7.0  # what callbacks behind this one do: samples, plots
    run.step(1.0)
    run.step(1.0)
    assert run.log(loss=3.0)["tokens_per_second"] == 1000.0


def test_a_pause_between_two_log_events_is_left_out(run):
    run.begin(Throughput(tokens_per_step=1000))
    run.step(1.0)
    run.pause("on_save", 50.0)
    run.step(1.0)
    assert run.log(loss=3.0)["tokens_per_second"] == 1000.0


def test_the_first_evaluation_is_left_out(run):
    run.begin(Throughput(tokens_per_step=1000))
    run.pause("on_evaluate", 50.0)
    run.step(2.0)
    assert run.log(loss=3.0)["tokens_per_second"] == 500.0


def test_the_time_left_includes_evaluations(run, state):
    state.max_steps = 10
    run.begin(Throughput(tokens_per_step=1000))
    run.step(1.0)
    run.pause("on_evaluate", 8.0)
    run.step(1.0)
    assert run.log(loss=3.0)["eta_seconds"] == 40.0  # ten seconds for two steps, eight are left


def test_a_resumed_run_counts_its_own_steps_only(run, state, arguments):
    state.max_steps, state.num_input_tokens_seen = 110, 5_000_000
    run.begin(Throughput(tokens_per_step=1000))
    state.global_step = 100
    run.callback.on_train_begin(arguments, state, None)
    run.step(1.0, useful=800)
    logs = run.log(loss=3.0)
    assert (logs["tokens_per_second"], logs["useful_tokens_per_second"], logs["eta_seconds"]) == (1000.0, 800.0, 9.0)


def test_only_events_of_the_training_loss_are_added_to(run):
    run.begin(Throughput(tokens_per_step=1000))
    run.step(1.0)
    assert run.log(eval_loss=3.0) == {"eval_loss": 3.0}


def test_the_history_has_the_figures_too(run, state):
    run.begin(Throughput(tokens_per_step=1000))
    run.step(1.0)
    run.log(loss=3.0)
    assert state.log_history[-1]["tokens_per_second"] == 1000.0


def test_memory_and_utilisation_of_the_process(run):
    run.begin(Throughput())
    run.step(1.0)
    for _ in range(300):
        sum(range(20_000))
    logs = run.log(loss=3.0)
    assert 0 < logs["device_memory"] <= logs["device_memory_peak"]
    assert logs["device_utilization"] > 0  # from the first event on


@pytest.mark.parametrize(
    ("counted", "keys"),
    [
        ("no", set()),
        ("all", {"tokens_per_second"}),
        ("non_padding", {"tokens_per_second", "useful_tokens_per_second"}),
    ],
)
def test_in_a_plain_trainer_it_takes_what_that_counts(run, arguments, counted, keys):
    arguments.include_num_input_tokens_seen = counted
    run.begin(Throughput())
    run.step(2.0, useful=0 if counted == "no" else 600)
    logs = run.log(loss=3.0)
    assert {key for key in logs if "tokens" in key} == keys
    assert all(logs[key] == 300.0 for key in keys)


def test_model_flops_utilisation_where_the_peak_is_known(run, arguments, monkeypatch):
    model = torch.nn.Linear(100, 50, bias=False)  # 5,000 weights, 30,000 operations a token
    arguments.world_size = 2
    monkeypatch.setattr(throughput, "peak_flops", lambda precision, use_cpu: 1e9 if precision == "fp32" else None)
    run.begin(Throughput(tokens_per_step=10_000), model=model)
    run.step(1.0)
    assert run.log(loss=3.0)["mfu"] == 0.15  # 3e8 of 2e9
    arguments.tf32 = True  # neither of the two rates that are known
    run.begin(Throughput(tokens_per_step=10_000), model=model)
    run.step(1.0)
    assert "mfu" not in run.log(loss=3.0)
    arguments.tf32, arguments.mixed_precision = None, "bf16"  # a plain Trainer under a launcher
    run.begin(Throughput(tokens_per_step=10_000), model=model)
    run.step(1.0)
    assert "mfu" not in run.log(loss=3.0)
