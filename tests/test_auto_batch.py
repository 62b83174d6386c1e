"""``--auto_batch``: another micro-batch, the same training."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, TINY, awkward_documents, forge_trainer, packed_rows, tiny_model
from safetensors.torch import load_file

from llmforge import auto_batch, pretrain
from llmforge.auto_batch import choose_batch, is_out_of_memory, smaller_rows
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.configs.model import ModelArguments
from llmforge.configs.run import PretrainConfig, RunArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.errors import ConfigError
from llmforge.planning.memory import estimate
from llmforge.planning.requirements import setup_for
from llmforge.runtime.commands import run_command
from llmforge.runtime.devices import probe_device
from llmforge.runtime.run_folder import RunFolder
from llmforge.trainer import ForgeTrainer

ROWS, STEPS = 8, 5
SIZES = ("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size")


def words(corpus: Path, folder: str, **changes: object) -> list[str]:
    settings = {"preset": "gpt2-10m", **TINY["gpt2-10m"], "corpus": corpus, "vocab_size": 400, "block_size": 32}
    settings |= {"max_steps": STEPS, "per_device_train_batch_size": ROWS, "per_device_eval_batch_size": 4, "eval_steps": 2}
    settings |= {"logging_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "adam_epsilon": 1e-4}
    settings |= {"output_dir": folder, "load_best_model_at_end": False, **changes}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def lines(folder: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def losses(folder: str) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in lines(folder) if "loss" in line]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Drawing takes more than half of the time of these runs."""
    monkeypatch.setattr(LossPlot, "_draw", lambda *_, **__: None)


@pytest.fixture
def room(monkeypatch):
    """Makes `choose_batch` believe that so many bytes are free."""

    def install(size: int) -> None:
        monkeypatch.setattr(auto_batch, "available_memory", lambda use_cpu=False: size)

    return install


@pytest.fixture
def planted(monkeypatch):
    """Makes a micro-batch of more than so many rows run out of memory once a step is reached; counts how often it did."""
    seen: list[tuple[int, int]] = []

    def install(step: int, most: int, kind: type[Exception] = torch.OutOfMemoryError) -> list[tuple[int, int]]:
        real = ForgeTrainer.training_step

        def training_step(self, model, inputs, *args, **kwargs):
            rows = len(inputs["input_ids"])
            if self.state.global_step >= step and rows > most:
                seen.append((self.state.global_step, rows))
                raise kind("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return real(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(ForgeTrainer, "training_step", training_step)
        return seen

    return install


def test_half_a_micro_batch_divides_the_step():
    assert [smaller_rows(rows, 12) for rows in (12, 6, 4, 3, 2, 1)] == [6, 3, 2, 1, 1, None]


def test_what_an_out_of_memory_is():
    assert is_out_of_memory(torch.OutOfMemoryError("anything"))
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
    assert not is_out_of_memory(KeyboardInterrupt())


def test_an_out_of_memory_goes_on_from_the_last_commit_with_the_same_training(corpus, planted, capsys):
    """At step 3 with 8 rows, then again with 4: the run ends as one that had 2 at a time, and as one that never broke off."""
    assert run_command(pretrain.main, words(corpus, "whole")) == 0
    seen = planted(step=3, most=2)
    capsys.readouterr()
    assert run_command(pretrain.main, [*words(corpus, "broken"), "--auto_batch"]) == 0
    told = capsys.readouterr().err
    assert [rows for _, rows in seen] == [8, 4]
    assert "out of memory after step 3 with micro-batches of 8 rows: going on from checkpoint-2 with 4, 2 a step" in told
    assert "with micro-batches of 4 rows: going on from checkpoint-2 with 2, 4 a step" in told
    record = json.loads(Path("broken/run.json").read_text())
    rows, steps, starts = ("per_device_train_batch_size", "gradient_accumulation_steps", "from_step")
    assert [(batch[starts], batch[rows], batch[steps]) for batch in record["batches"]] == [(0, 8, 1), (2, 4, 2), (2, 2, 4)]
    assert {line["step"]: line["micro_batch"] for line in lines("broken") if "loss" in line} == {1: 8, 2: 8, 3: 2, 4: 2, 5: 2}
    assert [step for step, _ in losses("broken")] == list(range(1, STEPS + 1))
    evaluated = [[line["step"] for line in lines(folder) if "eval_loss" in line] for folder in ("broken", "whole")]
    assert evaluated[0] == evaluated[1]
    for (_, ours), (_, theirs) in zip(losses("broken"), losses("whole"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-6)
    ours, theirs = (load_file(f"{name}/final/model.safetensors") for name in ("broken", "whole"))
    for name, value in ours.items():
        assert float((value - theirs[name]).abs().max()) <= 2e-6, name


def test_before_the_first_commit_it_starts_over(corpus, planted):
    assert run_command(pretrain.main, words(corpus, "whole", save_strategy="no")) == 0
    assert planted(step=1, most=4) == []
    assert run_command(pretrain.main, [*words(corpus, "broken", save_strategy="no"), "--auto_batch"]) == 0
    assert losses("broken") == [(step, pytest.approx(loss, rel=2e-6)) for step, loss in losses("whole")]
    assert [line["step"] for line in lines("broken") if "eval_loss" in line].count(0) == 1


@pytest.mark.parametrize("flags", [[], ["--auto_batch"]])
def test_without_the_flag_or_with_nothing_left_to_halve_it_ends_in_one_line(corpus, planted, capsys, flags):
    planted(step=0, most=0)
    assert run_command(pretrain.main, [*words(corpus, "broken"), *flags]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert ("--per_device_train_batch_size 1." in line) is bool(flags)
    assert ("--auto_batch" in line) is not bool(flags)
    assert json.loads(Path("broken/exit.json").read_text())["exit_code"] == 2


def test_another_error_is_not_gone_on_from(corpus, planted):
    planted(step=1, most=2, kind=ValueError)
    with pytest.raises(ValueError, match="out of memory"):
        run_command(pretrain.main, [*words(corpus, "broken"), "--auto_batch"])


def test_the_recipe_goes_on_too(corpus, planted):
    seen = planted(step=1, most=4)
    recipe = runpy.run_path(str(ROOT / "recipes" / "pretrain_go.py"), run_name="recipe")["main"]
    result = recipe([*words(corpus, "broken", max_steps=2), "--auto_batch"])
    assert (seen, result.step) == ([(1, 8)], 2)
    assert [batch["per_device_train_batch_size"] for batch in json.loads(Path("broken/run.json").read_text())["batches"]] == [
        8,
        4,
    ]


def fitted(folder: Path, device: str, proposed: tuple[int, ...] = (8,)) -> SimpleNamespace:
    """The arguments after `train_fitting` with a trainer that does nothing, on so many processes and what they propose."""
    run, _ = config(per_device_train_batch_size=8, gradient_accumulation_steps=3)
    args = SimpleNamespace(device=torch.device(device), fsdp=[], train_batch_size=0, **dict.fromkeys(SIZES, 8))
    trainer = SimpleNamespace(
        args=args,
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=lambda own: torch.tensor(proposed)),
        callback_handler=SimpleNamespace(callbacks=[]),
        train=lambda **_: None,
    )
    auto_batch.train_fitting(lambda: trainer, run, RunFolder(folder))
    return args


@pytest.mark.parametrize("sharded", [False, True])
def test_under_fsdp_whose_model_is_not_on_the_gpu_yet_nothing_is_tried(monkeypatch, tmp_path, sharded):
    tried = []
    monkeypatch.setattr(auto_batch, "_probe", lambda trainer, share: tried.append(share))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(sharded))
    fitted(tmp_path, "cuda")
    assert tried == ([] if sharded else [24])


def test_processes_take_what_fits_the_one_with_the_least(tmp_path):
    args = fitted(tmp_path, "cpu", (8, 6, 12, 8))
    assert [getattr(args, name) for name in SIZES] == [6, 4, 6]


def test_the_choices_before_a_resume_are_kept(tmp_path):
    RunFolder(tmp_path).write_record(batches=[{"from_step": 0}])
    fitted(tmp_path, "cpu")
    assert [batch["from_step"] for batch in json.loads((tmp_path / "run.json").read_text())["batches"]] == [0, 0]


def config(**changes) -> tuple[PretrainConfig, SimpleNamespace]:
    training = ForgeTrainingArguments(report_to=[], use_cpu=True, output_dir="run", **changes)
    run = PretrainConfig(training=training, model=ModelArguments(preset="gpt2-10m"), run=RunArguments(auto_batch=True))
    return run, SimpleNamespace(card={"tokenizer": {"vocab_size": 8192}})


def test_the_choice_is_the_plan_s_and_keeps_the_rows_of_a_step(room):
    """The largest that fits into nine tenths of what is free, larger than what was given or smaller."""
    run, data = config(per_device_train_batch_size=2, gradient_accumulation_steps=12)
    setup = setup_for(run, 8192, probe_device(True), "fp32")
    for rows in (1, 2, 4, 6, 24):
        room(int(estimate(setup.with_rows(rows, 24 // rows)).peak / 0.9) + 1000)
        choose_batch(run, data)
        assert (run.training.per_device_train_batch_size, run.training.gradient_accumulation_steps) == (rows, 24 // rows)
    room(2**28)
    with pytest.raises(ConfigError, match=r"--auto_batch: 230 MiB are free.*--activation_checkpointing"):
        choose_batch(run, data)
    run.run.auto_batch = False
    choose_batch(run, data)
    assert run.training.per_device_train_batch_size == 24


def test_the_probe_halves_what_does_not_fit(preset, tokenizer, tmp_path, monkeypatch):
    """As on a GPU, where the forward pass itself runs out."""
    model = tiny_model(preset, tokenizer)
    rows = packed_rows(awkward_documents(tokenizer), tokenizer)
    trainer = forge_trainer(model, tokenizer, tmp_path, rows, per_device_train_batch_size=8)
    real, sizes = trainer.model.forward, []

    def forward(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "forward", forward)
    state = torch.get_rng_state()
    auto_batch._probe(trainer, 8)
    assert sizes == [8, 4, 2]
    assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == (2, 4)
    assert trainer._train_batch_size == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
