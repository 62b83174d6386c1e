"""llmforge evaluate on the rows of a task, and on two models: figures against counts made here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from llmforge import cli, evaluation
from llmforge.configs.evaluation import EvaluationArguments
from llmforge.configs.generation import GenerationArguments
from llmforge.evaluation import evaluate_model
from llmforge.sampling.completions import complete
from llmforge.scoring.result import answers_path

TASK = """name: fault
fields:
  machine: {required: true}
  cause: {required: true}
  step: {required: true}
prompt: |-
  Machine: {{ machine }}
  Cause:
completion: " {{ cause }}\\nStep: {{ step }}"
stop: ["\\nMachine:"]
generation: {max_new_tokens: 8}
"""
ROWS = [
    {"machine": "open", "cause": "return err", "step": "close data"},
    {"machine": "read 漢字", "cause": "if path is nil", "step": "for range data, write and read again, and so on to the end"},
    {"machine": "x", "cause": "a", "step": "b"},
    {"machine": "func error", "cause": "string int", "step": "return"},
    {"machine": "package data", "cause": "write nil", "step": "open"},
]


@pytest.fixture
def rows(tmp_path) -> Path:
    """A folder as `llmforge convert` leaves it."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "test.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return folder


def counted(model, tokenizer, rows: list[dict] = ROWS) -> dict[str, float]:
    """Sums over what is to be answered, from the logits of each row fed by itself; none of the library's own code."""
    nll = tokens = size = byte_nll = correct = 0.0
    for row in rows:
        prompt = tokenizer(f"Machine: {row['machine']}\nCause:", add_special_tokens=False)["input_ids"]
        answer = tokenizer(f" {row['cause']}\nStep: {row['step']}", add_special_tokens=False)["input_ids"]
        ids = [tokenizer.bos_token_id, *prompt, *answer, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = type(model).forward(model, torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        for place in range(len(prompt), len(ids) - 1):
            goal = ids[place + 1]
            bytes_of = 0 if goal == tokenizer.eos_token_id else len(tokenizer.convert_ids_to_tokens(goal))
            nll, tokens, size = nll - float(logits[place, goal]), tokens + 1, size + bytes_of
            byte_nll -= float(logits[place, goal]) if bytes_of else 0
            correct += int(logits[place].argmax()) == goal
    return {
        "loss": nll / tokens,
        "bits_per_byte": byte_nll / math.log(2) / size,
        "accuracy": correct / tokens,
        "tokens": tokens,
        "bytes": size,
    }


def evaluated(folder: Path, rows: Path, **changes):
    return evaluate_model(EvaluationArguments(**{"model": str(folder), "test_file": str(rows), "samples": 0} | changes))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_loss_is_that_of_the_answers_alone(preset, batch, saved, rows, tokenizer):
    folder, model = saved(preset)
    found = evaluated(folder, rows, per_device_eval_batch_size=batch)
    for name, value in counted(model, tokenizer).items():
        assert getattr(found.total, name) == pytest.approx(value, rel=1e-5), name
    assert found.total.bytes == sum(len(f" {row['cause']}\nStep: {row['step']}".encode()) for row in ROWS)
    assert (found.total.documents, found.settings["task"]) == (len(ROWS), "fault")
    alone = evaluated(folder, rows, per_device_eval_batch_size=1)
    assert found.lines == alone.lines
    assert found.answers == alone.answers


def test_answers_are_what_generate_answers_and_are_written(saved, rows, tokenizer, capsys):
    folder, model = saved()
    assert cli.main(["evaluate", "--model", str(folder), "--test_file", str(rows), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert told["answers_output"] == str(folder / "answers.jsonl")
    prompts = [f"Machine: {row['machine']}\nCause:" for row in ROWS]
    assert [line["prompt"] for line in lines] == prompts
    settings = GenerationArguments(max_new_tokens=8, do_sample=False, stop_strings=["\nMachine:"])
    assert [line["answer"] for line in lines] == complete(model, tokenizer, prompts, settings)
    assert [line["where"] for line in lines] == [f"test.jsonl:{number}" for number in range(1, 6)]
    assert lines[0]["reference"] == " return err\nStep: close data"
    written = json.loads((folder / "eval.json").read_text())
    assert written["answers"] == told["answers"]
    assert (told["answers"]["rows"], told["answers"]["exact_match"]) == (5, 0)
    assert set(told["answers"]["fields"]) == {"cause", "step"}
    assert told["answers"]["settings"]["max_new_tokens"] == 8
    assert [list(sample["completions"]) for sample in told["samples"]] == [
        ["greedy", "temperature=0.8", "top_p=0.9", "num_beams=4"]
    ] * 2
    assert told["samples"][0]["completions"]["greedy"] == lines[0]["answer"]


def test_a_model_that_answers_right_is_said_to(saved, rows, monkeypatch, capsys):
    from llmforge.sampling.completions import Completion
    from llmforge.scoring import on_rows

    folder, _ = saved()
    right = [Completion(f" {row['cause']}\nStep: {row['step']}", 3, "end of text") for row in ROWS]
    right[1] = Completion(" if path is nil\nStep: no", 3, "length")
    monkeypatch.setattr(on_rows, "answer_prompts", lambda *_: right)
    assert cli.main(["evaluate", "--model", str(folder), "--test_file", str(rows), "--samples", "0"]) == 0
    shown = capsys.readouterr().out
    for words in ("5 answers, greedy", "exact match", "80.0%", "field accuracy", "90.0%", "end of text: 4, length: 1"):
        assert words in shown
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["exact_match"] for line in lines] == [True, False, True, True, True]


@pytest.mark.slow
def test_two_processes_answer_the_same_rows(saved, rows, tmp_path):
    folder, _ = saved()
    alone = evaluated(folder, rows)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launcher += [str(ROOT / "accelerate_configs" / "cpu_ddp.yaml"), "-m", "llmforge", "evaluate"]
    flags = ["--model", str(folder), "--test_file", str(rows), "--samples", "1", "--output", "two.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, *flags], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(Path("two.json").read_text())
    assert told["processes"] == 2
    assert told["bits_per_byte"] == pytest.approx(alone.total.bits_per_byte, rel=1e-9)
    assert [json.loads(line) for line in Path("answers-two.jsonl").read_text(encoding="utf-8").splitlines()] == alone.lines


def test_flags_go_before_the_task_and_the_task_before_the_defaults(saved, rows, capsys):
    folder, _ = saved()
    command = ["evaluate", "--model", str(folder), "--test_file", str(rows / "test.jsonl"), "--samples", "0", "--json"]
    found = []
    for more in ([], ["--max_new_tokens", "3", "--num_beams", "2"], ["--temperature", "0.5"]):
        assert cli.main([*command, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["answers"]["settings"])
    assert [(one["strategy"], one["max_new_tokens"]) for one in found] == [("greedy", 8), ("num_beams=2", 3), ("sampled", 8)]
    assert found[2]["temperature"] == 0.5


def test_rows_longer_than_the_context_are_cut_and_counted(saved, rows, caplog):
    folder, _ = saved()
    found = evaluated(folder, rows, block_size=40)
    assert "1 rows are longer than the context of 40 tokens: their beginning is cut off" in caplog.text
    assert found.total.documents == 5
    assert found.answers.rows == 5


def test_a_chat_is_asked_as_its_tokenizer_writes_it(saved, tmp_path, tokenizer):
    folder, _ = saved()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": [*said, {"role": "user", "content": "c"}, said[1]]}) + "\n")
    found = evaluated(folder, tmp_path / "chat.jsonl")
    assert (found.lines[0]["prompt"], found.lines[0]["reference"]) == ("[user]a[assistant]b[user]c[assistant]", "b")
    assert found.answers.field_accuracy is None


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_END = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def chat(saved, tmp_path):
    """A model whose tokenizer has this template, and rows of chats of two turns."""

    def make(template: str) -> tuple[Path, Path]:
        folder, _ = saved()
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
        said = [("user", "open"), ("assistant", "read the 漢字 at last"), ("user", "why"), ("assistant", "write nil")]
        messages = [{"role": role, "content": content} for role, content in said]
        (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
        return folder, tmp_path / "chat.jsonl"

    return make


@pytest.mark.parametrize("template", [CHATML, WITH_END], ids=["chatml", "eos"])
def test_what_a_template_writes_behind_an_answer_is_none_of_the_reference(template, chat, monkeypatch):
    from llmforge.sampling.completions import Completion
    from llmforge.scoring import on_rows

    folder, rows = chat(template)
    monkeypatch.setattr(on_rows, "answer_prompts", lambda *_: [Completion("write nil", 3, "end of text")])
    found = evaluated(folder, rows, samples=1)
    assert (found.lines[0]["reference"], found.samples[0].reference) == ("write nil", "write nil")
    assert (found.answers.exact_match, found.answers.rougeL) == (1, 1)


@pytest.mark.parametrize(
    ("template", "learnt"),
    [(CHATML, "{}<|im_end|>\n{}<|im_end|>\n"), (WITH_END, "{}{}")],  # the end of text is a special token, which has no bytes
    ids=["chatml", "eos"],
)
def test_zstd_is_given_the_bytes_that_the_model_is_measured_on(template, learnt, chat, monkeypatch):
    from llmforge.scoring import on_rows

    folder, rows = chat(template)
    given = []
    monkeypatch.setattr(on_rows, "zstd_size", lambda text: given.append(text) or 1)
    found = evaluated(folder, rows)
    assert given == [learnt.format("read the 漢字 at last", "write nil").encode()]
    assert found.total.bytes == len(given[0])


def test_given_prompts_are_asked_as_generate_asks_them(chat):
    folder, rows = chat(WITH_END)
    greedy = GenerationArguments(prompts=["why"], do_sample=False, strategies=[], max_new_tokens=4)
    found = evaluate_model(EvaluationArguments(model=str(folder), test_file=str(rows)), greedy, {"max_new_tokens", "do_sample"})
    assert [sample.prompt for sample in found.samples] == ["[user]why[assistant]"]


def test_a_prompt_that_fills_the_context_is_not_answered_and_that_is_told(saved, rows, capsys):
    folder, _ = saved()
    (rows / "task.yaml").write_text(TASK + "truncate: right\n")
    long = {"machine": "x " * 2000, "cause": "a", "step": "b"}
    (rows / "test.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [long, ROWS[0]]))
    command = ["evaluate", "--model", str(folder), "--test_file", str(rows), "--num_beams", "2", "--strategies", "greedy"]
    assert cli.main(command) == 0
    assert "no room: 1" in capsys.readouterr().out
    told = json.loads((folder / "eval.json").read_text())
    assert (told["answers"]["rows"], told["answers"]["ended"]["no room"]) == (2, 1)
    assert told["samples"][0]["completions"] == {"greedy": ""}
    first, second = (json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["answer"], first["ended"], first["exact_match"]) == ("", "no room", False)
    assert second["ended"] != "no room"


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("eval.json", "answers.jsonl"),
        ("eval-checkpoint-5.json", "answers-checkpoint-5.jsonl"),
        ("evaluation.json", "answers-evaluation.jsonl"),
        ("mine.json", "answers-mine.jsonl"),
    ],
)
def test_answers_are_called_after_the_figures(name, answers):
    assert answers_path(Path("out") / name) == Path("out") / answers


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (["--test_file", "gone.jsonl"], "--test_file gone.jsonl: no such file", 3),
        (["--test_file", "rows", "--split", "train"], "there is no train.jsonl in that folder", 3),
        (["--test_file", "rows", "--corpus", "x"], "--corpus or --source and --test_file are both given", 2),
        (["--test_file", "rows", "--stride", "4"], "--stride 4 goes with text only", 2),
        (["--corpus", "rows", "--task", "qa"], "--task qa goes with --test_file only", 2),
        (["--test_file", "rows", "--task", "qa"], "'question'", 3),
        (["--test_file", "rows", "--samples", "-1"], "--samples -1 is negative", 2),
        (["--test_file", "rows", "--num_beams", "0"], "--num_beams 0 is too small", 2),
        (["--test_file", "rows", "--strategies", "num_beams=1"], "--strategies num_beams=1", 2),
        (["--test_file", "rows", "--compare", "model", "model"], "--model model and --compare are both given", 2),
    ],
)
def test_what_is_refused_is_told_in_one_line(flags, words, code, saved, rows, capsys):
    saved()
    capsys.readouterr()
    assert cli.main(["evaluate", "--model", "model", *flags]) == code
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("model/eval.json").exists()


# --- text: samples --------------------------------------------------------------------------------


def test_samples_of_text_go_on_from_the_beginnings_of_documents(saved, tokenizer, tmp_path):
    folder, _ = saved()
    for number, text in enumerate(("func open\n" * 30, "short package", "for range data\n" * 30)):
        (tmp_path / f"{number}.txt").write_text(text)
    files = [str(tmp_path / f"{number}.txt") for number in range(3)]
    strategies = ["greedy", "temperature=0.8", "top_p=0.9", "num_beams=4"]
    shorter = GenerationArguments(strategies=strategies, max_new_tokens=6)
    found = evaluate_model(
        EvaluationArguments(model=str(folder), corpus=files, format="text", block_size=64, samples=3), shorter, {"max_new_tokens"}
    )
    first, short, _ = found.samples
    assert (first.prompt + first.reference)[:300] + ("func open\n" * 30)[
        len(first.prompt + first.reference) :
    ] == "func open\n" * 30
    assert len(tokenizer(first.prompt)["input_ids"]) == 32
    assert short.prompt + short.reference == "short package"
    assert all(list(one.completions) == strategies for one in found.samples)
    own = GenerationArguments(prompts=["func"], strategies=[], do_sample=False, max_new_tokens=5)
    found = evaluation.evaluate_model(
        EvaluationArguments(model=str(folder), corpus=files[:1], format="text"), own, {"max_new_tokens"}
    )
    assert [(one.prompt, one.reference, list(one.completions)) for one in found.samples] == [("func", "", ["greedy"])]


# --- two models -----------------------------------------------------------------------------------


def test_two_models_are_compared_on_rows(saved, rows, tokenizer, capsys):
    first, model = saved()
    second, other = saved(folder="other", seed=5)
    assert cli.main(["evaluate", "--compare", str(first), str(second), "--test_file", str(rows), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ours, theirs = told["models"]
    one = theirs["differences"]["bits_per_byte"]
    want = [counted(each, tokenizer)["bits_per_byte"] for each in (model, other)]
    assert (ours["bits_per_byte"], theirs["bits_per_byte"]) == pytest.approx(tuple(want), rel=1e-5)
    assert one["value"] == pytest.approx(want[1] - want[0], abs=1e-5)
    # Sixteen ways to swap five pairs, two of them at least as large as what is seen if all pairs point one way.
    assert one["pairs"] == 5
    assert 1 / 10_000 <= one["p_value"] <= 1
    assert {"exact_match", "field_accuracy", "in_format", "rougeL"} <= set(theirs["differences"])
    assert "differences" not in ours
    assert json.loads((first / "compare.json").read_text())["models"][1]["differences"] == theirs["differences"]
    lines = [json.loads(line) for line in (first / "answers-compare.jsonl").read_text(encoding="utf-8").splitlines()]
    assert set(lines[0]["answers"]) == {str(first), str(second)}
    assert [sample["prompt"] for sample in ours["samples"]] == [sample["prompt"] for sample in theirs["samples"]]


def test_models_with_other_tokenizers_are_compared_on_text(saved, tmp_path, capsys):
    """And the better one is called better; one large document is cut, for there to be something to pair."""
    from llmforge.configs.model import ModelArguments
    from llmforge.configs.tokenizer import TokenizerArguments
    from llmforge.models import build_model
    from llmforge.tokenization import load_pretrained, train_tokenizer

    worse, _ = saved()  # with weights far too large
    text = "".join(f"func open{number}(path string) error {{\n\treturn read{number % 7}(path)\n}}\n\n" for number in range(900))
    (tmp_path / "book.txt").write_text(text)
    train_tokenizer([text], TokenizerArguments(vocab_size=300)).save(tmp_path / "better")
    tokenizer = load_pretrained(tmp_path / "better")
    shape = ModelArguments(preset="gpt2-10m", n_layer=1, n_embd=16, n_head=2)
    build_model(shape, tokenizer).save_pretrained(tmp_path / "better")
    flags = ["--corpus", "book.txt", "--block_size", "64", "--samples", "1", "--max_new_tokens", "4"]
    assert cli.main(["evaluate", "--compare", str(worse), "better", *flags]) == 0
    shown = capsys.readouterr().out
    told = json.loads((worse / "compare.json").read_text())
    ours, theirs = told["models"]
    assert ours["bytes"] == theirs["bytes"] == len(text.encode())
    assert ours["documents"] == theirs["documents"] == theirs["differences"]["bits_per_byte"]["pairs"] > 1
    assert theirs["bits_per_byte"] < ours["bits_per_byte"]
    assert theirs["differences"]["bits_per_byte"]["p_value"] < 0.05
    assert "bits a byte" in shown
    assert "better" in shown.split("pairs:")[1]
    assert len(ours["samples"]) == len(theirs["samples"]) == 1


def test_a_model_is_as_good_as_itself(saved, rows, capsys):
    first, _ = saved()
    second, _ = saved(folder="copy")
    assert cli.main(["evaluate", "--compare", str(first), str(second), "--test_file", str(rows), "--samples", "0"]) == 0
    shown = capsys.readouterr().out
    assert "+0.000 bits a byte [0.000, 0.000], p = 1: may be chance" in shown
    assert "better" not in shown
    assert "worse" not in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--compare", "model"], "there is nothing to compare"),
        (["--compare", "model", "model"], "there is nothing to compare"),
        (["--compare", "model", "gone/away/far"], "--compare gone/away/far: no such folder"),
        (["--compare", "model", "b", "--lm_eval", "x"], "--lm_eval x goes with --model only"),
        (["--compare", "model", "b", "--base_model", "x"], "--base_model x goes with --model only"),
    ],
)
def test_what_cannot_be_compared(flags, words, saved, rows, capsys):
    saved()
    capsys.readouterr()
    assert cli.main(["evaluate", *flags, "--test_file", "rows"]) in (2, 4)
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_prompts_are_refused_before_anything_is_evaluated(saved, rows, monkeypatch, capsys):
    saved()
    monkeypatch.setattr(evaluation, "evaluate_rows", lambda *_: pytest.fail("it ran"))
    assert cli.main(["evaluate", "--model", "model", "--test_file", "rows", "--prompts", "x " * 2000]) == 2
    assert "4001 tokens long; the model has 1024 positions" in capsys.readouterr().err
