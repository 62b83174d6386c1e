"""What belongs to one run, and what holds for all the dataclasses of a command together."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from typing import get_type_hints

import pytest

from llmforge.configs.data import DataArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.run import PretrainConfig, RunArguments
from llmforge.configs.tokenizer import TokenizerArguments


@pytest.mark.parametrize("value", [0, -1])
def test_patience_that_would_stop_at_once(refused, value: int):
    refused(RunArguments, "early_stopping_patience", value, early_stopping_patience=value)


def test_threshold_is_not_negative(refused):
    refused(RunArguments, "early_stopping_threshold", -0.1, early_stopping_threshold=-0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_threshold_is_a_number(refused, value):
    refused(RunArguments, "early_stopping_threshold", value, early_stopping_patience=2, early_stopping_threshold=value)


@pytest.mark.parametrize(("name", "value"), [("early_stopping_metric", "accuracy"), ("early_stopping_threshold", 0.1)])
def test_what_has_no_effect_without_patience_is_refused(refused, name, value):
    refused(RunArguments, name, value, **{name: value})


def test_histograms_are_not_made_every_zero_steps(refused):
    refused(RunArguments, "histogram_steps", 0, histogram_steps=0)


@pytest.mark.parametrize(
    ("given", "patience"), [([], None), (["--early_stopping_patience"], 5), (["--early-stopping-patience=2"], 2)]
)
def test_patience_without_a_number_is_five(given, patience):
    from llmforge.parsing import ForgeParser

    assert ForgeParser([RunArguments]).parse(given).get(RunArguments).early_stopping_patience == patience


def commands() -> dict[str, list[type]]:
    """Verb → the dataclasses it parses together."""
    from llmforge.configs.training import ForgeTrainingArguments
    from llmforge.prepare import PrepareArguments
    from llmforge.tokenizer import TokenizerCommandArguments

    pretrain = [ModelArguments, TokenizerArguments, DataArguments, ForgeTrainingArguments, GenerationArguments, RunArguments]
    return {
        "pretrain": pretrain,
        "prepare": [DataArguments, TokenizerArguments, PrepareArguments],
        "tokenizer": [DataArguments, TokenizerArguments, TokenizerCommandArguments],
    }


def test_field_names_are_unique_in_each_command():
    for verb, classes in commands().items():
        names = Counter(field.name for cls in classes for field in dataclasses.fields(cls) if field.init)
        assert [name for name, count in names.items() if count > 1] == [], verb


def test_every_field_of_ours_says_what_it_is():
    from transformers import TrainingArguments

    stock = {field.name for field in dataclasses.fields(TrainingArguments)}
    for classes in commands().values():
        for cls in classes:
            for field in dataclasses.fields(cls):
                assert field.name in stock or field.metadata.get("help"), f"{cls.__name__}.{field.name}"


def test_configurations_are_flat():
    for classes in commands().values():
        for cls in classes:
            assert [name for name, hint in get_type_hints(cls).items() if dataclasses.is_dataclass(hint)] == []


def test_config_by_hand_has_its_own_parts(tmp_path):
    from llmforge.configs.training import ForgeTrainingArguments

    first = PretrainConfig(training=ForgeTrainingArguments(output_dir=str(tmp_path)))
    second = PretrainConfig(training=first.training)
    first.data.block_size = 8
    assert second.data.block_size == DataArguments().block_size


def test_only_the_training_module_is_heavy():
    """A command that trains nothing answers at once: importing transformers or torch costs seconds."""
    code = """
import importlib, json, pkgutil, sys
import llmforge.configs
names = [item.name for item in pkgutil.iter_modules(llmforge.configs.__path__) if item.name not in ("training", "tuning")]
for name in names:
    importlib.import_module(f"llmforge.configs.{name}")
print(json.dumps([names, [name for name in ("torch", "transformers", "numpy") if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, heavy = json.loads(done.stdout)
    assert {"data", "generation", "model", "run", "tokenizer"} <= set(names)
    assert heavy == []
