"""What a corpus and a device are good for, in words."""

from __future__ import annotations

import pytest

from llmforge.configs.model import ModelArguments
from llmforge.errors import ConfigError
from llmforge.models import build_config
from llmforge.planning.activations import Batch
from llmforge.planning.advice import corpus_line, fitting_preset, refuse_memory, refuse_tiny_corpus, what_to_give_up
from llmforge.planning.memory import Setup, estimate
from llmforge.planning.shapes import shape_from

SIZES = {"gpt2-10m": 10_257_408, "gpt2-50m": 51_500_032, "gpt2-124m": 124_439_808}


def test_a_corpus_that_a_model_memorises_is_told_so_and_what_fits_it():
    line = corpus_line(12_000_000, True, "gpt2-124m", SIZES["gpt2-124m"], SIZES)
    assert line.startswith("your corpus has 12M tokens")
    assert line.endswith("124M parameters will memorise it; gpt2-10m fits it")
    assert "about 12M" in corpus_line(12_000_000, False, "gpt2-124m", SIZES["gpt2-124m"], SIZES)


@pytest.mark.parametrize(
    ("tokens", "word"),
    [(5e6, "memorise it; no preset"), (2e7, "a few epochs"), (1e8, "up to four epochs"), (1e10, "plenty; gpt2-124m")],
)
def test_more_tokens_are_worth_more(tokens, word):
    assert word in corpus_line(int(tokens), True, "gpt2-10m", SIZES["gpt2-10m"], SIZES)


def test_the_preset_for_a_corpus():
    assert [fitting_preset(int(tokens), SIZES) for tokens in (1e6, 2e7, 6e7, 1e9)] == [None, "gpt2-10m", "gpt2-50m", "gpt2-124m"]


def test_a_corpus_too_small_for_any():
    refuse_tiny_corpus(1_100_000, "gpt2-10m", 10_257_408, 4.0)
    with pytest.raises(ConfigError, match=r"1M tokens, too few for any preset.*Give about 41.0 MB of text"):
        refuse_tiny_corpus(1_000_000, "gpt2-10m", 10_257_408, 4.0)
    with pytest.raises(ConfigError, match=r"too few for any preset.*by heart\. Let the dial choose\.$"):
        refuse_tiny_corpus(1_000_000, "gpt2-10m", 10_257_408, 4.0, "Let the dial choose.")


def setup(preset: str = "gpt2-1.5b", gpu: bool = True) -> Setup:
    return Setup(shape_from(build_config(ModelArguments(preset=preset), 50304)), Batch(8, 1024, half=gpu, gpu=gpu))


def test_what_is_given_up_is_the_least_that_helps():
    one = setup()
    need = estimate(one.with_rows(1, 8)).peak
    assert what_to_give_up(one, 8, need - 2**28) == "--activation_checkpointing"
    assert "adamw_8bit" in what_to_give_up(one, 8, 21 * 2**30)
    assert what_to_give_up(one, 8, 2**30) is None


def test_a_device_that_is_too_small_is_told_with_what_would_fit():
    error = refuse_memory("gpt2-1.5b", setup(), 8, 24 * 2**30, "RTX 3090", "neox-1.4b")
    assert error.exit_code == 2
    assert "largest preset that fits is neox-1.4b. gpt2-1.5b fits with --activation_checkpointing." in str(error)
    assert "llmforge finetune --lora" in str(refuse_memory("gpt2-1.5b", setup(), 8, 10 * 2**30, "Card", "gpt2-355m"))
    assert "No preset fits" in str(refuse_memory("gpt2-10m", setup("gpt2-10m", gpu=False), 8, 2**28, "Card", None))
