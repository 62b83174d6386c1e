"""Mode 15: tokenizer, rows and model that do not belong together are found before the first step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datasets import DatasetDict
from helpers import TINY, training_args

from llmforge import build_model, build_trainer
from llmforge.configs.data import DataArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data import prepared as prepared_module
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import load_prepared
from llmforge.errors import DataError


@pytest.fixture
def prepared(corpus, tmp_path):
    """A prepared dataset of the test's own."""
    made = prepare_dataset(DataArguments(corpus=str(corpus), block_size=64), TokenizerArguments(vocab_size=400))
    shutil.copytree(made.path, tmp_path / "data")
    return load_prepared(tmp_path / "data")


def begin(data, preset: str = "gpt2-10m", tokenizer=None):
    model = build_model(ModelArguments(preset=preset, **TINY[preset]), tokenizer or data.tokenizer, data.block_size)
    return build_trainer(model, data, training_args(Path("run"), max_steps=1))


def test_mode_15_a_model_of_a_smaller_vocabulary_is_refused(prepared, text_tokenizer, preset):
    from llmforge.tokenization import load_pretrained, train_tokenizer

    train_tokenizer(["a"] * 9, TokenizerArguments(vocab_size=300)).save(Path("small"))
    with pytest.raises(DataError, match=r"tokenizer has \d+ entries, the model \d+ rows"):
        begin(prepared, preset, load_pretrained(Path("small")))


def test_mode_15_another_tokenizer_in_the_dataset_is_refused(prepared, text_tokenizer):
    """Of the same size: the ids would mean other text, and nothing else tells."""
    text_tokenizer.save(prepared.path / "tokenizer")
    with pytest.raises(DataError, match="is not the tokenizer that its rows were made with"):
        begin(load_prepared(prepared.path))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_mode_15_ids_that_stand_for_no_token_are_refused(split, prepared, monkeypatch):
    """The model has rows for some of them, up to a multiple of 64."""
    monkeypatch.setattr(prepared_module, "_MOST_IDS", 64 * 64 * 3)  # three rows at a time
    entries = len(prepared.tokenizer)
    splits = dict(prepared.dataset.items())
    last = len(splits[split]) - 1

    def spoil(row, index):
        return row if index < last else row | {"input_ids": [entries, *row["input_ids"][1:]]}

    splits[split] = splits[split].map(spoil, with_indices=True)
    DatasetDict(splits).save_to_disk("spoilt")
    shutil.rmtree(prepared.path / "dataset")
    Path("spoilt").rename(prepared.path / "dataset")
    with pytest.raises(
        DataError, match=rf"split {split} has the id {entries} in rows .*{last}; its tokenizer has {entries} entries"
    ):
        begin(load_prepared(prepared.path))
