"""A run, read back: whole, still going on, torn, and folders that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import llmforge
from llmforge.history import Run, load_run
from llmforge.storage.records import read_json_lines

#: As RunLog writes them: an evaluation before the first step, training lines, an evaluation and a training
#: line of one step, and the totals at the end, of the last step.
METRICS = [
    {"step": 0, "eval_loss": 6.0, "eval_perplexity": 403.4, "time": 1.0},
    {"step": 10, "loss": 5.0, "learning_rate": 1e-3, "tokens": 1000, "device_memory": 110, "time": 2.0},
    {"step": 20, "loss": 4.0, "learning_rate": 5e-4, "tokens": 2000, "device_memory": 120, "time": 3.0},
    {"step": 20, "eval_loss": 4.5, "eval_perplexity": 90.0, "tokens": 2000, "time": 4.0},
    {"step": 20, "train_runtime": 3.5, "train_loss": 4.5, "tokens": 2000, "time": 5.0},
]
SAMPLES = [
    {"step": 20, "prompt": "func", "strategy": "sampled", "settings": {"top_p": 0.9}, "text": " main() {\u2028}"},
    {"step": 20, "final": True, "prompt": "func", "strategy": "sampled", "settings": {"top_p": 0.9}, "text": " größer"},
]
RECORD = {"run_id": "abc", "config": {"model": {"preset": "gpt2-10m"}, "training": {"max_steps": 20}}}


def lines(*values: dict) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run."""
    run = tmp_path / "runs" / "demo-001"
    (run / "final").mkdir(parents=True)
    (run / "final" / "config.json").write_text("{}")
    (run / "metrics.jsonl").write_text(lines(*METRICS))
    (run / "samples.jsonl").write_text(lines(*SAMPLES))
    (run / "run.json").write_text(json.dumps(RECORD))
    (run / "exit.json").write_text(json.dumps({"exit_code": 0, "reason": "finished", "step": 20}))
    return run


def test_a_finished_run(folder):
    run = load_run(folder)
    assert isinstance(run, Run)
    assert (run.path, run.final, run.record) == (folder, folder / "final", RECORD)
    assert run.config["model"]["preset"] == "gpt2-10m"
    assert run.exit["reason"] == "finished"
    assert llmforge.load_run(str(folder)).metrics.equals(run.metrics)


def test_metrics_are_one_row_a_step(folder):
    table = load_run(folder).metrics
    assert table.index.name == "step"
    assert list(table.index) == [0, 10, 20]
    assert table["loss"].dropna().to_dict() == {10: 5.0, 20: 4.0}
    assert table["eval_loss"].dropna().to_dict() == {0: 6.0, 20: 4.5}
    # Of one step's lines: what only one of them has stays, of the others the last counts.
    last = table.loc[20]
    assert (last["tokens"], last["eval_perplexity"], last["train_runtime"]) == (2000, 90.0, 3.5)
    assert (last["device_memory"], last["time"]) == (120, 5.0)
    assert table["eval_loss"].idxmin() == 20


def test_a_plot_before_the_first_training_line_is_empty(folder):
    """A run that has only evaluated so far."""
    (folder / "metrics.jsonl").write_text(lines(METRICS[0]))
    table = load_run(folder).metrics
    table["loss"].dropna().plot()
    assert table["loss"].dropna().empty
    assert table["eval_loss"].to_dict() == {0: 6.0}


def test_a_loss_that_is_not_finite_is_seen(folder):
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "loss": Infinity}\n')
    assert load_run(folder).metrics["loss"].loc[30] == float("inf")


def test_samples_are_a_row_each(folder):
    table = load_run(folder).samples
    assert list(table["step"]) == [20, 20]
    assert list(table["text"]) == [" main() {\u2028}", " größer"]
    assert list(table["final"]) == [False, True]
    assert list(table[~table["final"]]["prompt"]) == ["func"]
    assert table["settings"][0] == {"top_p": 0.9}


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_half_written_last_line_is_left_out(folder, name):
    """Cut at every byte of it, in the middle of a character too."""
    whole = (folder / name).read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    full = len(read_json_lines(folder / name))
    for end in range(last, len(whole) - 1):
        (folder / name).write_bytes(whole[:end])
        run = load_run(folder)
        assert len(read_json_lines(folder / name)) == full - 1
        assert len(run.samples) == (1 if name == "samples.jsonl" else 2)
        assert ("train_runtime" in run.metrics) == (name == "samples.jsonl")


def test_a_run_still_going_on(folder):
    """No exit.json, no final model, no samples yet."""
    for name in ("exit.json", "samples.jsonl", "final/config.json"):
        (folder / name).unlink()
    run = load_run(folder)
    assert (run.exit, run.final) == (None, None)
    assert run.samples.empty
    assert list(run.samples.columns) == ["step", "prompt", "strategy", "text", "settings", "final"]
    assert run.samples[~run.samples["final"]].empty
    assert len(run.metrics) == 3


def test_a_run_that_has_only_begun(folder):
    (folder / "metrics.jsonl").unlink()
    run = load_run(folder)
    assert run.metrics.empty
    assert run.metrics.index.name == "step"
    assert isinstance(run.metrics, pd.DataFrame)
    assert list(run.metrics.columns) == ["loss", "eval_loss"]
    run.metrics["loss"].dropna().plot()
    assert run.config["training"]["max_steps"] == 20


def test_a_run_of_a_trainer_alone(folder):
    """Started from Python without records: curves all the same."""
    (folder / "run.json").unlink()
    run = load_run(folder)
    assert (run.config, run.record) == ({}, {})
    assert len(run.metrics) == 3


def test_a_folder_that_is_no_run(folder, tmp_path):
    with pytest.raises(llmforge.ConfigError, match=r"no run folder .*nowhere"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(llmforge.ConfigError, match=r"empty is no run: it has neither run\.json nor metrics\.jsonl"):
        load_run(tmp_path / "empty")
    # The folder of all runs, and one inside a run: the run itself is named.
    for wrong in (folder.parent, folder / "final"):
        with pytest.raises(llmforge.ConfigError, match=r"is no run.*such as .*demo-001\."):
            load_run(wrong)


def test_a_damaged_record_is_said(folder):
    for text in ("{", "[]"):
        (folder / "run.json").write_text(text)
        with pytest.raises(llmforge.DataError, match=r"run\.json"):
            load_run(folder)


def test_the_callbacks_write_what_is_read(tmp_path, corpus):
    """A real run, by a trainer alone."""
    data = llmforge.prepare_dataset(
        llmforge.DataArguments(corpus=str(corpus), block_size=32), llmforge.TokenizerArguments(vocab_size=400)
    )
    model = llmforge.build_model(llmforge.ModelArguments("gpt2-10m", n_layer=1, n_embd=16, n_head=2), data.tokenizer)
    args = llmforge.ForgeTrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=4, eval_steps=2, logging_steps=1, save_strategy="no", report_to=["none"]
    )
    prompts = llmforge.GenerationArguments(prompts=["func", "for"], max_new_tokens=3, strategies=["greedy", "top_k=5"])
    llmforge.build_trainer(model, data, args, prompts).train()
    run = load_run(tmp_path / "run")
    assert list(run.metrics["loss"].dropna().index) == [1, 2, 3, 4]
    assert list(run.metrics["eval_perplexity"].dropna().index) == [0, 2, 4]
    assert list(run.samples["prompt"]) == ["func", "for"] * 4
    assert list(run.samples["strategy"]) == ["greedy", "greedy", "top_k=5", "top_k=5"] * 2


def test_reading_a_run_imports_neither_torch_nor_transformers(folder):
    script = (
        "import sys, llmforge; llmforge.load_run(sys.argv[1]); print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
