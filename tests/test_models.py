"""From a preset to a model."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers import TINY

from llmforge.configs.model import FIELDS, ModelArguments
from llmforge.errors import ConfigError
from llmforge.models import PRESETS, build_config, build_model, check_block_size, count_parameters, embedding_rows, get_preset


def tiny(preset: str, **changes) -> ModelArguments:
    return ModelArguments(preset=preset, **TINY[preset] | changes)


def config_of(preset: str, **changes):
    return build_config(ModelArguments(preset=preset, **changes), 512)


# The config.


@pytest.mark.parametrize("name", list(PRESETS))
def test_config_has_the_shape_of_the_preset(name: str):
    preset, config = PRESETS[name], config_of(name)
    assert isinstance(config, {"GPT-2": transformers.GPT2Config, "GPT-NeoX": transformers.GPTNeoXConfig}[preset.family])
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.max_position_embeddings)
    assert shape == (preset.layers, preset.width, preset.heads, preset.positions)
    assert config.vocab_size == 512
    assert config.tie_word_embeddings is (preset.family == "GPT-2")


def test_neox_is_four_times_as_wide_inside():
    assert config_of("neox-160m").intermediate_size == 4 * 768
    assert config_of("neox-160m", hidden_size=384, num_attention_heads=6).intermediate_size == 4 * 384
    assert config_of("neox-160m", hidden_size=384, num_attention_heads=6, intermediate_size=100).intermediate_size == 100


OVERRIDES = {
    "gpt2-10m": {
        "n_layer": 3,
        "n_head": 4,
        "n_embd": 64,
        "n_inner": 96,
        "n_positions": 128,
        "activation_function": "relu",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.2,
        "attn_pdrop": 0.3,
        "layer_norm_epsilon": 1e-3,
        "scale_attn_by_inverse_layer_idx": True,
        "initializer_range": 0.5,
        "tie_word_embeddings": False,
    },
    "neox-10m": {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
        "hidden_act": "relu",
        "hidden_dropout": 0.2,
        "attention_dropout": 0.3,
        "layer_norm_eps": 1e-3,
        "rotary_pct": 0.5,
        "rotary_emb_base": 5000.0,
        "use_parallel_residual": False,
        "attention_bias": False,
        "initializer_range": 0.5,
        "tie_word_embeddings": True,
    },
}


def test_every_override_is_tried_here():
    assert set(OVERRIDES["gpt2-10m"]) == {*FIELDS["GPT-2"], *FIELDS["both"]}
    assert set(OVERRIDES["neox-10m"]) == {*FIELDS["GPT-NeoX"], *FIELDS["both"]}


def test_each_override_reaches_the_config(preset: str):
    config = config_of(preset, **OVERRIDES[preset])
    for name, value in OVERRIDES[preset].items():
        if name == "rotary_pct":
            found = config.rope_parameters["partial_rotary_factor"]
        elif name == "rotary_emb_base":
            found = config.rope_parameters["rope_theta"]
        else:
            found = getattr(config, name)
        assert found == value, name


def test_rotary_overrides_reach_the_model():
    args = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2}
    [whole, half] = [
        transformers.AutoModelForCausalLM.from_config(config_of("neox-10m", rotary_pct=share, rotary_emb_base=100.0, **args))
        for share in (1.0, 0.5)
    ]
    frequencies = [model.gpt_neox.rotary_emb.inv_freq for model in (whole, half)]
    assert [len(found) for found in frequencies] == [16, 8]
    torch.testing.assert_close(frequencies[1], 100.0 ** -(torch.arange(0, 16, 2) / 16))


@pytest.mark.parametrize(
    ("preset", "name", "value"),
    [
        ("gpt2-124m", "hidden_size", 64),
        ("gpt2-124m", "attention_bias", False),
        ("neox-160m", "n_layer", 2),
        ("neox-160m", "n_inner", 4),
    ],
)
def test_field_of_the_other_architecture_is_refused(preset: str, name: str, value: int):
    with pytest.raises(ConfigError) as caught:
        config_of(preset, **{name: value})
    assert f"--{name}" in caught.value.problem
    assert f"--preset {preset}" in caught.value.problem
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("gpt2-10m", {"n_head": 7}),
        ("gpt2-10m", {"n_embd": 100}),
        ("neox-10m", {"hidden_size": 100}),
        ("neox-10m", {"num_attention_heads": 3}),
    ],
)
def test_heads_that_do_not_divide_the_width_are_refused(preset: str, changes: dict):
    [(name, value)] = changes.items()
    with pytest.raises(ConfigError, match=rf"--{name} {value}\b.*|.*--{name} {value}\b"):
        config_of(preset, **changes)


@pytest.mark.parametrize(("name", "nearest"), [("gpt2-125m", "gpt2-124m"), ("neox160m", "neox-160m"), ("gpt-10m", "gpt2-10m")])
def test_unknown_preset_names_the_nearest(name: str, nearest: str):
    with pytest.raises(ConfigError, match=rf"--preset {name}: no such preset\. Did you mean {nearest}\?"):
        get_preset(name)


def test_preset_like_none_lists_them_all():
    with pytest.raises(ConfigError) as caught:
        get_preset("xyzzy")
    assert [name for name in PRESETS if name not in caught.value.remedy] == []


@pytest.mark.parametrize("name", ["activation_function", "hidden_act"])
def test_unknown_activation_is_refused(name: str, tokenizer):
    preset = "gpt2-10m" if name == "activation_function" else "neox-10m"
    with pytest.raises(ConfigError, match=f"--{name} gelou"):
        build_model(tiny(preset, **{name: "gelou"}), tokenizer)


# Counting.


SHAPES = [
    ("gpt2-10m", {}),
    ("gpt2-10m", {"n_inner": 100}),
    ("gpt2-10m", {"tie_word_embeddings": False}),
    ("gpt2-10m", {"n_positions": 32, "n_layer": 1, "n_embd": 48, "n_head": 3}),
    ("neox-10m", {}),
    ("neox-10m", {"attention_bias": False}),
    ("neox-10m", {"tie_word_embeddings": True}),
    ("neox-10m", {"intermediate_size": 100, "use_parallel_residual": False}),
    ("neox-10m", {"hidden_size": 48, "num_attention_heads": 3, "rotary_pct": 1.0}),
]


@pytest.mark.parametrize(("preset", "changes"), [*SHAPES, *((name, {}) for name in PRESETS if "10m" not in name)])
def test_count_is_that_of_the_model(preset: str, changes: dict):
    config = config_of(preset, **changes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("size", "rows"), [(1, 64), (64, 64), (65, 128), (50257, 50304), (8192, 8192), (50000, 50048)])
def test_embedding_rows_are_a_multiple_of_64(size: int, rows: int):
    assert embedding_rows(size) == rows


# The model.


def test_model_is_of_the_architecture_in_fp32(preset: str, tokenizer):
    model = build_model(tiny(preset), tokenizer)
    assert type(model).__name__ == {"gpt2-10m": "GPT2LMHeadModel", "neox-10m": "GPTNeoXForCausalLM"}[preset]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.get_input_embeddings().weight.shape == (embedding_rows(len(tokenizer)), 32)
    assert model.config.vocab_size % 64 == 0


def test_special_ids_are_those_of_the_tokenizer(preset: str, tokenizer):
    model = build_model(tiny(preset), tokenizer)
    for config in (model.config, model.generation_config):
        ids = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
        assert ids == (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_same_seed_same_weights(preset: str, tokenizer):
    first, again, other = [build_model(tiny(preset), tokenizer, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_initial_weights_have_the_given_spread(preset: str, tokenizer):
    weight = build_model(tiny(preset, initializer_range=0.5), tokenizer).get_input_embeddings().weight
    assert weight.std().item() == pytest.approx(0.5, rel=0.05)


def test_padding_and_spare_rows_are_never_generated(preset: str, tokenizer):
    """Rows that stand for no token are made the likeliest by far; none of them comes out."""
    model = build_model(tiny(preset), tokenizer).eval()
    forbidden = {tokenizer.pad_token_id, *range(len(tokenizer), model.config.vocab_size)}
    assert len(forbidden) > 1
    head = model.get_output_embeddings()
    bias = torch.zeros(model.config.vocab_size)
    bias[list(forbidden)] = 1e4
    head.forward = lambda hidden: torch.nn.functional.linear(hidden, head.weight, bias)
    given = torch.tensor([[tokenizer.bos_token_id]])
    for options in ({"do_sample": False}, {"do_sample": True, "top_k": 0}):
        torch.manual_seed(0)
        produced = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=20, **options)
        assert set(produced[0].tolist()) & forbidden == set()


def test_tokenizer_that_pads_with_its_end_may_still_end(preset: str, tokenizer):
    from copy import deepcopy

    shared = deepcopy(tokenizer)
    shared.pad_token = shared.eos_token
    model = build_model(tiny(preset), shared)
    assert tokenizer.eos_token_id not in model.generation_config.suppress_tokens


def test_vocabulary_without_spare_rows_suppresses_only_the_padding(preset: str, tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmforge.models.ROW_MULTIPLE", 1)
    model = build_model(tiny(preset), tokenizer)
    assert model.generation_config.suppress_tokens == [tokenizer.pad_token_id]


@pytest.mark.parametrize(("preset", "name"), [("gpt2-10m", "n_positions"), ("neox-10m", "max_position_embeddings")])
def test_rows_longer_than_the_positions_are_refused(preset: str, name: str, tokenizer):
    args = tiny(preset, **{name: 64})
    build_model(args, tokenizer, block_size=64)
    with pytest.raises(ConfigError, match=rf"--block_size 65 .*64 positions.*--{name} 65"):
        build_model(args, tokenizer, block_size=65)


def test_unknown_length_of_rows_is_not_checked():
    check_block_size(config_of("gpt2-10m"), None)


def test_saved_model_reloads_the_same(preset: str, tokenizer, tmp_path):
    model = build_model(tiny(preset), tokenizer).eval()
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert again.generation_config.suppress_tokens == model.generation_config.suppress_tokens
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_token_by_hand(tokenizer, preset, tied):
    """Six for each weight of the blocks and of the head, tied or not, and 12 x layers x width x length for attention."""
    from llmforge.configs.model import ModelArguments
    from llmforge.models import build_model, flops_per_token

    d, rows, length = 32, 384, 64
    model = build_model(ModelArguments(preset=preset, tie_word_embeddings=tied, **TINY[preset]), tokenizer)
    assert model.config.vocab_size == rows
    blocks = 2 * (4 * d * d + 2 * d * 4 * d)
    assert flops_per_token(model, length) == 6 * (blocks + rows * d) + 12 * 2 * d * length


@pytest.mark.parametrize("preset", ["gpt2-10m", "neox-10m"])
def test_there_is_no_dropout_unless_it_is_asked_for(preset):
    names = [name for name in vars(build_config(ModelArguments(preset=preset), 512)) if name.endswith(("pdrop", "dropout"))]
    own = [name for name in names if name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "attention_dropout")]
    assert len(own) in (2, 3)
    for name in own:
        assert getattr(build_config(ModelArguments(preset=preset), 512), name) == 0
        assert getattr(build_config(ModelArguments(preset=preset, **{name: 0.3}), 512), name) == 0.3
