"""How text is sampled."""

from __future__ import annotations

import re

import pytest

from llmforge.configs.generation import GenerationArguments
from llmforge.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", -0.5),
        ("top_k", -1),
        ("num_beams", 0),
    ],
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

    for name in ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams"):
        assert hasattr(GenerationConfig(), name)


@pytest.mark.parametrize(
    "name",
    [
        "hot",
        "temperature",
        "temperature=x",
        "temperature=0",
        "top_p=2",
        "greedy,top_k=3",
        "top_k=1.5",
        "num_beams=1",
        "num_beams=4,top_p=0.9",
        "",
    ],
)
def test_a_strategy_no_sampler_knows(name: str):
    with pytest.raises(ConfigError, match=re.escape(name) if name else "strategies"):
        GenerationArguments(strategies=[name])


def test_a_strategy_sets_what_it_names_and_leaves_the_rest_neutral():
    args = GenerationArguments(
        prompts=["x"], max_new_tokens=7, temperature=0.3, top_p=0.1, strategies=["greedy", "top_k=5, temperature=0.5"]
    )
    greedy, sampled = args.by_strategy().values()
    assert (greedy.do_sample, greedy.max_new_tokens, greedy.prompts) == (False, 7, ["x"])
    assert (sampled.do_sample, sampled.temperature, sampled.top_p, sampled.top_k) == (True, 0.5, 1.0, 5)


def test_without_strategies_the_settings_themselves_are_one():
    [(name, args)] = GenerationArguments(temperature=0.3, strategies=[]).by_strategy().items()
    assert (name, args.temperature) == ("sampled", 0.3)
    assert list(GenerationArguments(do_sample=False, strategies=[]).by_strategy()) == ["greedy"]


def test_by_default_greedy_and_two_ways_of_sampling():
    assert [args.do_sample for args in GenerationArguments().by_strategy().values()] == [False, True, True]


def test_beams_search_and_do_not_sample():
    args = GenerationArguments(num_beams=4, strategies=[])
    assert (args.do_sample, args.samples, args.strategy) == (True, False, "num_beams=4")
    own = GenerationArguments(num_beams=4, strategies=["greedy", "num_beams=2", "top_p=0.9"]).by_strategy()
    assert {name: (one.num_beams, one.samples) for name, one in own.items()} == {
        "greedy": (1, False),
        "num_beams=2": (2, False),
        "top_p=0.9": (1, True),
    }
    assert not own["num_beams=2"].do_sample
