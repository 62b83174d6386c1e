"""A training that ends in time, by a clock that the test moves."""

from __future__ import annotations

import itertools
import math

import pytest
from helpers import awkward_documents, forge_trainer, packed_rows, tiny_model
from transformers import TrainerCallback

from llmforge.callbacks.deadline import FINISH_SECONDS, Deadline
from llmforge.checkpoints.manifest import list_checkpoints


class Clock(TrainerCallback):
    """Seconds pass in steps, in batches of an evaluation and in saves; what each takes, a test may change."""

    def __init__(self, step: float = 1.0, batch: float = 0.5, save: float = 0.25):
        self.now, self.step, self.batch, self.save = 1000.0, step, batch, save
        self._batches = 0

    def __call__(self) -> float:
        return self.now

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.now += self.step

    def on_prediction_step(self, args, state, control, **kwargs):
        self.now += self.batch
        self._batches += 1

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metrics["eval_runtime"] = self.batch * self._batches  # by this clock
        self._batches = 0

    def on_save(self, args, state, control, **kwargs):
        self.now += self.save


SETTINGS = {
    "max_steps": 10_000,
    "eval_strategy": "steps",
    "eval_steps": 10_000,
    "save_strategy": "steps",
    "save_steps": 10_000,
    "save_total_limit": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "logging_steps": 1,
}


@pytest.fixture
def trained(tokenizer, tmp_path):
    """``trained(seconds, clock)``: a training that began 20 seconds after its command."""
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)

    def train(
        seconds: float, clock: Clock, resume=None, began: float = 980.0, evaluations: int = 4, more=(), deadline=None, **changes
    ):
        deadline = deadline or Deadline(seconds, began, evaluations, test_share=1.0, clock=clock)
        settings = SETTINGS | {"eval_on_start": resume is None} | changes
        model = tiny_model("gpt2-10m", tokenizer)
        # The clock stands before the deadline in evaluations only: there it says how long one took.
        trainer = forge_trainer(model, tokenizer, tmp_path / "run", rows, rows, callbacks=[clock, deadline, *more], **settings)
        callbacks = trainer.callback_handler.callbacks
        callbacks.insert(0, callbacks.pop(callbacks.index(clock)))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def batches(trainer) -> int:
    return math.ceil(len(trainer.eval_dataset) / trainer.args.eval_batch_size)


def logged(trainer, name: str) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def left_over(trainer, clock: Clock, seconds: float) -> float:
    """Seconds that the run ends before its time: after training come the test split, as large as validation, and the end."""
    return seconds - (clock.now - 980.0 + clock.batch * batches(trainer) + clock.save + FINISH_SECONDS)


@pytest.mark.parametrize("step", [0.3, 1.0, 7.0])
def test_it_ends_in_time_whatever_a_step_takes(trained, step):
    clock = Clock(step=step)
    trainer = trained(300.0, clock)
    assert abs(left_over(trainer, clock, 300.0)) < step / 2 + 1
    assert logged(trainer, "learning_rate")[trainer.state.global_step] < 0.02 * 1e-2 * max(step, 1) * 2


def test_the_schedule_goes_by_time_when_steps_become_slower(trained):
    class Slower(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.step = 1.0 if state.global_step < 60 else 4.0

    clock = Clock()
    trainer = trained(300.0, clock, more=[Slower()])
    rates, seconds = logged(trainer, "learning_rate"), logged(trainer, "run_seconds")
    end = max(seconds.values())
    for step, rate in rates.items():
        if 60 < seconds[step] < end:  # past the warm-up: on a straight line to the end, up to a step
            assert rate / 1e-2 == pytest.approx((end - seconds[step]) / (end - 20) / 0.9, abs=0.04)
    assert abs(left_over(trainer, clock, 300.0)) < 4
    assert trainer.state.max_steps == trainer.state.global_step


def test_evaluations_and_checkpoints_lie_evenly_in_time_and_one_at_the_end(trained, tmp_path):
    clock = Clock()
    trainer = trained(300.0, clock)
    seconds = logged(trainer, "run_seconds")
    at = [seconds[step] for step in logged(trainer, "eval_loss")]
    assert at[0] == 20 + clock.batch * batches(trainer)
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert len(at) == 5
    assert max(gaps) - min(gaps) < 10
    last = trainer.state.global_step
    assert last in logged(trainer, "eval_loss")
    assert list_checkpoints(tmp_path / "run")[-1].name == f"checkpoint-{last}"
    assert trainer.state.best_model_checkpoint


def test_the_flags_rhythm_is_kept_where_they_have_one(trained):
    trainer = trained(100.0, Clock(), evaluations=0, eval_steps=15, save_steps=15)
    steps = list(logged(trainer, "eval_loss"))
    assert steps[:4] == [0, 15, 30, 45]
    assert steps[-1] == trainer.state.global_step


def test_the_state_tells_the_step_that_will_be_reached(trained):
    told = {}

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            told[state.global_step] = state.max_steps

    trainer = trained(300.0, Clock(), more=[Look()])
    assert told[100] == pytest.approx(trainer.state.global_step, abs=20)


def test_a_resumed_run_has_the_rest_of_its_time(trained):
    """Stopped at step 70; gone on with much later, after a start of 10 s."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 70

    first = Clock()
    begun = trained(300.0, first, more=[Stop()])
    used = first.now - 980.0
    again = Clock()
    again.now = 50_000.0
    trainer = trained(300.0, again, resume=True, began=49_990.0)
    assert trainer.state.global_step > begun.state.global_step + 100
    whole = used + again.now - 49_990.0 + again.batch * batches(trainer) + again.save + FINISH_SECONDS
    assert whole == pytest.approx(300.0, abs=2)
    rates = logged(trainer, "learning_rate")
    assert rates[71] < rates[40]  # it did not begin a schedule of its own


def test_with_no_time_left_a_resumed_run_trains_no_step(trained):
    trainer = trained(100.0, Clock())
    again = Clock()
    over = trained(100.0, again, resume=True)
    assert over.state.global_step == trainer.state.global_step
    assert again.now == 1000.0


def test_a_bound_in_steps_holds_and_the_schedule_reaches_its_end(trained):
    clock = Clock()
    trainer = trained(300.0, clock, max_steps=40)
    assert trainer.state.global_step == 40
    assert logged(trainer, "learning_rate")[40] < 1e-3


def test_begun_anew_in_the_same_process_nothing_counts_twice(trained):
    """As after running out of memory: another trainer goes on from the last checkpoint, with the callbacks of the first."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 70

    clock = Clock()
    first = trained(300.0, clock, more=[Stop()])
    deadline = next(callback for callback in first.callback_handler.callbacks if isinstance(callback, Deadline))
    trainer = trained(300.0, clock, resume=True, deadline=deadline)
    assert abs(left_over(trainer, clock, 300.0)) < 2


def test_saves_alone_are_kept_time_for_too(trained):
    clock = Clock(save=6.0)
    trainer = trained(300.0, clock, eval_strategy="no", eval_on_start=False)
    assert logged(trainer, "eval_loss") == {}
    spent = clock.now - 980.0 + clock.save + FINISH_SECONDS  # the last weights are saved once more
    assert spent == pytest.approx(300.0, abs=2)
