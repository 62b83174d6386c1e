"""Text from a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_model

from llmforge.configs.generation import GenerationArguments
from llmforge.configs.model import ModelArguments
from llmforge.errors import ConfigError
from llmforge.models import build_model
from llmforge.sampling.completions import complete, completions
from llmforge.sampling.turns import ChatTurns
from llmforge.tasks.files import BUILT_IN

GREEDY = GenerationArguments(max_new_tokens=12, do_sample=False)
SAMPLED = GenerationArguments(max_new_tokens=12, temperature=1.0, top_p=1.0)


@pytest.fixture
def model(tokenizer):
    return tiny_model("gpt2-10m", tokenizer)


@pytest.fixture
def either(preset, tokenizer):
    """A model of each architecture."""
    return tiny_model(preset, tokenizer)


def force(model, scores: dict[int, float], rest: float = 0.0):
    """Make `model` give every position these logits, whatever it reads."""
    head = model.get_output_embeddings()

    def hook(module, inputs, output):
        forced = torch.full_like(output, rest)
        for index, score in scores.items():
            forced[..., index] = score
        return forced

    head.register_forward_hook(hook)
    return model


def produced(monkeypatch, model):
    """The ids that `generate` is given and gives, call by call."""
    calls = []
    stock = model.generate

    def generate(given, **kwargs):
        result = stock(given, **kwargs)
        calls.append((given[0].tolist(), result[0, given.shape[1] :].tolist()))
        return result

    monkeypatch.setattr(model, "generate", generate)
    return calls


def test_completions_come_without_their_prompts(model, tokenizer):
    texts = complete(model, tokenizer, ["return err", "func"], GREEDY)
    assert len(texts) == 2
    assert all(isinstance(text, str) and text for text in texts)
    assert not texts[0].startswith("return err")


def test_a_prompt_starts_as_documents_do(model, tokenizer, monkeypatch):
    calls = produced(monkeypatch, model)
    complete(model, tokenizer, ["return", "", "a<|endoftext|>b", "<PR_TITLE>x"], GREEDY)
    prompts = [given for given, _ in calls]
    assert [given[0] for given in prompts] == [tokenizer.bos_token_id] * 4
    assert prompts[1] == [0]
    assert 0 not in prompts[2][1:]  # the text of a special token is plain text, as in training
    assert tokenizer.decode(prompts[2][1:]) == "a<|endoftext|>b"
    assert prompts[3][1] == 2  # the user's own token is matched


def test_greedy_is_deterministic_and_takes_the_likeliest(either, tokenizer, monkeypatch):
    calls = produced(monkeypatch, either)
    assert complete(either, tokenizer, ["for"], GREEDY, seed=1) == complete(either, tokenizer, ["for"], GREEDY, seed=2)
    given, new = calls[0]
    with torch.no_grad():
        logits = either(torch.tensor([given + new])).logits[0, len(given) - 1 : -1]
    never = either.generation_config.suppress_tokens
    logits[:, never] = -torch.inf
    assert logits.argmax(-1).tolist() == new


def test_the_same_seed_is_the_same_text_and_another_one_is_not(either, tokenizer):
    first, again, other = (complete(either, tokenizer, ["for"], SAMPLED, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_completion_does_not_depend_on_the_other_prompts(model, tokenizer):
    prompts = ["for", "return err if nil", "open"]
    together = complete(model, tokenizer, prompts, SAMPLED, seed=5)
    changed = complete(model, tokenizer, ["another one that is quite long", prompts[1], "x"], SAMPLED, seed=5)
    assert changed[1] == together[1]


def test_the_same_prompt_twice_is_sampled_anew(model, tokenizer):
    first, second = complete(model, tokenizer, ["for", "for"], SAMPLED)
    assert first != second


@pytest.mark.parametrize("do_sample", [True, False])
def test_the_random_state_of_the_caller_is_untouched(model, tokenizer, do_sample):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    complete(model, tokenizer, ["for"], GenerationArguments(max_new_tokens=4, do_sample=do_sample))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(model, tokenizer, training):
    model.train(training)
    complete(model, tokenizer, ["for"], GREEDY)
    assert model.training is training


def test_the_mode_is_restored_after_a_failure_too(model, tokenizer):
    model.train()
    with pytest.raises(ConfigError):
        complete(model, tokenizer, ["return " * 5000], GREEDY)
    assert model.training


def test_dropout_is_off(preset, tokenizer):
    model = tiny_model(preset, tokenizer, dropout=True).train()
    assert len({complete(model, tokenizer, ["for"], GREEDY, seed=seed)[0] for seed in range(3)}) == 1


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_padding_and_rows_without_a_token_are_never_produced(either, tokenizer, settings, monkeypatch):
    spare = range(len(tokenizer), either.config.vocab_size)
    assert len(spare) > 0
    force(either, dict.fromkeys([tokenizer.pad_token_id, *spare], 50.0))
    calls = produced(monkeypatch, either)
    complete(either, tokenizer, ["for"], settings)
    (_, new), *_ = calls
    assert len(new) == 12 or new[-1] == tokenizer.eos_token_id
    assert tokenizer.pad_token_id not in new
    assert max(new) < len(tokenizer)


def test_it_stops_at_the_end_of_text(either, tokenizer, monkeypatch):
    force(either, {tokenizer.eos_token_id: 50.0})
    calls = produced(monkeypatch, either)
    assert complete(either, tokenizer, ["for"], GREEDY) == [""]  # and the special token is not in the text
    assert calls[0][1] == [tokenizer.eos_token_id]


def test_without_an_end_of_text_it_is_as_long_as_asked(model, tokenizer, monkeypatch):
    force(model, {40: 50.0})
    calls = produced(monkeypatch, model)
    complete(model, tokenizer, ["for"], GREEDY)
    assert calls[0][1] == [40] * 12


@pytest.mark.parametrize(("top_p", "expected"), [(0.5, {40}), (0.75, {40, 50}), (1.0, {40, 50, 60})])
def test_only_the_likeliest_tokens_up_to_top_p_are_sampled(model, tokenizer, monkeypatch, top_p, expected):
    # Probabilities 0.6, 0.3 and 0.1.
    force(model, {40: 1.7918, 50: 1.0986, 60: 0.0}, rest=-50.0)
    calls = produced(monkeypatch, model)
    settings = GenerationArguments(max_new_tokens=40, temperature=1.0, top_p=top_p)
    complete(model, tokenizer, ["for"], settings)
    assert set(calls[0][1]) == expected


def test_all_tokens_have_their_chance(model, tokenizer, monkeypatch):
    """generate()'s own default would take the 50 likeliest only."""
    nearly_alike = {index: -1e-4 * index for index in range(model.config.vocab_size)}
    force(model, nearly_alike | {tokenizer.eos_token_id: -50.0})
    calls = produced(monkeypatch, model)
    complete(model, tokenizer, ["for"], GenerationArguments(max_new_tokens=150, temperature=1.0, top_p=1.0))
    assert len(set(calls[0][1])) > 90


def test_a_low_temperature_is_nearly_greedy(model, tokenizer):
    cold = GenerationArguments(max_new_tokens=12, temperature=1e-3, top_p=1.0)
    assert complete(model, tokenizer, ["for"], cold, seed=3) == complete(model, tokenizer, ["for"], GREEDY)


@pytest.fixture
def short_model(tokenizer):
    """Of 16 positions, and without an end: it always goes on."""
    args = ModelArguments(preset="gpt2-10m", n_layer=1, n_embd=16, n_head=2, n_positions=16)
    return force(build_model(args, tokenizer), {40: 50.0})


def words(tokenizer, count: int) -> str:
    """A prompt of `count` tokens."""
    text = "\t" * count
    ids = tokenizer("\t \t", add_special_tokens=False)["input_ids"]
    assert ids
    while len(tokenizer(text, add_special_tokens=False)["input_ids"]) < count:
        text += "Q\t"
    while len(tokenizer(text, add_special_tokens=False)["input_ids"]) > count:
        text = text[:-1]
    return text


@pytest.mark.parametrize(("tokens", "room"), [(0, 15), (10, 5), (14, 1)])
def test_the_model_s_positions_bound_the_text(short_model, tokenizer, monkeypatch, tokens, room):
    calls = produced(monkeypatch, short_model)
    complete(short_model, tokenizer, [words(tokenizer, tokens)], GenerationArguments(max_new_tokens=200, do_sample=False))
    given, new = calls[0]
    assert (len(given), len(new)) == (tokens + 1, room)


@pytest.mark.parametrize("tokens", [15, 40])
def test_a_prompt_without_room_for_one_token_is_refused(short_model, tokenizer, tokens):
    with pytest.raises(ConfigError, match=rf"{tokens + 1} tokens long; the model has 16 positions"):
        complete(short_model, tokenizer, [words(tokenizer, tokens)])


def test_no_prompts_no_completions(model, tokenizer):
    assert complete(model, tokenizer, []) == []


def test_settings_have_defaults(model, tokenizer, monkeypatch):
    seen = {}

    def generate(given, **kwargs):
        seen.update(kwargs)
        return given

    monkeypatch.setattr(model, "generate", generate)
    assert complete(model, tokenizer, ["for"]) == [""]
    defaults = GenerationArguments()
    assert SimpleNamespace(**seen).temperature == defaults.temperature
    assert SimpleNamespace(**seen).top_p == defaults.top_p
    assert SimpleNamespace(**seen).max_new_tokens == defaults.max_new_tokens


def test_stock_training_settings_are_not_changed(model, tokenizer):
    before = model.config.to_dict(), model.generation_config.to_dict()
    complete(model, tokenizer, ["for"], SAMPLED)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before


# --- stop strings and text as it is made -----------------------------------------------------------


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_completion_ends_before_a_stop_string(place, either, tokenizer):
    [whole] = completions(either, tokenizer, ["func"], GREEDY)
    assert whole.ended == "length"
    stop = whole.text[place : place + 3]
    [cut] = completions(either, tokenizer, ["func"], replace(GREEDY, stop_strings=["never comes", stop]))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.ended == "stop string"
    assert cut.tokens <= whole.tokens


def test_text_comes_as_it_is_made_and_is_the_text(either, tokenizer):
    pieces: list[str] = []
    [made] = completions(either, tokenizer, ["func"], SAMPLED, seed=3, on_text=pieces.append)
    assert "".join(pieces) == made.text == complete(either, tokenizer, ["func"], SAMPLED, seed=3)[0]
    assert len(pieces) > 3


def test_no_piece_shows_the_beginning_of_a_stop_string_or_half_a_character(tokenizer, monkeypatch):
    """The model says one sequence of ids, in which the stop string spans tokens and a character several."""
    says = tokenizer("go é👍 now STOP more", add_special_tokens=False)["input_ids"]
    model = tiny_model("gpt2-10m", tokenizer)

    def hook(module, inputs, output):
        place = hook.place
        hook.place += 1
        output = torch.full_like(output, -50.0)
        output[..., says[place]] = 50.0
        return output

    hook.place = 0
    model.get_output_embeddings().register_forward_hook(hook)
    pieces: list[str] = []
    settings = GenerationArguments(max_new_tokens=len(says), do_sample=False, stop_strings=["STOP"])
    [made] = completions(model, tokenizer, ["x"], settings, on_text=pieces.append)
    assert made.text == "".join(pieces) == "go é👍 now "
    assert made.ended == "stop string"
    assert not any("\ufffd" in piece or "S" in piece for piece in pieces)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ConfigError, match="stop at once"):
        GenerationArguments(stop_strings=[""])


def test_a_stop_that_is_a_special_token_ends_a_completion(model, tokenizer):
    """No text shows it, and so no text can be searched for it."""
    forced = force(model, {tokenizer.pad_token_id: 9.0})
    forced.generation_config.suppress_tokens = None
    [made] = completions(forced, tokenizer, ["func"], replace(GREEDY, stop_strings=[tokenizer.pad_token]))
    assert (made.text, made.tokens, made.ended) == ("", 1, "stop string")


def test_a_chat_keeps_answers_as_rows_have_them():
    turns = ChatTurns(BUILT_IN["chat"])
    assert not turns.take(" ")
    assert turns.take("hi")
    turns.answered(" ho \n")
    assert turns.messages[1] == {"role": "assistant", "content": "ho"}
    assert turns.transcript(Path("said.txt")) == "User: hi\n\nAssistant: ho\n"
