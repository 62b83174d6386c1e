"""samples.jsonl."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_model

from llmforge.callbacks.samples import Samples
from llmforge.configs.generation import GenerationArguments
from llmforge.sampling.completions import complete

SETTINGS = GenerationArguments(prompts=["return", "<PR_TITLE>func"], max_new_tokens=8, strategies=[])


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model("gpt2-10m", tokenizer)


@pytest.fixture
def evaluate(tokenizer, model, arguments, state, control, tmp_path):
    callback = Samples(tokenizer, SETTINGS, tmp_path)

    def call(step: int = 20, **changes):
        state.global_step = step
        callback.on_evaluate(arguments, state, control, **{"model": model} | changes)

    call.callback = callback
    return call


def lines(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").split("\n") if line]


def test_a_line_a_prompt_with_step_and_settings(evaluate, model, tokenizer, tmp_path, arguments):
    evaluate(20)
    first, second = lines(tmp_path)
    assert (first["step"], first["prompt"], second["prompt"]) == (20, "return", "<PR_TITLE>func")
    assert first["settings"] == {"max_new_tokens": 8, "do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}
    assert first["strategy"] == "sampled"
    expected = complete(model, tokenizer, SETTINGS.prompts, SETTINGS, seed=arguments.seed)
    assert [first["text"], second["text"]] == expected


def test_evaluations_are_appended(evaluate, tmp_path):
    evaluate(20)
    evaluate(40)
    assert [line["step"] for line in lines(tmp_path)] == [20, 20, 40, 40]


def test_the_same_weights_and_seed_write_the_same(evaluate, tmp_path, arguments):
    evaluate(20)
    evaluate(20)
    arguments.seed = 8
    evaluate(20)
    texts = [line["text"] for line in lines(tmp_path)]
    assert texts[:2] == texts[2:4]
    assert texts[:2] != texts[4:]


def test_training_s_random_state_and_mode_are_untouched(evaluate, model):
    model.train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    evaluate(20)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_is_written_before_the_first_step(evaluate, tmp_path):
    evaluate(0)
    assert not (tmp_path / "samples.jsonl").exists()


def test_nothing_is_sampled_from_a_model_that_broke(evaluate, tmp_path):
    evaluate(20, metrics={"eval_loss": float("nan")})
    assert not (tmp_path / "samples.jsonl").exists()
    evaluate(20, metrics={"eval_loss": 2.0})
    assert lines(tmp_path)


def test_nothing_is_written_without_a_model(evaluate, tmp_path):
    evaluate(20, model=None)
    assert not (tmp_path / "samples.jsonl").exists()


def test_nothing_is_written_without_prompts(tokenizer, model, arguments, state, control, tmp_path):
    Samples(tokenizer, GenerationArguments(), tmp_path).on_evaluate(arguments, state, control, model=model)
    assert not (tmp_path / "samples.jsonl").exists()


def test_other_processes_write_nothing(evaluate, another_process, tmp_path, arguments, control):
    (tmp_path / "samples.jsonl").write_text('{"step": 500}\n')
    evaluate(20)
    evaluate.callback.on_train_begin(arguments, another_process, control)
    assert lines(tmp_path) == [{"step": 500}]


def test_a_resumed_run_drops_the_samples_past_its_step(evaluate, tmp_path, arguments, state, control):
    for step in (10, 20, 30):
        evaluate(step)
    state.global_step = 20
    evaluate.callback.on_train_begin(arguments, state, control)
    assert [line["step"] for line in lines(tmp_path)] == [10, 10, 20, 20]


def test_a_text_with_a_line_separator_survives_a_resume(evaluate, tmp_path, arguments, state, control, monkeypatch):
    monkeypatch.setattr("llmforge.callbacks.samples.complete", lambda *args, **kwargs: ["a\u2028b", "c\x85d"])
    evaluate(10)
    evaluate.callback.on_train_begin(arguments, state, control)
    assert [line["text"] for line in lines(tmp_path)] == ["a\u2028b", "c\x85d"]


def test_by_default_the_file_is_in_the_output_folder(tokenizer, model, arguments, state, control, tmp_path):
    (tmp_path / "out").mkdir()
    callback = Samples(tokenizer, SETTINGS)
    callback.on_train_begin(arguments, state, control)
    callback.on_evaluate(arguments, state, control, model=model)
    assert len(lines(tmp_path / "out")) == 2


def test_every_prompt_in_every_strategy(tokenizer, model, arguments, state, control, tmp_path):
    settings = GenerationArguments(prompts=["return", "func"], max_new_tokens=8)
    Samples(tokenizer, settings, tmp_path).on_evaluate(arguments, state, control, model=model)
    written = lines(tmp_path)
    assert [line["strategy"] for line in written] == [name for name in settings.strategies for _ in range(2)]
    assert [line["prompt"] for line in written] == ["return", "func"] * 3
    assert written[0]["settings"] == {"max_new_tokens": 8, "do_sample": False}
    assert written[4]["settings"] == {"max_new_tokens": 8, "do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 40}
    greedy = GenerationArguments(max_new_tokens=8, do_sample=False)
    assert [line["text"] for line in written[:2]] == complete(model, tokenizer, ["return", "func"], greedy)


def test_of_beams_no_sampling_is_recorded(tokenizer, model, arguments, state, control, tmp_path):
    for strategies in (["num_beams=2"], []):
        settings = GenerationArguments(prompts=["func"], max_new_tokens=3, num_beams=2, strategies=strategies)
        Samples(tokenizer, settings, tmp_path).on_evaluate(arguments, state, control, model=model)
    assert [line["settings"] for line in lines(tmp_path)] == [{"max_new_tokens": 3, "do_sample": False, "num_beams": 2}] * 2


def test_a_run_that_goes_on_drops_the_samples_of_its_end(evaluate, tmp_path, arguments, state, control):
    evaluate(20)
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write(json.dumps({"step": 20, "final": True, "text": "x"}) + "\n")
    evaluate.callback.on_train_begin(arguments, state, control)
    assert [line.get("final") for line in lines(tmp_path)] == [None, None]


def test_the_trackers_get_prompt_and_text_by_strategy(tokenizer, model, arguments, state, control, tmp_path):
    seen = []
    callback = Samples(tokenizer, GenerationArguments(prompts=["return"], max_new_tokens=4, strategies=["greedy"]), tmp_path)
    callback.attach(SimpleNamespace(trackers=SimpleNamespace(text=lambda *call: seen.append(call))))
    callback.on_evaluate(arguments, state, control, model=model)
    [(name, text, step)] = seen
    assert (name, step) == ("samples/greedy", 20)
    assert text == "return▶" + lines(tmp_path)[0]["text"]


def test_a_file_that_cannot_be_written_ends_nothing(tokenizer, model, arguments, state, control, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    Samples(tokenizer, SETTINGS, tmp_path / "missing").on_evaluate(arguments, state, control, model=model)
    assert "could not be written" in caplog.text
