"""Equipment diagnostics: a document for each paragraph, no test split, and the figures of the 124m config."""

from __future__ import annotations

import json

from helpers import ROOT, losses_of, prepared_by, recipe_config, run_demo

SAMPLE = ROOT / "recipes" / "samples" / "gearhead"


def paragraphs() -> list[str]:
    return [line for path in sorted(SAMPLE.glob("*.txt")) for line in path.read_text().split("\n") if line]


def test_the_demo_trains_on_paragraphs(tmp_path):
    run = run_demo("pretrain_gearhead", tmp_path)
    training, evaluation = losses_of(run)
    assert training[-1] < training[0]
    assert evaluation[-1] < evaluation[0]
    assert json.loads((run / "run.json").read_text())["final"]["test"] == {}
    assert not (run / "eval.json").exists()
    splits = prepared_by(tmp_path)
    assert set(splits) == {"train", "validation"}
    found = sorted(text.strip() for documents in splits.values() for text in documents.values())
    assert found == sorted(paragraphs())
    assert len(found) > 300
    assert 0.85 < len(splits["train"]) / len(found) < 0.95


def test_the_sample_covers_its_areas():
    areas = {"operator_awareness", "hydraulics", "diagnostics", "engine_powertrain", "safety"}
    assert {path.stem for path in SAMPLE.glob("*.txt")} == areas
    assert len(set(paragraphs())) == len(paragraphs())


def test_the_124m_config_is_what_it_promises():
    config = recipe_config("pretrain_gearhead", "124m", "--corpus", str(SAMPLE))
    training = config.training
    assert (config.model.preset, config.model.n_positions, config.data.block_size) == ("gpt2-124m", 512, 512)
    assert (config.tokenizer.vocab_size, config.data.segment) == (32_000, "paragraph")
    assert config.data.ratios() == (0.9, 0.1, 0.0)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (2, 16)
    assert (training.num_train_epochs, training.save_steps, training.activation_checkpointing) == (3, 5000, True)
