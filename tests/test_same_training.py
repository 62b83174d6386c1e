"""The same training, however it is cut up: the real command, compared with itself.

Accumulation, processes, loader workers, interruptions and activation checkpointing change how
the work is done and must not change what is learnt. Two kinds of "same" are told apart:

- **bit for bit**, where the same sums are made in the same order: loader workers, a resume,
  activation checkpointing. Dropout is on, so that a random state out of step shows.
- **within rounding**, where a sum is made in another order: accumulation and processes. Dropout
  is off, because which mask a row gets depends on the micro-batch it is in.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, TINY, TINY_DROPOUT, awkward_documents, packed_rows, tiny_model, training_args, write_documents
from row_watch import sitecustomize
from safetensors.torch import load_file
from transformers import (
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from llmforge import pretrain
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.data.collate import PackedCollator
from llmforge.data.prepared import load_prepared
from llmforge.data.rows import BLANK
from llmforge.data.sampler import EpochSampler
from llmforge.runtime.commands import run_command
from llmforge.trainer import ForgeTrainer

BLOCK, STEP_ROWS, EPOCH_STEPS, STEPS = 32, 8, 5, 10
#: Resume points: inside the first epoch, exactly between two, inside the second.
CUTS = [3, 5, 7]

#: Relative, for losses, gradient norms and evaluations whose fp32 sums (of 2**-24, 6e-8, a term) are made in another
#: order, over ten steps that each build on the last. Seen: at most 2.5e-7.
ROUNDING = 2e-6
#: Absolute, for weights of about 0.2 to 1. Seen: at most 2.5e-7.
WEIGHT_ROUNDING = 2e-6
#: Relative, for an evaluation of the very same weights: fp32 within a row, float64 beyond. Seen: 0.
EVALUATION_ROUNDING = 1e-7

#: What a clock or the machine says.
CLOCKED = re.compile(r"time|eta_seconds|device_.*|eval_runtime|.*_per_second")

#: Weights and a learning rate that are large enough for ten steps to change the model a lot; every step is logged and saved.
SETTINGS = {
    "vocab_size": 400,
    "block_size": BLOCK,
    "split_ratios": "0.7,0.2,0.1",
    "num_train_epochs": 2,
    "optim": "muon",
    "learning_rate": 2e-2,
    "initializer_range": 0.2,
    "logging_steps": 1,
    "save_steps": 1,
    "save_total_limit": 100,
    "eval_steps": EPOCH_STEPS,
    "load_best_model_at_end": False,
    "per_device_train_batch_size": STEP_ROWS,
    "per_device_eval_batch_size": 4,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "output_dir": "run",
}


#: For comparisons within rounding. The gradient of a key's bias is nil but for rounding, as softmax does not see it; with
#: its default epsilon of 1e-8 AdamW makes steps of that noise (1e-3 in those weights after ten steps, nothing in the loss).
STEADY = {"adam_epsilon": 1e-4}


def batches(size: int, accumulation: int) -> dict[str, int]:
    """The settings of so many rows a micro-batch, and so many micro-batches a step."""
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}


def arguments(preset: str, corpus: Path, dropout: bool, **changes: object) -> list[str]:
    """The command line of a small run."""
    shape = (TINY_DROPOUT if dropout else TINY)[preset]
    settings = {"preset": preset, "corpus": corpus, **shape, **SETTINGS, **changes}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


class Run:
    """What a run left in `folder`: its records in ``run``, the rows it was fed in ``rows``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "run"

    def record(self, name: str = "run.json") -> dict:
        return json.loads((self.path / name).read_text())

    def lines(self) -> list[dict]:
        """Every line of metrics.jsonl but the closing summary, without what a clock says."""
        lines = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in line.items() if not CLOCKED.fullmatch(key)}
            for line in lines
            if "train_runtime" not in line
        ]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.path / name / "model.safetensors")

    def prepared(self):
        return load_prepared(self.record()["data"]["path"])

    def order(self) -> dict[int, list[int]]:
        """Step → its rows by number, in the order of ranks within micro-batches."""
        rows = self.prepared().rows("train")
        numbers = {tuple(rows[index]["input_ids"].tolist()): index for index in range(len(rows))}
        assert len(numbers) == len(rows), "rows must differ to be told apart"
        numbers[tuple(rows[BLANK]["input_ids"].tolist())] = BLANK
        files = sorted((self.folder / "rows").iterdir(), key=lambda path: int(path.stem))
        order: dict[int, list[int]] = {}
        for dealt in zip(*([json.loads(line) for line in file.read_text().splitlines()] for file in files), strict=True):
            assert len({line["step"] for line in dealt}) == 1, "the processes are at the same step"
            order.setdefault(dealt[0]["step"], []).extend(numbers[tuple(ids)] for line in dealt for ids in line["ids"])
        return order


def train(folder: Path, words: list[str], interrupt_at: int | None = None) -> Run:
    """`llmforge pretrain` in this process, from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        watched = sitecustomize.watching(ForgeTrainer.training_step, folder / "rows", interrupt_at)
        patch.setattr(ForgeTrainer, "training_step", watched)
        patch.setattr(LossPlot, "_draw", lambda *_, **__: None)  # more than half of the time of these runs
        assert run_command(pretrain.main, words) == (0 if interrupt_at is None else 75)
    return Run(folder)


def train_on_two(folder: Path, words: list[str], config: tuple[str, ...] = ("cpu_ddp.yaml", "-m", "llmforge", "pretrain")) -> Run:
    """`accelerate launch … -m llmforge pretrain` on two processes, from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [Path(sitecustomize.__file__).parent, ROOT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "WATCHED_ROWS": str(folder / "rows")}
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch"]
    launcher += ["--config_file", str(ROOT / "accelerate_configs" / config[0]), *config[1:]]
    result = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    run = Run(folder)
    assert run.record()["processes"] == 2
    assert len(list((folder / "rows").iterdir())) == 2
    return run


def train_sharded(folder: Path, words: list[str]) -> Run:
    """The same with FSDP, by the file for GPUs and on the CPU (sharded_on_cpu.py)."""
    config = ("fsdp.yaml", "--gpu_ids", "all", "--mixed_precision", "no", str(ROOT / "tests" / "sharded_on_cpu.py"), "pretrain")
    return train_on_two(folder, words, config)


def cut(run: Run, step: int, folder: Path) -> Path:
    """A copy of `run` as it was when `checkpoint-<step>` was its newest."""
    later = [path.name for path in run.path.glob("checkpoint-*") if int(path.name.split("-")[1]) > step]
    shutil.copytree(run.path, folder / "run", ignore=shutil.ignore_patterns(*later, "final", "exit.json", "eval.json"))
    return folder


def assert_same_bits(run: Run, other: Run, checkpoints: tuple[str, ...] = (f"checkpoint-{STEPS}", "final")) -> None:
    """Every logged number, the test result and the weights are the same to the last bit."""
    assert run.lines() == other.lines()
    assert run.record("eval.json") == other.record("eval.json")
    for checkpoint in checkpoints:
        ours, theirs = run.weights(checkpoint), other.weights(checkpoint)
        assert ours.keys() == theirs.keys()
        assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def assert_same_within_rounding(run: Run, other: Run) -> None:
    """The same events with the same counts; losses, norms, evaluations and weights within rounding."""
    ours, theirs = run.lines(), other.lines()
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert one == pytest.approx(two, rel=EVALUATION_ROUNDING if one["step"] == 0 else ROUNDING, abs=0), one["step"]
        counts = ("step", "epoch", "tokens", "learning_rate", "eval_tokens", "eval_bytes")
        assert [one.get(key) for key in counts] == [two.get(key) for key in counts]
    mine, yours = run.record("eval.json"), other.record("eval.json")
    assert mine.pop("split") == yours.pop("split")
    assert mine == pytest.approx(yours, rel=ROUNDING, abs=0)
    mine, yours = run.weights("final"), other.weights("final")
    assert mine.keys() == yours.keys()
    for name, value in mine.items():
        assert float((value - yours[name]).abs().max()) <= WEIGHT_ROUNDING, name


@pytest.fixture(scope="module", autouse=True)
def surroundings(shared_cache):
    """What `hermetic` does, for fixtures of this module; one thread, because these models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMFORGE_CACHE", str(shared_cache))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["gpt2-10m", "neox-10m"])
def preset(request):
    """Both architectures; of the module, so that their runs are shared."""
    return request.param


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A file longer than the context, tiny ones, and some between; the seed makes the last batches ragged."""
    folder = write_documents(tmp_path_factory.mktemp("documents"), count=16, seed=1)
    words = "func return err nil if for range".split()
    (folder / "long.go").write_text("package long\n" + " ".join(random.Random(1).choices(words, k=60)), encoding="utf-8")
    for number, text in enumerate(["a", "b\n", "x y", "if", "nil", "}", "ok", "go"]):
        (folder / f"tiny{number}.go").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(preset, tmp_path_factory):
    """Where the shared runs of an architecture are."""
    return tmp_path_factory.mktemp(preset)


@pytest.fixture(scope="module")
def plain(preset, documents, place):
    """One process, eight rows at once, no dropout."""
    return train(place / "plain", arguments(preset, documents, False, **STEADY))


@pytest.fixture(scope="module")
def dropped(preset, documents, place):
    """Dropout everywhere, two micro-batches of four rows a step."""
    return train(place / "dropped", arguments(preset, documents, True, **batches(4, 2)))


@pytest.fixture(scope="module")
def two(preset, documents, place):
    """Two processes, two micro-batches of two rows each a step, no dropout."""
    return train_on_two(place / "two", arguments(preset, documents, False, **STEADY, **batches(2, 2)))


# --- what is trained on ------------------------------------------------------------------------------


def test_the_corpus_is_as_awkward_as_this_file_needs(plain):
    prepared = plain.prepared()
    train_rows, validation_rows = (len(prepared.rows(split)) for split in ("train", "validation"))
    tokens = [json.loads(line)["tokens"] for line in (prepared.path / "documents.jsonl").read_text().splitlines()]
    assert prepared.card["splits"]["train"]["longest_document"] > 3 * BLOCK
    assert min(tokens) <= 2
    assert 0 < train_rows % STEP_ROWS < STEP_ROWS // 2, "the last step has a micro-batch without a row, and one with both"
    assert -(-train_rows // STEP_ROWS) == EPOCH_STEPS
    assert validation_rows % 2, "two processes get different numbers of validation rows"
    assert validation_rows % SETTINGS["per_device_eval_batch_size"]
    evaluations = [line["eval_loss"] for line in plain.lines() if "eval_loss" in line]
    assert evaluations[2] < evaluations[1] < evaluations[0] - 1, "it learns: wrong rows would show in the loss"


def test_each_step_has_the_rows_of_a_pure_function_of_seed_epoch_and_step(plain):
    rows = len(plain.prepared().rows("train"))
    sampler = EpochSampler(rows, STEP_ROWS, seed=42)
    expected = [sampler.order(epoch).reshape(EPOCH_STEPS, STEP_ROWS).tolist() for epoch in (0, 1)]
    assert plain.order() == dict(enumerate(expected[0] + expected[1], start=1))
    assert expected[0] != expected[1]
    for epoch in expected:
        assert sorted(row for step in epoch for row in step if row != BLANK) == list(range(rows))


# --- within rounding ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "accumulation"), [(4, 2), (1, 8)])
def test_accumulation_is_the_same_training(size, accumulation, preset, documents, plain, tmp_path):
    """8 x 1 against 4 x 2 and 1 x 8; the last step of an epoch has micro-batches without a single target."""
    run = train(tmp_path, arguments(preset, documents, False, **STEADY, **batches(size, accumulation)))
    assert run.order() == plain.order()
    assert_same_within_rounding(run, plain)


def test_the_stock_loss_is_the_same_training(preset, documents, plain, tmp_path):
    """Without the lean loss, which every other run here has; so do two processes with it what stock does on one."""
    run = train(tmp_path, arguments(preset, documents, False, **STEADY, lean_loss=False))
    assert [each.record()["config"]["training"]["lean_loss"] for each in (run, plain)] == [False, True]
    assert_same_within_rounding(run, plain)


@pytest.mark.parametrize("preset", ["gpt2-10m", pytest.param("neox-10m", marks=pytest.mark.slow)], indirect=True)
def test_two_processes_are_the_same_training_as_one(two, plain):
    assert two.order() == plain.order()
    assert_same_within_rounding(two, plain)


@pytest.mark.parametrize("preset", ["gpt2-10m", pytest.param("neox-10m", marks=pytest.mark.slow)], indirect=True)
def test_a_run_of_two_processes_goes_on_with_one(two, plain, preset, documents, tmp_path):
    folder = cut(two, 3, tmp_path)
    run = train(folder, [*arguments(preset, documents, False, **STEADY), "--resume"])
    assert run.order() == {step: rows for step, rows in plain.order().items() if step > 3}
    assert_same_within_rounding(run, plain)


@pytest.mark.slow  # the other way round is not
@pytest.mark.parametrize("preset", ["gpt2-10m", "neox-10m"], indirect=True)
@pytest.mark.parametrize("step", [3, 7])
def test_a_run_of_one_process_goes_on_with_two(step, plain, preset, documents, tmp_path):
    """Inside the second epoch: Trainer's own way to tell the sampler would go on with the first epoch's order."""
    folder = cut(plain, step, tmp_path)
    run = train_on_two(folder, [*arguments(preset, documents, False, **STEADY, **batches(4, 1)), "--resume"])
    assert run.order() == {number: rows for number, rows in plain.order().items() if number > step}
    assert_same_within_rounding(run, plain)


SHARDABLE = STEADY | {"optim": "adamw_torch", "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def plain_adamw(preset, documents, place):
    """As `plain`, by an optimizer that can be sharded."""
    return train(place / "adamw", arguments(preset, documents, False, **SHARDABLE))


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_sharded(plain_adamw, preset, documents, tmp_path):
    """FSDP of two processes: weights and optimizer are spread, one process's are loaded into them, and `final/` is whole."""
    folder = cut(plain_adamw, 3, tmp_path)
    words = arguments(preset, documents, False, **SHARDABLE, **batches(2, 2), prompts="func")
    run = train_sharded(folder, [*words, "--resume"])
    assert run.order() == {step: rows for step, rows in plain_adamw.order().items() if step > 3}
    assert_same_within_rounding(run, plain_adamw)
    assert [path.name for path in run.path.glob("checkpoint-7/*model*")] == ["model.safetensors"], "as any other training's"
    assert run.weights("checkpoint-7").keys() == plain_adamw.weights("checkpoint-7").keys()
    assert json.loads((run.path / "samples.jsonl").read_text().splitlines()[-1])["final"]


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_one_process(plain_adamw, preset, documents, tmp_path):
    """It keeps its best model, which every process loads at the end, and frees no activation that it needs."""
    settings = SHARDABLE | {"load_best_model_at_end": True, "save_steps": 5}
    words = arguments(preset, documents, False, **settings, **batches(2, 2), activation_checkpointing=True)
    sharded = train_sharded(tmp_path / "sharded", words)
    assert_same_within_rounding(sharded, plain_adamw)
    run = train(cut(sharded, 5, tmp_path), [*arguments(preset, documents, False, **settings), "--resume"])
    assert_same_within_rounding(run, plain_adamw)


# --- bit for bit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, pytest.param(True, marks=pytest.mark.slow)])  # half a minute to take them down
def test_loader_workers_change_nothing(persistent, dropped, preset, documents, tmp_path):
    """Persistent ones, which stock starts once, neither."""
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": persistent}
    run = train(tmp_path, arguments(preset, documents, True, **batches(4, 2), **workers))
    assert run.order() == dropped.order()
    assert_same_bits(run, dropped)


def test_activation_checkpointing_changes_nothing(dropped, preset, documents, tmp_path):
    """The second forward pass has the dropout masks of the first, and makes the same sums: no bit differs on a CPU."""
    run = train(tmp_path, arguments(preset, documents, True, **batches(4, 2), activation_checkpointing=True))
    assert run.record()["config"]["training"]["activation_checkpointing"] is True
    assert_same_bits(run, dropped)


def interrupted_and_resumed(folder: Path, words: list[str], step: int) -> tuple[Run, Run]:
    """A run that Ctrl-C ends in the middle of the step after `step`, and the same one gone on with."""
    first = train(folder, words, interrupt_at=step + 1)
    shutil.move(folder / "rows", folder / "before" / "rows")
    shutil.copytree(first.path, folder / "before" / "run")
    return Run(folder / "before"), train(folder, [*words, "--resume"])


@pytest.mark.parametrize("step", CUTS)
def test_a_resumed_run_is_the_undisturbed_one(step, dropped, preset, documents, tmp_path):
    """Interrupted within the first epoch, between two, within the second; half of a step's micro-batches done."""
    first, second = interrupted_and_resumed(tmp_path, arguments(preset, documents, True, **batches(4, 2)), step)
    assert first.record("exit.json")["newest_checkpoint"] == f"checkpoint-{step}"
    done = {number: rows for number, rows in first.order().items() if number <= step}
    assert done | second.order() == dropped.order()
    assert min(second.order()) == step + 1
    assert_same_bits(second, dropped)


def test_a_logged_mean_over_several_steps_spans_the_interruption(preset, documents, tmp_path):
    """Logged every fourth step and saved every step: the line of step 8 is of steps 5 to 8, whoever trained them."""
    words = arguments(preset, documents, True, **batches(4, 2), logging_steps=4)
    whole = train(tmp_path / "whole", words)
    _, resumed = interrupted_and_resumed(tmp_path / "resumed", words, 6)
    assert [line["step"] for line in whole.lines() if "loss" in line] == [4, 8]
    assert_same_bits(resumed, whole)


# --- the best model and early stopping ---------------------------------------------------------------

#: A learning rate that climbs till it is too high: the validation loss falls for four steps and not from then on. What is
#: not the best or the newest is deleted.
STOPPING = {
    **batches(4, 2),
    "num_train_epochs": 8,
    "optim": "adamw_torch_fused",
    "learning_rate": 0.5,
    "warmup_steps": 20,
    "lr_scheduler_type": "constant_with_warmup",
    "eval_steps": 2,
    "save_steps": 2,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "early_stopping_patience": 2,
}


@pytest.fixture(scope="module")
def stopped(preset, documents, place):
    """A run with dropout that early stopping ends."""
    return train(place / "stopped", arguments(preset, documents, True, **STOPPING))


def ending(run: Run) -> tuple:
    """Where a run stopped, which model it kept, and which checkpoints."""
    assert run.record("exit.json")["exit_code"] == 0
    final = run.record()["final"]
    return run.record("exit.json")["step"], final["which"], final["step"], sorted(path.name for path in run.path.glob("check*"))


def test_a_resumed_run_stops_early_where_the_undisturbed_one_does(stopped, preset, documents, tmp_path):
    """Interrupted after one evaluation that was no better: the next one is the last."""
    stop, which, best, _ = ending(stopped)
    assert which == "best"
    assert best < stop - 2 < stop < 40, "there is room for an interruption between the best step and the last"
    first, second = interrupted_and_resumed(tmp_path, arguments(preset, documents, True, **STOPPING), stop - 2)
    assert first.record("exit.json")["newest_checkpoint"] == f"checkpoint-{stop - 2}"
    assert ending(second) == ending(stopped)
    assert_same_bits(second, stopped, (f"checkpoint-{best}", "final"))


def test_a_resumed_run_finds_a_best_model_after_the_interruption(stopped, preset, documents, tmp_path):
    """Interrupted before the best step: the checkpoint that was the best till then is not the one kept."""
    _, _, best, _ = ending(stopped)
    _, second = interrupted_and_resumed(tmp_path, arguments(preset, documents, True, **STOPPING), best - 2)
    assert ending(second) == ending(stopped)
    assert_same_bits(second, stopped, (f"checkpoint-{best}", "final"))


def test_final_is_the_best_checkpoint(stopped):
    _, _, best, _ = ending(stopped)
    losses = {line["step"]: line["eval_loss"] for line in stopped.lines() if line.get("eval_loss") and line["step"]}
    assert min(losses, key=losses.__getitem__) == best
    weights, final = (stopped.weights(name) for name in (f"checkpoint-{best}", "final"))
    # GPT-NeoX's head has another name where it is published than in the model.
    assert all(torch.equal(value, final[name.replace("lm_head", "embed_out")]) for name, value in weights.items())


# --- resumed at its end ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [7, 10])
def test_a_run_resumed_at_its_last_step_trains_no_further(steps, preset, documents, tmp_path):
    """As after a crash while ``final/`` was written. Seven steps end inside an epoch."""
    words = arguments(preset, documents, True, **batches(4, 2), max_steps=steps)
    whole = train(tmp_path / "whole", words)
    resumed = train(cut(whole, steps, tmp_path / "resumed"), [*words, "--resume"])
    assert not (tmp_path / "resumed" / "rows" / "0.jsonl").exists()
    assert_same_bits(resumed, whole, (f"checkpoint-{steps}", "final"))


def test_a_run_that_was_moved_still_knows_its_best_model(preset, documents, tmp_path):
    """Resumed at its last step, with nothing more to save, under another name than it was trained."""
    settings = {**batches(4, 2), "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    # Far too high a learning rate, so that the last step is not the best.
    settings |= {"learning_rate": 1.0, "lr_scheduler_type": "constant", "max_steps": 4, "optim": "adamw_torch_fused"}
    whole = train(tmp_path / "whole", arguments(preset, documents, True, **settings))
    assert ending(whole)[:3] == (4, "best", 2)
    moved = cut(whole, 4, tmp_path / "moved")
    (moved / "run").rename(moved / "another")
    resumed = train(moved, [*arguments(preset, documents, True, **settings, output_dir="another"), "--resume"])
    resumed.path = moved / "another"
    assert ending(resumed) == ending(whole)
    assert_same_bits(resumed, whole, ("final",))


# --- where stock Trainer is not the same training ------------------------------------------------------
# Others are shown beside their parts: repeated rows at an epoch's end in data/test_sampler.py; the epoch's order after a
# resume on two processes, the scale of an evaluation's loss, perplexity by batch size and NaN in test_trainer.py.


def trained(kind: type[Trainer], folder: Path, tokenizer, resume: str | None = None, callbacks=(), **changes) -> Trainer:
    """A trainer of that kind after training GPT-2 on awkward rows; stock has a model that knows nothing of llmforge."""
    model = tiny_model("gpt2-10m", tokenizer)
    if kind is Trainer:
        model = GPT2LMHeadModel(copy.deepcopy(model.config))
        model.load_state_dict(tiny_model("gpt2-10m", tokenizer).state_dict())
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    # An optimizer that plain Trainer has too.
    common = {"save_strategy": "steps", "per_device_train_batch_size": 4, "optim": "adamw_torch_fused"}
    args = training_args(folder, **common | changes)
    data = {"train_dataset": rows, "eval_dataset": rows, "data_collator": PackedCollator(), "processing_class": tokenizer}
    trainer = kind(model, args, callbacks=list(callbacks), **data)
    trainer.train(resume_from_checkpoint=resume and str(folder / resume))
    return trainer


def logged(trainer: Trainer) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


@pytest.mark.parametrize(("kind", "last"), [(Trainer, 3), (ForgeTrainer, 2)])
def test_trap_stock_trains_past_the_end_when_resumed_there(kind, last, tokenizer, tmp_path):
    steps = {"max_steps": 2, "save_steps": 2, "learning_rate": 5e-4}
    trained(kind, tmp_path, tokenizer, **steps)
    assert trained(kind, tmp_path, tokenizer, "checkpoint-2", **steps).state.global_step == last


@pytest.mark.parametrize(("kind", "same"), [(Trainer, False), (ForgeTrainer, True)])
def test_trap_stock_forgets_the_losses_since_the_last_log_event(kind, same, tokenizer, tmp_path):
    steps = {"max_steps": 4, "save_steps": 3, "logging_steps": 4, "learning_rate": 1e-2}
    whole = logged(trained(kind, tmp_path, tokenizer, **steps))
    resumed = logged(trained(kind, tmp_path, tokenizer, "checkpoint-3", **steps))
    assert list(whole) == list(resumed) == [4]
    assert (whole == resumed) is same


@pytest.mark.parametrize(("kind", "restored", "stop"), [(Trainer, False, 6), (ForgeTrainer, True, 4)])
def test_trap_stock_counts_patience_anew_after_a_resume(kind, restored, stop, tokenizer, tmp_path):
    """Nothing is learnt, so that the first evaluation stays the best and the fourth is the last of an undisturbed run."""
    steps = {"max_steps": 9, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0}
    steps["restore_callback_states_from_checkpoint"] = restored  # each one's own default
    assert trained(kind, tmp_path, tokenizer, callbacks=[EarlyStoppingCallback(3)], **steps).state.global_step == 4
    resumed = trained(kind, tmp_path, tokenizer, "checkpoint-3", [EarlyStoppingCallback(3)], **steps)
    assert resumed.state.global_step == stop
    assert TrainingArguments(tmp_path).restore_callback_states_from_checkpoint is False


class Worse(TrainerCallback):
    """Spoils the model a little at every step but the first."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step > 1:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize(("kind", "best", "kept"), [(Trainer, 1, "checkpoint-4"), (ForgeTrainer, 2, "checkpoint-2")])
def test_trap_stock_keeps_its_last_model_where_the_best_was_never_saved(kind, best, kept, tokenizer, tmp_path):
    """Evaluated at every step, saved at every second, and only getting worse."""
    steps = {"max_steps": 4, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0}
    trainer = trained(kind, tmp_path, tokenizer, callbacks=[Worse()], load_best_model_at_end=True, **steps)
    assert trainer.state.best_global_step == best
    saved = load_file(tmp_path / kept / "model.safetensors")
    assert all(torch.equal(value, trainer.model.state_dict()[name]) for name, value in saved.items())


@pytest.mark.parametrize(("kind", "share"), [(Trainer, 39 / 40), (ForgeTrainer, 1)])
def test_trap_stock_trains_gpt2_on_a_smaller_loss_than_the_models_own(kind, share, tokenizer, tmp_path):
    """A row of 40 tokens has 39 targets and is divided by 40; so the gradients, and what clipping makes of them."""
    model = tiny_model("gpt2-10m", tokenizer)
    plain = GPT2LMHeadModel(copy.deepcopy(model.config))
    plain.load_state_dict(model.state_dict())
    rows = [{"input_ids": list(range(20, 60))}]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    own = float(plain.eval()(**collator(rows)).loss)
    args = training_args(tmp_path, max_steps=1, learning_rate=0.0, optim="adamw_torch_fused")
    trainer = kind(
        plain if kind is Trainer else model, args, train_dataset=rows, processing_class=tokenizer, data_collator=collator
    )
    trainer.train()
    assert logged(trainer)[1] / own == pytest.approx(share, rel=1e-4)


# --- longer sweeps -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("size", "accumulation"), [(8, 1), (1, 8)])
def test_a_run_resumed_after_any_step_is_the_undisturbed_one(size, accumulation, workers, preset, documents, tmp_path):
    """Persistent loader workers too, which outlive an epoch."""
    settings = {**batches(size, accumulation), "dataloader_num_workers": workers}
    words = arguments(preset, documents, True, **settings, dataloader_persistent_workers=workers > 0)
    whole = train(tmp_path / "whole", words)
    for step in range(1, STEPS):
        resumed = train(cut(whole, step, tmp_path / str(step)), [*words, "--resume"])
        assert resumed.order() == {number: rows for number, rows in whole.order().items() if number > step}
        assert_same_bits(resumed, whole)


@pytest.mark.slow
def test_a_run_that_evaluates_and_saves_at_epochs_resumes_between_them(preset, documents, tmp_path):
    rhythm = {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 3, "load_best_model_at_end": True}
    words = arguments(preset, documents, True, **batches(4, 2), **rhythm)
    whole = train(tmp_path / "whole", words)
    _, resumed = interrupted_and_resumed(tmp_path / "resumed", words, 8)
    assert min(resumed.order()) == EPOCH_STEPS + 1
    assert_same_bits(resumed, whole)


@pytest.fixture(scope="module")
def two_dropped(preset, documents, place):
    """Two processes, two micro-batches of two rows each a step, dropout on."""
    return train_on_two(place / "two_dropped", arguments(preset, documents, True, **batches(2, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "changes"),
    [(3, {}), (5, {"dataloader_num_workers": 2}), (7, {"activation_checkpointing": True})],
    ids=["alike", "workers", "activation_checkpointing"],
)
def test_a_run_of_two_processes_resumes_bit_for_bit(step, changes, two_dropped, preset, documents, tmp_path):
    """With a random state for each process; what changes no bit may change at the resume."""
    words = arguments(preset, documents, True, **batches(2, 2), **changes)
    resumed = train_on_two(cut(two_dropped, step, tmp_path), [*words, "--resume"])
    assert resumed.order() == {number: rows for number, rows in two_dropped.order().items() if number > step}
    assert_same_bits(resumed, two_dropped)
