"""Technical notes: three kinds of source in one run, and the figures its configs promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import ROOT, losses_of, prepared_by, recipe_config, run_demo

SAMPLE = ROOT / "recipes" / "samples" / "technical"
PROMPTS = ["Kubernetes is", "To deploy with Terraform", "Docker containers"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the demo was launched; its run is in ``runs``."""
    folder = tmp_path_factory.mktemp("technical")
    run_demo("pretrain_technical", folder)
    return folder


def test_the_demo_trains_and_reports_on_the_test_split(folder):
    run = folder / "runs" / "pretrain_technical-demo-001"
    training, evaluation = losses_of(run)
    assert training[-1] < training[0]
    assert evaluation[-1] < evaluation[0]
    report = json.loads((run / "eval.json").read_text())
    assert report["split"] == "test"
    assert report["perplexity"] > 1
    assert "| test |" in (run / "final" / "README.md").read_text()
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [sample["prompt"] for sample in samples[-3:]] == PROMPTS


def test_notes_texts_and_questions_are_one_corpus(folder):
    whole = {name: text for documents in prepared_by(folder).values() for name, text in documents.items()}
    for name in ("kubernetes/pods.md", "docker/compose.md", "terraform/state.md"):
        text = (SAMPLE / "notes" / name).read_text(encoding="utf-8")
        _, front_matter, note = text.split("---\n", 2)
        assert front_matter.startswith("title:")
        assert whole[name].strip() == note.strip()
    assert whole["incident.txt"].startswith("Notes from an incident")
    asked = json.loads((SAMPLE / "qa.json").read_text(encoding="utf-8"))
    rendered = {text.strip() for text in whole.values()}
    assert all(f"{item['context']}\n\nQuestion: {item['question']}\nAnswer: {item['answer']}" in rendered for item in asked)
    assert len(whole) == len(list(SAMPLE.rglob("notes/**/*.md"))) + 3 + len(asked)


def test_the_sample_has_questions_for_every_tool():
    asked = json.loads((SAMPLE / "qa.json").read_text())
    assert len(asked) >= 10
    assert {item["context"] for item in asked} == {"Kubernetes", "Docker", "Terraform"}


@pytest.mark.parametrize(("name", "preset"), [("tiny", "gpt2-10m"), ("small", "gpt2-50m"), ("medium", "gpt2-124m")])
def test_configs_are_what_they_promise(name, preset):
    config = recipe_config("pretrain_technical", name, "--corpus", str(SAMPLE))
    training = config.training
    assert (config.model.preset, config.data.block_size, config.run.early_stopping_patience) == (preset, 512, 5)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (16, 4)
    assert (training.num_train_epochs, training.learning_rate, training.warmup_steps) == (50, 3e-4, 2000)
    assert training.max_steps == -1
    assert config.generation.prompts == PROMPTS
