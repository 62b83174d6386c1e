"""The list of presets."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
import transformers
from helpers import ROOT

from llmforge.cli import main
from llmforge.configs.model import ModelArguments
from llmforge.models import PRESETS, build_config
from llmforge.plan import list_presets, preset_parameters
from llmforge.runtime.devices import format_bytes

#: As published: GPT-2 by OpenAI, counted by Hugging Face; GPT-NeoX as Pythia (Biderman et al., 2023, table 1).
PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "neox-160m": 162_322_944,
    "neox-410m": 405_334_016,
    "neox-1b": 1_011_781_632,
    "neox-1.4b": 1_414_647_808,
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_models_have_their_published_size(name: str):
    assert preset_parameters(PRESETS[name]) == PUBLISHED[name]


@pytest.mark.parametrize("name", list(PRESETS))
def test_name_is_the_size(name: str):
    number, unit = re.fullmatch(r"(?:gpt2|neox)-([\d.]+)([mb])", name).groups()
    assert preset_parameters(PRESETS[name]) == pytest.approx(float(number) * {"m": 1e6, "b": 1e9}[unit], rel=0.06)


@pytest.mark.parametrize("name", list(PRESETS))
def test_size_is_that_of_the_model(name: str):
    """Built without memory behind it, at the reference vocabulary."""
    preset = PRESETS[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(build_config(ModelArguments(preset=name), preset.vocab_size))
    assert model.num_parameters() == sum(p.numel() for p in model.parameters()) == preset_parameters(preset)


@pytest.mark.parametrize("name", list(PRESETS))
def test_name_says_the_family(name: str):
    preset = PRESETS[name]
    assert name.startswith({"GPT-2": "gpt2-", "GPT-NeoX": "neox-"}[preset.family])
    assert preset.width % preset.heads == 0


def test_listed_once_each():
    rows = list_presets()
    assert [row["preset"] for row in rows] == list(PRESETS)
    keys = {"preset", "family", "layers", "width", "heads", "positions", "vocab_size", "parameters"}
    assert all(set(row) == keys for row in rows)


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "--list_presets", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {"presets": list_presets()}


def test_table_shows_every_preset_and_its_size(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["plan", "--list-presets"]) == 0
    out = capsys.readouterr().out
    for row in list_presets():
        assert re.search(rf"{re.escape(row['preset'])} .*{row['parameters']:,}", out), row["preset"]


def test_listing_presets_imports_nothing_heavy():
    code = "import sys; from llmforge.plan import main; main(['--list_presets']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=False).returncode == 0


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["plan", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_bare_plan_shows_every_preset_on_a_card(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["plan", "--device", "L4", "--device_memory", "12GiB"]) == 0
    out = capsys.readouterr().out
    assert [name for name in PRESETS if name not in out] == []
    assert re.search(r"gpt2-1.5b .* none fits", out)
    assert not re.search(r"gpt2-124m .* none fits", out)
    assert "name one with --preset" in out


def test_a_plan_of_a_preset_says_everything(capsys, corpus, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    words = ["--preset", "gpt2-124m", "--device", "RTX 3090", "--corpus", str(corpus), "--max_steps", "2000", "--deadline", "2m"]
    assert main(["plan", *words, "--remote", "gs://bucket/runs"]) == 0
    out = capsys.readouterr().out
    for word in (
        "weights",
        "gradients",
        "optimizer state, muon",
        "activations, 8 × 1,024",
        "logits a chunk",
        "allowance",
        "peak",
    ):
        assert word in out
    for word in ("tokens a second", "an assumption", "2,000 steps", "steps fit into 2 min", "give --max_steps", "disk", "upload"):
        assert word in out
    assert "parameters will memorise it" in out
    plans = told(capsys, *words)["plans"]
    assert len(plans) == 1
    assert plans[0]["memory"]["peak"] == max(plans[0]["memory"]["moments"].values())
    assert plans[0]["upload_bytes"] is None


def test_the_plan_is_that_of_the_yaml_and_the_flags(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("preset: neox-10m\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 4\nblock_size: 256\n")
    words = ["--config", str(path), "--device", "T4"]
    [plan] = told(capsys, *words)["plans"]
    assert (plan["preset"], plan["micro_batch"], plan["accumulation"], plan["block_size"]) == ("neox-10m", 4, 4, 256)
    assert plan["parameters"] == list_presets()[list(PRESETS).index("neox-10m")]["parameters"]
    assert told(capsys, *words)["precision"] == "fp16"
    [lighter] = told(capsys, *words, "--activation_checkpointing", "--optim", "adamw_8bit")["plans"]
    assert lighter["memory"]["peak"] < plan["memory"]["peak"]
    assert lighter["memory"]["optimizer"] < plan["memory"]["optimizer"]


def test_processes_take_the_rows_of_a_launch_in_two_ways(capsys):
    words = ["--preset", "gpt2-355m", "--device", "L4", "--num_processes", "4"]
    ddp, fsdp = told(capsys, *words, "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "3")["plans"]
    assert (ddp["micro_batch"], ddp["accumulation"], ddp["effective_batch_size"]) == (2, 3, 24)
    ddp, fsdp = told(capsys, *words, "--effective_batch_size", "8")["plans"]
    assert (ddp["micro_batch"], ddp["accumulation"], ddp["effective_batch_size"]) == (2, 1, 8)
    assert (ddp["optim"], fsdp["optim"]) == ("muon", "adamw_torch_fused")
    assert fsdp["memory"]["peak"] < ddp["memory"]["peak"]


def test_the_rest_is_solved_for(capsys, tmp_path):
    """The corpus chooses the preset, the memory the micro-batch, the deadline the steps."""
    (tmp_path / "book.txt").write_text("word and more of it\n\n" * 3_000_000)
    words = ["--corpus", str(tmp_path / "book.txt"), "--device", "L4", "--effective_batch_size", "64"]
    answer = told(capsys, *words, "--deadline", "1h", "--device_memory", "3GiB")
    [plan] = answer["plans"]
    assert plan["preset"] in ("gpt2-10m", "neox-10m")
    assert answer["corpus"]["counted"] is False
    assert plan["micro_batch"] == plan["largest_micro_batch"]
    assert 64 % plan["micro_batch"] == 0
    assert plan["deadline_steps"] > 0
    [larger] = told(capsys, *words, "--deadline", "1h", "--device_memory", "24GiB")["plans"]
    assert larger["micro_batch"] > plan["micro_batch"]


def test_what_cannot_be_planned_is_one_line_with_a_remedy(capsys, corpus):
    assert "--activation_checkpointing" in refused(capsys, "--preset", "gpt2-1.5b", "--device", "RTX 3090")
    assert "No preset fits" in refused(capsys, "--device", "L4", "--device_memory", "500MiB")
    assert "too few for any preset" in refused(capsys, "--corpus", str(corpus), "--device", "L4")
    words = ["--preset", "gpt2-124m", "--num_processes", "3", "--effective_batch_size", "8"]
    assert "--effective_batch_size 8 cannot be shared evenly by --num_processes 3. Give" in refused(capsys, *words)
    assert "'lots' is no size" in refused(capsys, "--device_memory", "lots")
    assert "'soon' is no time" in refused(capsys, "--deadline", "soon")
    assert "Did you mean gpt2-124m" in refused(capsys, "--preset", "gpt2-125m")
    assert "no native bf16" in refused(capsys, "--preset", "gpt2-124m", "--device", "T4", "--precision", "bf16")
    assert main(["plan", "--corpus", "nowhere"]) == 3


def test_a_dry_run_and_a_plan_count_alike(capsys, corpus, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["--corpus", str(corpus), "--vocab_size", "400", "--block_size", "64", "--output_dir", "rows"]
    assert main(["prepare", *words]) == 0
    words = ["--preset", "gpt2-10m", "--dataset_dir", "rows", "--use_cpu"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["pretrain", *words, "--dry_run"])
    dry = re.search(r"about (\S+ \S+) at the peak", capsys.readouterr().out)[1]
    [plan] = told(capsys, *words)["plans"]
    assert format_bytes(plan["memory"]["peak"]) == dry


@pytest.mark.slow
def test_a_probe_measures(capsys):
    words = [
        "--preset",
        "gpt2-10m",
        "--n_layer",
        "1",
        "--n_embd",
        "32",
        "--n_head",
        "2",
        "--vocab_size",
        "400",
        "--block_size",
        "64",
    ]
    [plan] = told(capsys, *words, "--probe", "--use_cpu")["plans"]
    assert plan["speed"]["measured"]
    assert plan["speed"]["tokens_per_second"] > 0
