"""How text is sampled."""

from __future__ import annotations

import re

import pytest

from llmforge.configs.generation import GenerationArguments


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_new_tokens", 0), ("temperature", 0.0), ("temperature", -1.0), ("top_p", 0.0), ("top_p", 1.1), ("top_p", -0.5)],
)
def test_settings_no_sampler_can_use(refused, name: str, value: float):
    refused(GenerationArguments, name, value, **{name: value})


def test_limits_are_allowed():
    args = GenerationArguments(max_new_tokens=1, temperature=5.0, top_p=1.0, do_sample=False)
    assert (args.max_new_tokens, args.top_p) == (1, 1.0)


def test_remedy_for_greedy_decoding_is_a_flag_there_is(refused):
    from llmforge.parsing import ForgeParser

    error = refused(GenerationArguments, "temperature", 0.0, temperature=0.0)
    [flag] = re.findall(r"--[\w-]+", error.remedy)
    assert ForgeParser([GenerationArguments]).parse([flag]).get(GenerationArguments).do_sample is False


def test_names_are_those_of_transformers():
    from transformers import GenerationConfig

    for name in ("max_new_tokens", "do_sample", "temperature", "top_p"):
        assert hasattr(GenerationConfig(), name)
