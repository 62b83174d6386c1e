"""The recipe as its users run it, and every YAML that ships."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SAMPLES
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmforge.configs.data import DataArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.run import RunArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.models import build_config, check_block_size, embedding_rows
from llmforge.parsing import ForgeParser

CLASSES = [ModelArguments, TokenizerArguments, DataArguments, ForgeTrainingArguments, GenerationArguments, RunArguments]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("pretrain_*/*.yaml"))
ACCELERATE = ROOT / "accelerate_configs"
RECIPE = ROOT / "recipes" / "pretrain_go.py"
#: The demo, smaller still: seconds instead of minutes.
SMALL = ["--n_layer", "2", "--n_embd", "64", "--block_size", "128", "--max_new_tokens", "12", "--logging_steps", "2"]


def launch(*arguments: str, config: str | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`accelerate launch recipes/pretrain_go.py …`, as typed."""
    command = [str(Path(sys.executable).with_name("accelerate")), "launch"]
    if config:
        command += ["--config_file", str(ACCELERATE / config)]
    command += [str(RECIPE), *SMALL, *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_there_are_configs():
    assert {path.stem for path in CONFIGS if path.parent.name == "pretrain_go"} == {
        "demo",
        "cpu",
        "50m",
        "124m",
        "355m",
        "rx6700xt",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_parses_and_makes_a_model(path):
    parsed = ForgeParser(CLASSES).parse(["--config", str(path)])
    # Token ids that were made elsewhere come with their tokenizer.
    vocabulary = parsed.get(TokenizerArguments).vocab_size or 50_304
    config = build_config(parsed.get(ModelArguments), embedding_rows(vocabulary))
    check_block_size(config, parsed.get(DataArguments).block_size)
    training = parsed.get(ForgeTrainingArguments)
    assert training.save_steps % training.eval_steps == 0
    assert not {"precision", "bf16", "fp16", "output_dir"} & set(parsed.changed), "precision and folder belong to the launch"


def test_the_124m_config_is_what_it_promises():
    parsed = ForgeParser(CLASSES).parse(["--config", str(ROOT / "recipes/configs/pretrain_go/124m.yaml")])
    training, model = parsed.get(ForgeTrainingArguments), parsed.get(ModelArguments)
    assert parsed.get(TokenizerArguments).vocab_size == 50_000
    assert parsed.get(DataArguments).block_size == 1024
    assert (model.resid_pdrop, model.embd_pdrop, model.attn_pdrop) == (0.1, 0.1, 0.1)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (2, 8)
    assert (training.per_device_eval_batch_size, training.dataloader_num_workers) == (4, 4)
    assert (training.learning_rate, training.warmup_steps, training.max_steps) == (5e-4, 2000, 195_000)
    assert (training.logging_steps, training.eval_steps, training.save_steps, training.save_total_limit) == (50, 500, 1000, 3)
    generation = parsed.get(GenerationArguments)
    assert (generation.temperature, generation.top_p, generation.max_new_tokens) == (0.8, 0.95, 200)
    assert generation.prompts[0] == "func readFile(path string) error {"


def test_the_sample_corpus_is_large_enough():
    files = list(SAMPLES.rglob("*.go"))
    assert sum(path.stat().st_size for path in files) > 60_000
    assert any(path.name.endswith("_test.go") for path in files)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """One launched demo run of eight steps; the working folder is where it was launched."""
    folder = tmp_path_factory.mktemp("launched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMFORGE_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "100")
        result = launch("--max_steps", "8", "--eval_steps", "4", "--save_steps", "4", cwd=folder)
    (folder / "stdout").write_text(result.stdout)
    (folder / "stderr").write_text(result.stderr)
    return folder


def test_a_launched_demo_leaves_a_whole_run_folder(whole):
    run = whole / "runs" / "pretrain_go-demo-001"
    assert json.loads((run / "exit.json").read_text())["exit_code"] == 0
    record = json.loads((run / "run.json").read_text())
    assert record["final"]["which"] == "best"
    assert record["config"]["model"]["n_embd"] == 64
    lines = metrics(run)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [0, 4, 8]
    assert evaluations[-1]["eval_bits_per_byte"] < evaluations[0]["eval_bits_per_byte"]
    assert {"eval_perplexity", "eval_accuracy", "time", "tokens"} <= set(evaluations[-1])
    speed = {"tokens_per_second", "useful_tokens_per_second", "eta_seconds", "device_memory", "device_utilization"}
    assert all(speed <= set(line) for line in lines if "loss" in line)
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    # Three prompts in three strategies at each evaluation, and once more from the final model.
    assert [sample["step"] for sample in samples] == [4] * 9 + [8] * 12
    assert len({sample["strategy"] for sample in samples[:9]}) == 3
    for name in ("loss", "perplexity", "learning_rate", "grad_norm"):
        with Image.open(run / "plots" / f"{name}.png") as picture:
            assert picture.size[0] > 600
    events = EventAccumulator(str(run / "logs")).Reload()
    assert {"train/loss", "train/tokens_per_second", "eval/loss", "eval/perplexity"} <= set(events.Tags()["scalars"])
    assert {"plots/loss", "plots/perplexity"} <= set(events.Tags()["images"])
    assert "samples/greedy" in events.Tags()["tensors"]
    assert json.loads((run / "eval.json").read_text())["split"] == "test"
    assert "loss=" in (run / "run.log").read_text()
    assert (run / "final" / "README.md").read_text().startswith("---")


def test_a_launched_demo_says_what_it_chose_and_how_it_went(whole):
    told = (whole / "stdout").read_text() + (whole / "stderr").read_text()
    for wanted in (
        "device",
        "parameters",
        "memory",
        "perplexity",
        "bits per byte",
        "func readFile",
        "loss.png",
        "--port 6006",
        "generate --model",
    ):
        assert wanted in told, wanted
    assert "Traceback" not in told
    assert "attention_mask" not in told


def test_the_final_model_loads_with_transformers_alone(whole):
    final = whole / "runs" / "pretrain_go-demo-001" / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    given = tokenizer("func readFile", return_tensors="pt")
    text = tokenizer.decode(model.generate(**given, max_new_tokens=5, do_sample=False)[0])
    assert text.startswith("func readFile")
    assert model.dtype == torch.float32


@pytest.mark.slow
def test_a_second_demo_is_a_new_run_that_tokenizes_nothing(whole, monkeypatch):
    monkeypatch.setenv("LLMFORGE_CACHE", str(whole / "cache"))
    result = launch("--max_steps", "1", "--prompts", "--eval_strategy", "no", "--save_strategy", "no", cwd=whole)
    assert "nothing is tokenized again" in result.stderr
    assert "tokenizing" not in result.stderr
    run = whole / "runs" / "pretrain_go-demo-002"
    assert json.loads((run / "run.json").read_text())["final"]["which"] == "last"
    assert not (whole / "runs" / "pretrain_go-demo-001" / "checkpoint-1").exists()


@pytest.mark.slow
def test_resume_goes_on_bit_for_bit(whole, monkeypatch):
    """From the run's own middle checkpoint, as if it had been killed after it: same weights, no line twice."""
    monkeypatch.setenv("LLMFORGE_CACHE", str(whole / "cache"))
    original = whole / "runs" / "pretrain_go-demo-001"
    run = whole / "resumed"
    shutil.copytree(original, run, ignore=shutil.ignore_patterns("checkpoint-8", "final", "exit.json"))
    launch(
        "--max_steps",
        "8",
        "--eval_steps",
        "4",
        "--save_steps",
        "4",
        "--output_dir",
        str(run),
        "--resume",
        config="cpu.yaml",
        cwd=whole,
    )
    ours, theirs = (AutoModelForCausalLM.from_pretrained(folder / "checkpoint-8") for folder in (run, original))
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), name
    kept = [(line["step"], line.get("loss"), line.get("eval_loss")) for line in metrics(run)]
    assert kept[:-1] == [(line["step"], line.get("loss"), line.get("eval_loss")) for line in metrics(original)][:-1]
    assert json.loads((run / "run.json").read_text())["run_id"] == json.loads((original / "run.json").read_text())["run_id"]


@pytest.mark.slow
def test_two_processes_are_the_same_training_as_one(whole, monkeypatch):
    """Without dropout: the same rows a step, the same loss within rounding, the same evaluation; a ragged epoch end within."""
    monkeypatch.setenv("LLMFORGE_CACHE", str(whole / "cache"))
    same = [
        "--resid_pdrop",
        "0",
        "--embd_pdrop",
        "0",
        "--attn_pdrop",
        "0",
        "--prompts",
        "--num_train_epochs",
        "2",
        "--max_steps",
        "-1",
    ]
    same += [
        "--eval_strategy",
        "epoch",
        "--save_strategy",
        "epoch",
        "--logging_steps",
        "1",
        "--warmup_steps",
        "2",
        "--block_size",
        "64",
    ]
    one, two = whole / "one", whole / "two"
    launch(*same, "--per_device_train_batch_size", "124", "--output_dir", str(one), config="cpu.yaml", cwd=whole)
    launch(
        *same,
        "--per_device_train_batch_size",
        "31",
        "--gradient_accumulation_steps",
        "2",
        "--output_dir",
        str(two),
        config="cpu_ddp.yaml",
        cwd=whole,
    )
    assert json.loads((two / "run.json").read_text())["processes"] == 2
    first, second = metrics(one), metrics(two)
    assert len(first) == len(second) > 6
    for ours, theirs in zip(first, second, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["tokens"] == theirs["tokens"]
        for key in ("loss", "eval_loss", "eval_bits_per_byte", "eval_accuracy"):
            assert (key in ours) == (key in theirs)
            if key in ours:
                assert ours[key] == pytest.approx(theirs[key], rel=2e-5), (ours["step"], key)
        assert ours.get("eval_tokens") == theirs.get("eval_tokens")
