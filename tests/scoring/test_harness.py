"""lm-eval on a task that lies beside the test, without the hub: its figures against likelihoods counted here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from llmforge import cli

pytest.importorskip("lm_eval")

QUESTIONS = [("func", ["err", "path open"]), ("return", ["nil", "x"]), ("for", ["range", "data data"]), ("a", ["b", "c"])]
TASK = """task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture
def task(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": q, "choices": choices}) + "\n" for q, choices in QUESTIONS))
    path = tmp_path / "words.yaml"
    path.write_text(TASK.format(rows=rows))
    return path


def likelihood(model, tokenizer, question: str, choice: str) -> float:
    """Of what follows the question, which begins as documents began in training."""
    start = [tokenizer.bos_token_id, *tokenizer(question, add_special_tokens=False)["input_ids"]]
    whole = [tokenizer.bos_token_id, *tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = type(model).forward(model, torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logits[place - 1, whole[place]]) for place in range(len(start), len(whole)))


def test_a_local_task_is_scored_by_likelihoods(saved, task, tokenizer, capsys):
    folder, model = saved()
    right = [
        likelihood(model, tokenizer, question, choices[0]) > likelihood(model, tokenizer, question, choices[1])
        for question, choices in QUESTIONS
    ]
    assert 0 < sum(right) < 4, "choices that the model tells apart"
    assert cli.main(["evaluate", "--model", str(folder), "--lm_eval", str(task), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["lm_eval"]["words"]["acc"] == sum(right) / 4
    assert told["lm_eval"]["words"]["samples"] == 4
    assert json.loads((folder / "lm-eval.json").read_text())["lm_eval"] == told["lm_eval"]
    assert not (folder / "eval.json").exists()
    # Beside a text it stands with the other figures.
    (task.parent / "x.txt").write_text("package data")
    flags = ["--corpus", "x.txt", "--samples", "0", "--lm_eval", str(task)]
    assert cli.main(["evaluate", "--model", str(folder), *flags]) == 0
    assert "words" in capsys.readouterr().out
    written = json.loads((folder / "eval.json").read_text())
    assert written["lm_eval"] == told["lm_eval"]
    assert written["tokens"] > 0


def test_what_cannot_run_is_told_in_one_line(saved, task, monkeypatch, capsys):
    folder, _ = saved()
    command = ["evaluate", "--model", str(folder), "--lm_eval"]
    assert cli.main([*command, "gone.yaml"]) == 2
    assert (
        capsys.readouterr().err == "error: --lm_eval gone.yaml: no such file. Give the YAML file of a task, or the name of one.\n"
    )
    task.write_text(task.read_text().replace(str(task.parent / "rows.jsonl"), "nowhere.jsonl"))
    assert cli.main([*command, str(task)]) == 3
    assert "nowhere.jsonl" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert cli.main([*command, str(task)]) == 2
    error = capsys.readouterr().err
    assert "needs lm-eval, which is not installed. pip install 'llmforge[lm-eval]'" in error
    assert error.count("\n") == 1
