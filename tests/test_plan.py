"""The list of presets."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers

from llmforge.cli import main
from llmforge.configs.model import ModelArguments
from llmforge.models import PRESETS, build_config
from llmforge.plan import list_presets, preset_parameters

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


def test_bare_plan_says_what_it_needs(capsys: pytest.CaptureFixture[str]):
    assert main(["plan"]) == 2
    assert "--list_presets" in capsys.readouterr().err
