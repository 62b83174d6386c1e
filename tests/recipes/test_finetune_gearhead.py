"""The sample scenarios, the recipe that fine-tunes on them and the one that asks, as launched but for the process."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from helpers import ROOT, tiny_model

from llmforge import convert
from llmforge.configs.finetune import FinetuneArguments
from llmforge.configs.lora import LoraArguments
from llmforge.configs.tuning import FinetuneTrainingArguments
from llmforge.parsing import ForgeParser
from llmforge.runtime.commands import run_command

SAMPLE = ROOT / "recipes" / "samples" / "gearhead_scenarios"
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("finetune_*/*.yaml"))


def converted(capsys) -> dict:
    assert run_command(convert.main, [str(SAMPLE), "rows", "--task", str(SAMPLE / "task.yaml"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_there_are_two_hundred_scenarios_and_what_is_held_out_is_like_none_that_is_learnt(capsys):
    told = converted(capsys)
    assert list(told["dropped"]) == ["near-duplicate of a held-out document"]
    assert told["read"] == sum(told["splits"].values()) + told["dropped"]["near-duplicate of a held-out document"]["count"] > 200
    assert told["splits"]["train"] > 120
    assert told["splits"]["test"] >= 20
    assert {path.stem for path in SAMPLE.glob("*.txt")} == {"excavators", "loaders", "lifts"}


def test_configs_are_parsed():
    assert [path.stem for path in CONFIGS] == ["demo"]
    for path in CONFIGS:
        parser = ForgeParser([FinetuneArguments, LoraArguments, FinetuneTrainingArguments])
        parser.parse(["--config", str(path), "--output_dir", "run"])


def test_the_recipe_trains_and_the_model_is_asked(capsys, tokenizer):
    converted(capsys)
    tiny_model("gpt2-10m", tokenizer).save_pretrained("base")
    tokenizer.save_pretrained("base")
    recipe = runpy.run_path(str(ROOT / "recipes" / "finetune_gearhead.py"), run_name="recipe")["main"]
    words = "--from_pretrained base --train_file rows --output_dir run --max_steps 8 --logging_steps 1 --prompts --report_to none"
    result = recipe([*words.split(), "--disable_tqdm", "--per_device_train_batch_size", "4"])
    assert result.test["tokens"] > 100
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    capsys.readouterr()
    ask = runpy.run_path(str(ROOT / "recipes" / "infer_gearhead.py"), run_name="recipe")["main"]
    ask(["--model", "run", "--equipment", "Caterpillar 320D", "--symptom", "Engine loses power", "--error-codes", "P0087", "P1"])
    said = capsys.readouterr().out
    assert said.startswith("Equipment: Caterpillar 320D\nSymptom: Engine loses power\nError codes: P0087, P1\nSystem:")
