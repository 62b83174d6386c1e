"""From ``--optim`` to a training that goes on where it stopped, and the schedules of its learning rates."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import awkward_documents, forge_trainer, packed_rows, tiny_model, training_args

from llmforge import muon, optimizers, pretrain
from llmforge.configs.training import MUON_ADAMW_SHARE, OPTIMIZERS, ForgeTrainingArguments
from llmforge.errors import ConfigError
from llmforge.models import count_hidden, count_parameters
from llmforge.muon import Muon
from llmforge.optimizers import build_optimizer, check_optimizer, hidden_matrices
from llmforge.runtime.commands import run_command
from llmforge.runtime.devices import Device


@pytest.fixture
def rows(tokenizer):
    return packed_rows(awkward_documents(tokenizer), tokenizer)


def muon_args(folder: Path, **changes):
    return training_args(folder, optim="muon", **changes)


# --- which parameter goes where ------------------------------------------------------------------------

#: By architecture, of one block, with the number in it left out.
MATRICES = {
    "gpt2-10m": {"attn.c_attn.weight": "columns", "attn.c_proj.weight": "whole", "mlp.c_fc.weight": "whole"}
    | {"mlp.c_proj.weight": "whole"},
    "neox-10m": {"attention.query_key_value.weight": "heads", "attention.dense.weight": "whole"}
    | {"mlp.dense_h_to_4h.weight": "whole", "mlp.dense_4h_to_h.weight": "whole"},
}


@pytest.mark.parametrize("tied", [True, False])
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(preset, tied, tokenizer, tmp_path):
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model

    shape = {"n_layer": 2, "n_embd": 32, "n_head": 2} if preset == "gpt2-10m" else {"num_hidden_layers": 2, "hidden_size": 32}
    if preset == "neox-10m":
        shape["num_attention_heads"] = 2
    model = build_model(ModelArguments(preset=preset, tie_word_embeddings=tied, **shape), tokenizer)
    prefix = "transformer.h" if preset == "gpt2-10m" else "gpt_neox.layers"
    expected = {f"{prefix}.{block}.{name}": layout for block in (0, 1) for name, layout in MATRICES[preset].items()}
    assert {name: layout for name, (layout, _) in hidden_matrices(model).items()} == expected

    args = muon_args(tmp_path, learning_rate=0.01, muon_adamw_lr=0.002, weight_decay=0.3)
    optimizer = build_optimizer(model, args)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert set(found) == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for name, group in found.items():
        matrix = dict(model.named_parameters())[name].ndim == 2
        assert group["kind"] == ("muon" if name in expected else "adamw"), name
        assert group["layout"] == expected.get(name, "whole"), name
        assert group["lr"] == (0.01 if name in expected else 0.002), name
        assert group["weight_decay"] == (0.3 if matrix else 0.0), name
    assert optimizer.param_groups[0]["lr"] == 0.01  # the one that Trainer logs
    muons = sum(parameter.numel() for name, parameter in model.named_parameters() if name in expected)
    assert count_hidden(model.config) == muons < count_parameters(model.config)


def test_the_rests_learning_rate_follows_unless_it_is_given(tokenizer, tmp_path):
    model = tiny_model("gpt2-10m", tokenizer)
    rates = [
        {group["kind"]: group["lr"] for group in build_optimizer(model, muon_args(tmp_path, **given)).param_groups}
        for given in ({"learning_rate": 0.01}, {"learning_rate": 0.01, "muon_adamw_lr": 0.0})
    ]
    assert rates == [{"muon": 0.01, "adamw": MUON_ADAMW_SHARE * 0.01}, {"muon": 0.01, "adamw": 0.0}]


def test_frozen_parameters_are_left_out(tokenizer, tmp_path):
    model = tiny_model("gpt2-10m", tokenizer)
    frozen = model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    groups = build_optimizer(model, muon_args(tmp_path)).param_groups
    assert all(parameter is not frozen for group in groups for parameter in group["params"])


@pytest.mark.parametrize(
    ("half", "precision", "dtype"),
    [("bf16", "bf16", torch.bfloat16), ("bf16", "fp32", torch.float32), ("fp16", "fp16", torch.float32)]
    + [("fp16", "bf16", torch.float32), (None, "fp32", torch.float32)],
)
def test_bfloat16_only_where_the_training_and_the_device_have_it(half, precision, dtype, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(optimizers, "probe_device", lambda use_cpu=False: Device("cuda", "Test", 1, half))
    args = muon_args(tmp_path)
    args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
    optimizer = build_optimizer(tiny_model("gpt2-10m", tokenizer), args)
    used: list[torch.dtype] = []
    stock = muon.newton_schulz
    monkeypatch.setattr(muon, "newton_schulz", lambda x, steps, kind: used.append(kind) or stock(x, steps, kind))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert set(used) == {dtype}


# --- training with it -------------------------------------------------------------------------------------


def trained(preset, tokenizer, rows, folder, steps: int, resume: str | None = None, dropout: bool = True, **changes):
    settings = {"optim": "muon", "learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_steps": steps} | changes
    trainer = forge_trainer(tiny_model(preset, tokenizer, dropout=dropout), tokenizer, folder, rows, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_trains_and_logs_the_learning_rate(preset, tokenizer, rows, tmp_path):
    trainer = trained(preset, tokenizer, rows, tmp_path, 12, dropout=False, lr_scheduler_type="constant", warmup_steps=0)
    assert isinstance(trainer.optimizer.optimizer, Muon)
    found = losses(trainer)
    assert found[-1] < found[0] - 0.3
    assert trainer.state.log_history[0]["learning_rate"] == 1e-2


def test_a_resumed_training_is_the_undisturbed_one(preset, tokenizer, rows, tmp_path):
    """Six steps, and three and three; dropout on, an accumulation of two, a schedule that changes every step."""
    settings = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    whole = trained(preset, tokenizer, rows, tmp_path / "whole", 6, **settings)
    again = trained(preset, tokenizer, rows, tmp_path / "again", 6, resume=str(tmp_path / "whole" / "checkpoint-3"), **settings)
    assert losses(again)[-3:] == losses(whole)[-3:]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    saved, resumed = (
        torch.load(tmp_path / name / "checkpoint-6" / "optimizer.pt", weights_only=True) for name in ("whole", "again")
    )
    assert [group["kind"] for group in saved["param_groups"]][:2] == ["muon", "muon"]
    for number, state in saved["state"].items():
        assert state.keys() == resumed["state"][number].keys()
        assert all(torch.equal(value, resumed["state"][number][name]) for name, value in state.items())


def test_plain_trainer_goes_on_from_such_a_checkpoint(tokenizer, rows, tmp_path):
    """With the optimizer given to it, as its name is none of stock's."""
    from transformers import Trainer

    from llmforge.data.collate import PackedCollator

    settings = {
        "save_strategy": "steps",
        "save_steps": 3,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
    }
    ours = trained("neox-10m", tokenizer, rows, tmp_path, steps=6, dropout=False, **settings)
    model = tiny_model("neox-10m", tokenizer, seed=1)
    args = muon_args(tmp_path / "plain", **settings)
    given = {"train_dataset": rows, "processing_class": tokenizer, "data_collator": PackedCollator()}
    plain = Trainer(model, args, optimizers=(build_optimizer(model, args), None), **given)
    plain.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    steps = [{float(state["step"]) for state in trainer.optimizer.state.values() if "step" in state} for trainer in (ours, plain)]
    assert steps == [{6.0}, {6.0}]
    assert plain.state.global_step == 6


def test_accumulation_changes_nothing_but_rounding(preset, tokenizer, rows, tmp_path):
    states = []
    for batch, accumulation in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "adam_epsilon": 1e-4}
        states.append(trained(preset, tokenizer, rows, tmp_path, 3, dropout=False, **settings).model.state_dict())
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=1e-4), name


def test_clipping_and_a_gradient_that_is_missing(tokenizer, rows, tmp_path):
    """A positions table of more rows than are used has gradients; a block that is skipped has none."""
    model = tiny_model("gpt2-10m", tokenizer)
    model.transformer.h[1].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = forge_trainer(model, tokenizer, tmp_path, rows, optim="muon", max_steps=2, max_grad_norm=0.01, learning_rate=1e-2)
    trainer.train()
    after = model.state_dict()
    assert {name for name in before if torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith("transformer.h.1.")
    }


# --- the name, and what is refused ------------------------------------------------------------------------


def test_every_name_of_trainers_own_is_kept(tmp_path):
    from transformers.training_args import OptimizerNames

    assert {"muon", *(name.value for name in OptimizerNames)} == set(OPTIMIZERS)
    for name in OPTIMIZERS:
        args = training_args(tmp_path, optim=name)
        assert args.optim == name
        assert json.loads(args.to_json_string())["optim"] == name
    assert training_args(tmp_path, optim=OptimizerNames.SGD).optim == OptimizerNames.SGD


@pytest.mark.parametrize(
    ("name", "near"), [("moun", "muon"), ("adamw-torch", "adamw_torch"), ("galore", "galore_adamw"), ("q", "Known: ")]
)
def test_a_wrong_name_is_told_with_the_nearest(name, near, tmp_path):
    with pytest.raises(ConfigError, match=f"--optim {name} is no optimizer") as told:
        training_args(tmp_path, optim=name)
    assert near in told.value.remedy


def command(*words: str) -> int:
    return run_command(pretrain.main, ["--preset", "neox-10m", "--report_to", "none", "--output_dir", "run", *words])


def test_the_command_line_takes_it_and_prints_it(corpus, capsys):
    for name in OPTIMIZERS:
        with pytest.raises(SystemExit):
            command("--corpus", str(corpus), "--optim", name, "--muon_adamw_lr", "1e-3", "--print_config")
        told = yaml.safe_load(capsys.readouterr().out)
        assert told.get("optim", ForgeTrainingArguments.optim) == name
        assert told["muon_adamw_lr"] == 0.001


@pytest.mark.parametrize(
    ("words", "missing", "told"),
    [
        (["--optim", "moun"], None, "Did you mean muon?"),
        (["--optim", "adamw_8bit"], "bitsandbytes", "pip install 'llmforge[optimizers]'"),
        (["--optim", "paged_lion_8bit"], "bitsandbytes", "pip install 'llmforge[optimizers]'"),
        (["--optim", "galore_adamw", "--optim_target_modules", "mlp"], "galore_torch", "pip install 'llmforge[optimizers]'"),
        (["--optim", "apollo_adamw", "--optim_target_modules", "mlp"], "apollo_torch", "pip install 'llmforge[optimizers]'"),
        (["--optim", "schedule_free_adamw"], "schedulefree", "pip install 'llmforge[optimizers]'"),
        (["--optim", "stable_adamw"], "optimi", "pip install 'torch-optimi'"),
        (["--optim", "adamw_torch_4bit"], "torchao", "pip install 'torchao'"),
        (["--optim", "muon", "--optim_args", "momentum=0.9"], None, "takes no --optim_args"),
        (["--optim", "sgd", "--muon_adamw_lr", "0.1"], None, "--muon_adamw_lr 0.1 is for --optim muon"),
        (["--muon_adamw_lr", "-1", "--optim", "muon"], None, "--muon_adamw_lr -1.0 is negative"),
        (["--decay_ratio", "1.5"], None, "--decay_ratio 1.5 is no share"),
    ],
)
def test_what_cannot_run_is_one_line_before_data_is_prepared(words, missing, told, corpus, capsys, monkeypatch, own_cache):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
        stock = optimizers.importlib.util.find_spec
        monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None if name == missing else stock(name))
    assert command("--corpus", str(corpus), *words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in line
    assert not own_cache.exists()
    assert not Path("run").exists()


def test_a_run_is_not_gone_on_with_by_another_optimizer(corpus, capsys):
    """Their states are not each other's."""
    small = ["--num_hidden_layers", "1", "--hidden_size", "32", "--num_attention_heads", "2", "--vocab_size", "300"]
    small += ["--block_size", "32", "--max_steps", "1", "--save_steps", "1", "--eval_strategy", "no", "--corpus", str(corpus)]
    assert command(*small, "--optim", "muon") == 0
    capsys.readouterr()
    assert command(*small, "--optim", "adamw_torch", "--resume") == 2
    assert "has --optim muon, not adamw_torch" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("name", ["galore_adamw", "apollo_adamw"])
def test_low_rank_optimizers_say_what_they_need(name, monkeypatch, tmp_path):
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=r"Give --optim_target_modules '\.\*\(attention\|mlp\)"):
        check_optimizer(training_args(tmp_path, optim=name), "gpt_neox")
    with pytest.raises(ConfigError, match="GPT-2 has none"):
        check_optimizer(training_args(tmp_path, optim=name, optim_target_modules=["mlp"]), "gpt2")
    check_optimizer(training_args(tmp_path, optim=name, optim_target_modules=["mlp"]), "gpt_neox")


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_training_is_refused_for_muon_alone(variable, tmp_path, monkeypatch):
    args, other = muon_args(tmp_path), training_args(tmp_path, optim="adamw_torch_fused")
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError, match="--optim muon works on whole matrices"):
        check_optimizer(args)
    check_optimizer(other)
    monkeypatch.setenv(variable, "false")
    check_optimizer(args)


def test_what_stock_finds_wrong_is_one_clear_error(tokenizer, rows, tmp_path):
    trainer = forge_trainer(tiny_model("neox-10m", tokenizer), tokenizer, tmp_path, rows, optim="sgd", optim_args="momentum=x")
    with pytest.raises(ConfigError, match="--optim sgd: could not convert string to float"):
        trainer.create_optimizer()


# --- extras, where they are installed ------------------------------------------------------------------------

EXTRAS = {
    "adamw_8bit": ("bitsandbytes", {}),
    "galore_adamw": ("galore_torch", {"optim_target_modules": ".*(attention|mlp).*", "optim_args": "rank=8"}),
    "apollo_adamw": ("apollo_torch", {"optim_target_modules": ".*(attention|mlp).*", "optim_args": "rank=8"}),
    "schedule_free_adamw": ("schedulefree", {"lr_scheduler_type": "constant_with_warmup"}),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_trains_and_resumes(name, tokenizer, rows, tmp_path):
    package, settings = EXTRAS[name]
    pytest.importorskip(package)
    settings = {"optim": name, "learning_rate": 3e-3, "save_strategy": "steps", "save_steps": 6, **settings}
    whole = trained("neox-10m", tokenizer, rows, tmp_path / "whole", 12, **settings)
    assert losses(whole)[-1] < losses(whole)[0] - 0.2
    folder = str(tmp_path / "whole" / "checkpoint-6")
    again = trained("neox-10m", tokenizer, rows, tmp_path / "again", 12, resume=folder, **settings)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


def test_a_layerwise_optimizer_says_what_it_does_not_do(tokenizer, rows, tmp_path, caplog):
    pytest.importorskip("galore_torch")
    settings = EXTRAS["galore_adamw"][1] | {"optim": "galore_adamw_layerwise"}
    forge_trainer(tiny_model("neox-10m", tokenizer), tokenizer, tmp_path, rows, **settings).create_optimizer()
    assert "a resumed run starts with an empty state" in caplog.text


class Averaging(torch.optim.SGD):
    """Stands in for a schedule-free optimizer: the model holds other weights while it trains."""

    def train(self) -> None:
        self._shift(1.0, "train")

    def eval(self) -> None:
        self._shift(-1.0, "eval")

    def _shift(self, by: float, mode: str) -> None:
        if self.param_groups[0].get("mode", "eval") != mode:
            for group in self.param_groups:
                group["mode"] = mode
                for parameter in group["params"]:
                    parameter.data += by


def test_what_is_saved_are_the_weights_that_are_evaluated(tokenizer, rows, tmp_path):
    """Stock saves those of the training where no evaluation came before the saving."""
    from safetensors.torch import load_file

    model = tiny_model("gpt2-10m", tokenizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = forge_trainer(model, tokenizer, tmp_path, rows, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.optimizer = Averaging(model.parameters(), lr=0.0)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in ("checkpoint-1", "checkpoint-2", "final"):
        saved = load_file(tmp_path / folder / "model.safetensors")
        assert all(torch.allclose(value, before[name], atol=1e-5) for name, value in saved.items()), folder


# --- schedules ------------------------------------------------------------------------------------------------


def rates(tokenizer, folder, steps: int, **settings) -> list[list[float]]:
    """The learning rate of each group at each step, as Trainer makes its schedule."""
    trainer = forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, folder, learning_rate=1.0, **settings)
    trainer.create_optimizer_and_scheduler(steps)
    found = []
    for _ in range(steps + 1):
        found.append([group["lr"] for group in trainer.optimizer.param_groups])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


@pytest.mark.parametrize(("warmup", "warm"), [(0.1, 4), (6, 6), (0, 0)])
@pytest.mark.parametrize(("ratio", "floor"), [(0.2, 0.1), (0.5, 0.0)])
def test_warmup_stable_decay_is_its_formula(warmup, warm, ratio, floor, tokenizer, tmp_path):
    """Warm-up and decay in a straight line and as 1 - sqrt (Hägele et al. 2024), each from or to the floor."""
    found = rates(
        tokenizer,
        tmp_path,
        40,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=warmup,
        decay_ratio=ratio,
        min_lr_ratio=floor,
        optim="muon",
        muon_adamw_lr=0.25,
    )
    length = round(ratio * 40)
    for step, (muons, *_, rest) in enumerate(found):
        share = step / warm if step < warm else 1 - math.sqrt(max(step - (40 - length), 0) / length)
        assert muons == pytest.approx(floor + (1 - floor) * share), step
        assert rest == pytest.approx(0.25 * muons), step
    assert found[40][0] == pytest.approx(floor)


@pytest.mark.parametrize(
    ("given", "at_35"),
    [
        ({"decay_type": "linear"}, 0.1 + 0.9 * 5 / 8),
        ({"num_decay_steps": 20, "decay_type": "linear"}, 0.1 + 0.9 * 5 / 20),
        ({"num_stable_steps": 10, "decay_type": "linear"}, 0.1 + 0.9 * 5 / 30),
        ({"min_lr_ratio": 0.5, "decay_type": "linear"}, 0.5 + 0.5 * 5 / 8),
    ],
)
def test_the_users_own_settings_of_the_schedule_win(given, at_35, tokenizer, tmp_path):
    as_text = json.dumps(given)  # as the command line has it
    found = rates(tokenizer, tmp_path, 40, lr_scheduler_type="warmup_stable_decay", warmup_steps=0, lr_scheduler_kwargs=as_text)
    assert found[35][0] == pytest.approx(at_35)


def test_a_decay_that_does_not_fit_begins_after_the_warm_up(tokenizer, tmp_path):
    found = rates(tokenizer, tmp_path, 40, lr_scheduler_type="warmup_stable_decay", warmup_steps=30, decay_ratio=0.5)
    assert found[30][0] == 1.0
    assert found[29][0] < 1.0
    assert found[40][0] == pytest.approx(0.1)


def test_the_arguments_are_the_same_for_a_training_of_another_length(tokenizer, tmp_path):
    args = training_args(tmp_path, lr_scheduler_type="warmup_stable_decay")
    before = dict(args.lr_scheduler_kwargs)
    trainer = forge_trainer(tiny_model("gpt2-10m", tokenizer), tokenizer, tmp_path)
    trainer.args = args
    for steps in (40, 80):
        trainer.lr_scheduler = None
        trainer.create_optimizer_and_scheduler(steps)
        assert args.lr_scheduler_kwargs == before
        assert args.schedule_settings(steps)["num_decay_steps"] == 0.2 * steps


def test_the_cosines_floor_stays_beside_other_settings(tmp_path):
    args = training_args(tmp_path, lr_scheduler_kwargs={"num_cycles": 0.25}, min_lr_ratio=0.3)
    assert args.lr_scheduler_kwargs == {"num_cycles": 0.25, "min_lr_rate": 0.3}
