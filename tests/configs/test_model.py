"""Which model: presets and overrides."""

from __future__ import annotations

from dataclasses import fields

import pytest

from llmforge.configs.model import FIELDS, ModelArguments


@pytest.mark.parametrize("name", ["resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "attention_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5])
def test_dropout_is_a_share_below_one(refused, name: str, value: float):
    refused(ModelArguments, name, value, **{name: value})


@pytest.mark.parametrize("name", ["n_layer", "n_head", "n_embd", "n_inner", "n_positions", "num_hidden_layers", "hidden_size"])
@pytest.mark.parametrize("value", [0, -4])
def test_size_is_at_least_one(refused, name: str, value: int):
    refused(ModelArguments, name, value, **{name: value})


@pytest.mark.parametrize("name", [name for names in FIELDS.values() for name in names if name.endswith(("pdrop", "dropout"))])
def test_no_dropout_is_a_dropout(name: str):
    assert ModelArguments(**{name: 0.0}).overrides() == {name: 0.0}


def test_nothing_given_overrides_nothing():
    assert ModelArguments().overrides() == {}


def test_switching_off_is_an_override():
    assert ModelArguments(tie_word_embeddings=False, attention_bias=False).overrides() == {
        "attention_bias": False,
        "tie_word_embeddings": False,
    }


def test_overrides_are_told_apart_by_architecture():
    args = ModelArguments(n_layer=2, hidden_size=64, initializer_range=0.1)
    assert args.overrides("GPT-2") == {"n_layer": 2}
    assert args.overrides("GPT-NeoX") == {"hidden_size": 64}
    assert args.overrides("both") == {"initializer_range": 0.1}
    assert len(args.overrides()) == 3


def test_each_override_belongs_to_one_architecture_or_both():
    listed = [name for names in FIELDS.values() for name in names]
    assert len(set(listed)) == len(listed)
    assert {field.name for field in fields(ModelArguments)} - {"preset"} == set(listed)


@pytest.mark.parametrize("family", ["GPT-2", "GPT-NeoX"])
def test_overrides_are_named_as_the_config_names_them(family: str):
    from transformers import GPT2Config, GPTNeoXConfig

    config = {"GPT-2": GPT2Config, "GPT-NeoX": GPTNeoXConfig}[family]()
    # The rotary settings moved into one dictionary in transformers 5; their flags keep the old names.
    for name in {*FIELDS[family], *FIELDS["both"]} - {"rotary_pct", "rotary_emb_base"}:
        assert hasattr(config, name), name
