"""The training arguments: which defaults differ from the stock ones, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from llmforge.configs.training import ForgeTrainingArguments, deferred_process_group
from llmforge.errors import ConfigError


def make(folder: Path = Path("run"), **fields) -> ForgeTrainingArguments:
    return ForgeTrainingArguments(output_dir=str(folder), **fields)


def defaults(cls: type) -> dict[str, object]:
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(cls)
    }


def documented() -> set[str]:
    """The fields named in backticks in the docstring's lists of what differs."""
    text = ForgeTrainingArguments.__doc__
    start, end = text.index("New:"), text.index("Raises:")
    names = set(re.findall(r"`(\w+)`", text[start:end]))
    return names & {field.name for field in dataclasses.fields(ForgeTrainingArguments)}


def test_defaults_differ_exactly_where_the_docstring_says():
    stock, ours = defaults(TrainingArguments), defaults(ForgeTrainingArguments)
    differing = {name for name, value in ours.items() if name not in stock or stock[name] != value}
    # These three keep the stock default and are set when the object is made.
    assert differing == documented() - {"bf16", "fp16", "use_cpu", "accelerator_config", "tf32"}  # by device
    assert {"bf16", "fp16", "use_cpu"} <= documented()


def test_values_differ_from_stock_only_where_the_docstring_says():
    ours, stock = make(), TrainingArguments(output_dir="run", use_cpu=True)
    fields = [field.name for field in dataclasses.fields(TrainingArguments)]
    differing = {name for name in fields if getattr(ours, name) != getattr(stock, name)}
    # What follows from the listed ones: the scheduler's floor, and the direction and the evaluation of the best model.
    assert differing - {"lr_scheduler_kwargs", "greater_is_better", "do_eval"} <= documented()


@pytest.mark.parametrize(("name", "value"), [("adam_beta2", "0.95"), ("logging_steps", "10")])
def test_numbers_in_the_docstring_are_the_defaults(name: str, value: str):
    assert f"`{name}` {value}" in ForgeTrainingArguments.__doc__
    assert getattr(make(), name) == float(value)


def test_schedule_ends_at_the_given_share():
    from torch.optim import SGD
    from transformers import get_scheduler

    args = make(min_lr_ratio=0.25, learning_rate=1.0)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    scheduler = get_scheduler(args.lr_scheduler_type, optimizer, 0, 20, args.lr_scheduler_kwargs)
    for _ in range(20):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"lr_scheduler_kwargs": {"min_lr": 1e-5}}, {"min_lr": 1e-5}),
        ({"lr_scheduler_type": "linear"}, None),
        ({"lr_scheduler_type": "constant"}, None),
    ],
)
def test_schedule_of_the_users_own_is_left_alone(fields: dict, kwargs: dict | None):
    assert (make(**fields).lr_scheduler_kwargs or None) == kwargs


@pytest.mark.parametrize(
    ("strategy", "save", "best"),
    [("steps", "steps", True), ("epoch", "epoch", True), ("no", "steps", False), ("steps", "no", False)],
)
def test_best_model_is_kept_wherever_there_is_an_evaluation(strategy: str, save: str, best: bool):
    args = make(eval_strategy=strategy, save_strategy=save)
    assert args.load_best_model_at_end is best
    assert not args.explicit_best


@pytest.mark.parametrize(
    ("fields", "best"),
    [
        ({"eval_steps": 300}, True),  # saved where it is evaluated
        ({"eval_steps": 100, "save_steps": 300}, True),
        ({"eval_steps": 300, "save_steps": 500}, False),
        ({"eval_steps": 0.1, "save_steps": 0.3}, True),
        ({"eval_steps": 100, "save_strategy": "epoch"}, False),
        ({"save_strategy": "best"}, True),
    ],
)
def test_best_model_is_kept_where_saves_fall_on_evaluations(fields: dict, best: bool):
    assert make(**fields).load_best_model_at_end is best
    if not best:
        with pytest.raises(ConfigError, match="do not meet"):
            make(**fields, load_best_model_at_end=True)


def test_saves_follow_the_evaluations():
    assert make(eval_steps=70).save_steps == 70
    assert make(eval_strategy="no").save_steps == 500
    assert make(eval_steps=70, save_steps=140).save_steps == 140


@pytest.mark.parametrize(
    "fields",
    [
        {"num_train_epochs": -3},
        {"max_steps": 0},
        {"max_steps": -5},
        {"max_grad_norm": -1.0},
        {"adam_beta1": 1.0},
        {"adam_beta2": -0.1},
        {"seed": -1},
        {"weight_decay": float("nan")},
        {"include_num_input_tokens_seen": "all"},
    ],
)
def test_numbers_that_cannot_be_meant(fields: dict):
    [(name, value)] = fields.items()
    with pytest.raises(ConfigError, match=f"--{name} {value}"):
        make(**fields)


@pytest.mark.parametrize(
    ("metric", "greater"), [("accuracy", True), ("eval_bits_per_byte", False), ("perplexity", False), ("loss", False)]
)
def test_which_way_a_metric_is_better(metric: str, greater: bool):
    assert make(metric_for_best_model=metric).greater_is_better is greater
    assert make(metric_for_best_model=metric, greater_is_better=not greater).greater_is_better is not greater


def test_best_model_can_be_declined():
    assert make(load_best_model_at_end=False).load_best_model_at_end is False


@pytest.mark.parametrize("strategy", ["no", IntervalStrategy.NO])
def test_best_model_without_evaluation_is_refused(strategy):
    with pytest.raises(ConfigError, match=r"--load_best_model_at_end .*--eval_strategy is no\. Give --eval_strategy steps"):
        make(load_best_model_at_end=True, eval_strategy=strategy)


def test_no_validation_data_switches_evaluation_off():
    args = make()
    args.without_evaluation()
    assert (args.eval_strategy, args.eval_on_start, args.load_best_model_at_end) == (IntervalStrategy.NO, False, False)


def test_best_model_asked_for_without_validation_data_is_refused():
    with pytest.raises(ConfigError, match=r"--load_best_model_at_end needs validation data.*--split_ratios"):
        make(load_best_model_at_end=True).without_evaluation()


def test_no_evaluation_means_none_at_the_start_either():
    assert make(eval_strategy="no").eval_on_start is False


@pytest.mark.parametrize("flag", ["bf16", "fp16"])
def test_stock_precision_flags_become_the_precision(flag: str):
    assert make(**{flag: True}).precision == flag


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "fp32", "bf16": True},
        {"precision": "fp32", "fp16": True},
        {"precision": "bf16", "fp16": True},
        {"precision": "fp16", "bf16": True},
    ],
)
def test_contradictory_precision_is_refused(fields: dict):
    with pytest.raises(ConfigError, match=r"--(bf16|fp16) .*--precision"):
        make(**fields)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_the_cpu_is_used():
    args = make()
    assert args.use_cpu
    assert args.device == torch.device("cpu")


def test_a_launcher_for_the_cpu_is_heard_where_there_is_an_accelerator(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not make(use_cpu=False).use_cpu
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # as accelerate writes `use_cpu: true`
    assert make().use_cpu


@pytest.mark.parametrize(
    "fields", [{"warmup_steps": -3}, {"bf16": True, "fp16": True}, {"save_strategy": "no", "load_best_model_at_end": True}]
)
def test_stock_refusals_stay(fields: dict):
    with pytest.raises(ValueError, match=next(iter(fields))):
        make(**fields)


def test_deferred_arguments_start_no_process_group(start, monkeypatch: pytest.MonkeyPatch):
    """As one of two launched processes, whose partner never comes: the stock class would wait for it."""
    launched = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29599"}
    for name, value in (launched | {"LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}).items():
        monkeypatch.setenv(name, value)

    def make_deferred() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # what earlier tests have left
        with deferred_process_group():
            args = ForgeTrainingArguments(output_dir="run")
        print("made", torch.distributed.is_initialized(), args.eval_strategy.value)

    child = start(make_deferred)
    assert child.wait() == 0, child.text()
    assert "made False steps" in child.text()


def test_deferred_arguments_have_their_device_when_it_is_looked_at():
    with deferred_process_group():
        args = make()
    assert args.device == make().device
    assert args.world_size == 1


@pytest.mark.parametrize(
    ("width", "changes", "rate"),
    [
        (256, {}, 6.3e-3),
        (768, {}, 3.6e-3),
        (1600, {}, 2.5e-3),
        (768, {"optim": "adamw_torch"}, 5e-4),
        (768, {"learning_rate": 1e-3}, 1e-3),
        (768, {"learning_rate": 0.0}, 0.0),
    ],
)
def test_the_learning_rate_follows_the_width_unless_it_is_given(width: int, changes: dict, rate: float):
    args = make(**changes)
    assert args.choose_learning_rate(width) == args.learning_rate == rate
    given = "learning_rate" in changes
    args.optim = "adamw_torch"  # the same arguments for another model or optimizer, as in a notebook
    assert args.choose_learning_rate(4 * width) == (rate if given else 5e-4)
    args.optim = "muon"
    assert args.choose_learning_rate(400) == (rate if given else 5e-3)
