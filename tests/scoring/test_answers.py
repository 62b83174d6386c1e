"""Answers by batches, and samples: what depends on nothing but model and prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_model

from llmforge.configs.generation import GenerationArguments
from llmforge.pretrained.loading import Pretrained
from llmforge.sampling.completions import continue_batch, continue_ids
from llmforge.scoring.answers import answer_prompts, told_settings
from llmforge.scoring.samples import SamplePrompt, sample_prompts, spread

GREEDY = GenerationArguments(max_new_tokens=12, do_sample=False, strategies=[])
BEAMS = GenerationArguments(max_new_tokens=8, num_beams=3, strategies=[])


@pytest.fixture
def found(preset, tokenizer):
    return Pretrained(tiny_model(preset, tokenizer).eval(), tokenizer, Path("model"))


def prompts_of(tokenizer, *texts: str) -> list[list[int]]:
    return [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]


TEXTS = (
    "return err",
    "",
    "func open(path string) error { return read(path) } for range data",
    "x",
    "package data write",
    "a b c d",
)


@pytest.mark.parametrize("args", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_no_batch_size_changes_an_answer(args, found, tokenizer):
    """Prompts of all lengths, so that most are padded; tiny weights far apart, so that rounding decides nothing."""
    prompts = prompts_of(tokenizer, *TEXTS)
    alone = [continue_ids(found.model, tokenizer, ids, args) for ids in prompts]
    assert len({one.text for one in alone}) > 2
    for size in (1, 2, 4, 8):
        assert answer_prompts(found, prompts, args, size) == alone


def test_an_answer_ends_at_its_own_stop_string_in_a_batch_too(found, tokenizer):
    prompts = prompts_of(tokenizer, *TEXTS)
    whole = [continue_ids(found.model, tokenizer, ids, GREEDY).text for ids in prompts]
    stop = whole[2][3:5]
    args = GenerationArguments(max_new_tokens=12, do_sample=False, stop_strings=[stop], strategies=[])
    made = continue_batch(found.model, tokenizer, prompts, args)
    assert [one.text for one in made] == [text.split(stop)[0] for text in whole]
    assert [one.ended == "stop string" for one in made] == [stop in text for text in whole]
    assert made == [continue_ids(found.model, tokenizer, ids, args) for ids in prompts]


def test_a_prompt_that_leaves_little_room_is_answered_as_far_as_it_goes(found, tokenizer):
    positions = found.model.config.max_position_embeddings
    long = [tokenizer.bos_token_id, *[5] * (positions - 4)]
    prompts = [long, *prompts_of(tokenizer, "return err", "x")]
    made = answer_prompts(found, prompts, GREEDY, 3)
    assert made[0].tokens <= 3
    assert made[1:] == [continue_ids(found.model, tokenizer, ids, GREEDY) for ids in prompts[1:]]


def test_what_is_sampled_has_a_seed_for_each_prompt(found, tokenizer):
    args = GenerationArguments(max_new_tokens=8, temperature=1.0, top_p=1.0, strategies=[])
    prompts = prompts_of(tokenizer, "return err", "return err", "x")
    made = answer_prompts(found, prompts, args, 8, seed=3)
    assert made[0].text != made[1].text
    assert made == [continue_ids(found.model, tokenizer, ids, args, 3 + number) for number, ids in enumerate(prompts)]


def test_beams_find_likelier_texts_than_greedy_does(found, tokenizer):
    import torch

    def score(start: list[int], text: str) -> float:
        ids = [*start, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            logits = found.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logits[place - 1, ids[place]]) for place in range(len(start), len(ids)))

    def made(start: list[int], beams: int) -> str:
        args = GenerationArguments(max_new_tokens=4, do_sample=False, num_beams=beams)
        return continue_ids(found.model, tokenizer, start, args).text

    gains = [score(start, made(start, 8)) - score(start, made(start, 1)) for start in prompts_of(tokenizer, *TEXTS)]
    assert max(gains) > 0.1


def test_each_strategy_completes_each_prompt(found, tokenizer):
    args = GenerationArguments(max_new_tokens=6, strategies=["greedy", "temperature=0.9", "top_p=0.5", "num_beams=2"])
    prompts = [
        SamplePrompt(ids, text, "really") for ids, text in zip(prompts_of(tokenizer, "x", "func"), ("x", "func"), strict=True)
    ]
    made = sample_prompts(found, prompts, args, seed=1)
    assert [(one.prompt, one.reference) for one in made] == [("x", "really"), ("func", "really")]
    own = args.by_strategy()
    for number, one in enumerate(made):
        assert list(one.completions) == args.strategies
        for name, text in one.completions.items():
            assert text == continue_ids(found.model, tokenizer, prompts[number].ids, own[name], 1 + number).text


def test_settings_are_told_as_far_as_they_matter():
    told = told_settings(GenerationArguments(num_beams=3))
    assert told == {"strategy": "num_beams=3", "max_new_tokens": 200, "num_beams": 3, "stop_strings": []}
    assert told_settings(GenerationArguments())["top_p"] == 0.95


def test_prompts_are_from_all_over_the_text():
    assert [spread(count, 3) for count in (0, 2, 3, 10)] == [[], [0, 1], [0, 1, 2], [0, 3, 6]]
