"""Which settings of a run are not at their default."""

from __future__ import annotations

import pytest

from llmforge.configs.data import DataArguments
from llmforge.configs.defaults import defaults_of_changed, settings_of
from llmforge.configs.finetune import FinetuneConfig
from llmforge.configs.model import ModelArguments
from llmforge.configs.run import PretrainConfig
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.configs.tuning import FinetuneTrainingArguments


def test_nothing_is_changed_where_nothing_was_given():
    config = PretrainConfig(ForgeTrainingArguments())
    assert {part: names for part, names in defaults_of_changed(config).items() if names} == {}


def test_what_was_given_is_there_with_its_default():
    training = ForgeTrainingArguments(
        output_dir="run", max_steps=7, weight_decay=0.1, lr_scheduler_type="cosine", lr_scheduler_kwargs={"num_cycles": 2}
    )
    config = PretrainConfig(training, data=DataArguments(corpus="notes", block_size=64), model=ModelArguments(preset="neox-10m"))
    found = {part: names for part, names in defaults_of_changed(config).items() if names}
    assert found["data"] == {"corpus": None, "block_size": 1024}
    assert found["model"] == {"preset": "gpt2-124m"}
    assert found["training"].pop("output_dir") is not None
    assert found["training"].pop("lr_scheduler_kwargs") == {"min_lr_rate": 0.1}
    assert found["training"].pop("lr_scheduler_type") == "cosine_with_min_lr"
    assert found["training"] == {"max_steps": -1}
    assert settings_of(config)["training"]["max_steps"] == 7


@pytest.mark.parametrize(("given", "told"), [(None, False), (0.003, True)])
def test_a_learning_rate_that_follows_from_the_width_is_no_change(given, told):
    config = PretrainConfig(ForgeTrainingArguments(learning_rate=given))
    config.training.choose_learning_rate(256)
    assert ("learning_rate" in defaults_of_changed(config)["training"]) is told


def test_a_fine_tuning_has_defaults_of_its_own():
    config = FinetuneConfig(FinetuneTrainingArguments(weight_decay=0.1))
    found = {part: names for part, names in defaults_of_changed(config).items() if names}
    assert found == {"training": {"weight_decay": 0.01}}
