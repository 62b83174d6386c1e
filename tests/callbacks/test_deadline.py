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

    def on_log(self, args, state, control, **kwargs):
        if "eval_runtime" in state.log_history[-1]:
            state.log_history[-1]["eval_runtime"] = self.batch * self._batches

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


@pytest.mark.parametrize("step", [0.7, 1.0, 5.0])
def test_it_ends_in_time_whatever_a_step_takes(trained, step):
    clock = Clock(step=step)
    trainer = trained(120.0, clock)
    assert abs(left_over(trainer, clock, 120.0)) < step / 2 + 1
    assert logged(trainer, "learning_rate")[trainer.state.global_step] < 0.02 * 1e-2 * max(step, 1) * 2


def test_the_schedule_goes_by_time_when_steps_become_slower(trained):
    class Slower(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.step = 1.0 if state.global_step < 40 else 3.0

    clock = Clock()
    trainer = trained(120.0, clock, more=[Slower()])
    rates, seconds = logged(trainer, "learning_rate"), logged(trainer, "run_seconds")
    end = max(seconds.values())
    for step, rate in rates.items():
        if 65 < seconds[step] < end:  # past the warm-up: on a straight line to the end, up to a step
            assert rate / 1e-2 == pytest.approx((end - seconds[step]) / (end - 20) / 0.9, abs=0.07)
    assert abs(left_over(trainer, clock, 120.0)) < 4
    assert trainer.state.max_steps == trainer.state.global_step
    summary = trainer.state.log_history[-1]
    assert summary["train_samples_per_second"] == pytest.approx(2 * summary["train_steps_per_second"], rel=1e-3)


def test_evaluations_and_checkpoints_lie_evenly_in_time_and_one_at_the_end(trained, tmp_path):
    clock = Clock()
    trainer = trained(120.0, clock)
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

    trainer = trained(120.0, Clock(), more=[Look()])
    assert told[50] == pytest.approx(trainer.state.global_step, abs=20)


def test_a_resumed_run_has_the_rest_of_its_time(trained):
    """Stopped at step 40; gone on with much later, after a start of 10 s."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 40

    first = Clock()
    begun = trained(120.0, first, more=[Stop()])
    used = first.now - 980.0
    again = Clock()
    again.now = 50_000.0
    trainer = trained(120.0, again, resume=True, began=49_990.0)
    assert trainer.state.global_step > begun.state.global_step + 25
    whole = used + again.now - 49_990.0 + again.batch * batches(trainer) + again.save + FINISH_SECONDS
    assert whole == pytest.approx(120.0, abs=2)
    rates = logged(trainer, "learning_rate")
    assert rates[41] < rates[20]  # it did not begin a schedule of its own


def test_with_no_time_left_a_resumed_run_trains_no_step(trained):
    trainer = trained(100.0, Clock())
    again = Clock()
    over = trained(100.0, again, resume=True)
    assert over.state.global_step == over.state.max_steps == trainer.state.global_step
    assert again.now == 1000.0


def test_a_bound_in_steps_holds_and_the_schedule_reaches_its_end(trained):
    clock = Clock()
    trainer = trained(120.0, clock, max_steps=40)
    assert trainer.state.global_step == 40
    assert logged(trainer, "learning_rate")[40] < 1e-3


def test_begun_anew_in_the_same_process_nothing_counts_twice(trained):
    """As after running out of memory: another trainer goes on from the last checkpoint, with the callbacks of the first."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 40

    clock = Clock()
    first = trained(120.0, clock, more=[Stop()])
    deadline = next(callback for callback in first.callback_handler.callbacks if isinstance(callback, Deadline))
    trainer = trained(120.0, clock, resume=True, deadline=deadline)
    assert abs(left_over(trainer, clock, 120.0)) < 2


def test_saves_alone_are_kept_time_for_too(trained):
    clock = Clock(save=6.0)
    trainer = trained(120.0, clock, eval_strategy="no", eval_on_start=False)
    assert logged(trainer, "eval_loss") == {}
    spent = clock.now - 980.0 + clock.save + FINISH_SECONDS  # the last weights are saved once more
    assert spent == pytest.approx(120.0, abs=2)


class Halt(TrainerCallback):
    """Ends the training after a step, as a stop does, or cuts the evaluation of one short."""

    def __init__(self, step: int = 0, evaluation: int = 0):
        self.step, self.evaluation, self.trainer = step, evaluation, None

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True

    def attach(self, trainer):
        self.trainer = trainer

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.evaluation and state.global_step >= self.evaluation:
            self.trainer._save_checkpoint(self.trainer.model, trial=None)
            raise KeyboardInterrupt


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_first_step_after_a_resume_has_the_rate_that_the_time_has(trained, warmup):
    """Trainer reads the schedule at the step before anyone can say what the time is."""
    bound = {"max_steps": 10_000_000, "eval_strategy": "no", "eval_on_start": False, "warmup_steps": warmup}
    trained(120.0, Clock(), more=[Halt(60)], **bound)
    again = Clock()
    trainer = trained(120.0, again, resume=True, **bound)
    rates = logged(trainer, "learning_rate")
    assert rates[60] > rates[61] > rates[62] > 0
    assert rates[60] - rates[62] < 0.3e-2  # two steps, and the twenty seconds of a start


def test_an_evaluation_that_was_cut_short_is_done_first_when_the_run_goes_on(trained):
    with pytest.raises(KeyboardInterrupt):
        trained(120.0, Clock(), more=[Halt(evaluation=30)])
    begun = Clock()
    trainer = trained(120.0, begun, resume=True)
    evaluated = list(logged(trainer, "eval_loss"))
    cut = next(step for step in evaluated if step >= 30)
    assert evaluated.count(cut) == 1
    assert trainer.state.log_history[next(i for i, e in enumerate(trainer.state.log_history) if e["step"] == cut + 1) - 1].get(
        "eval_loss"
    )


@pytest.mark.parametrize("rhythm", [{"eval_steps": 20, "save_steps": 20}, {"eval_strategy": "epoch", "save_strategy": "epoch"}])
def test_pauses_of_the_users_own_rhythm_are_measured_too(trained, rhythm):
    """Ten seconds of evaluating and six of saving, at steps of a second; not known before the first of them."""
    told = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            told.append(state.max_steps - state.global_step)

    clock = Clock(batch=5.0, save=6.0)
    trainer = trained(240.0, clock, evaluations=0, eval_on_start=False, more=[Look()], **rhythm)
    assert abs(left_over(trainer, clock, 240.0)) < 20  # an evaluation of the user's may come just before the end
    jumps = [one - other for one, other in itertools.pairwise(told[25:-1])]
    assert max(jumps) - min(jumps) < 40


def test_a_resumed_run_keeps_time_for_an_evaluation_it_has_not_seen_itself(trained):
    trained(240.0, Clock(batch=5.0), more=[Halt(130)])
    again = Clock(batch=5.0)
    again.now = 5000.0
    trainer = trained(240.0, again, resume=True, began=4990.0)
    seconds = logged(trainer, "run_seconds")
    assert max(seconds.values()) + again.batch * batches(trainer) + FINISH_SECONDS == pytest.approx(240.0, abs=3)


def test_begun_anew_from_the_start_it_warms_up_again(trained):
    clock = Clock()
    first = trained(120.0, clock, more=[Halt(30)], save_strategy="no")
    deadline = next(callback for callback in first.callback_handler.callbacks if isinstance(callback, Deadline))
    rates = logged(trained(120.0, clock, deadline=deadline), "learning_rate")
    assert abs(left_over(first, clock, 120.0)) < 3
    assert rates[3] < 1e-2
