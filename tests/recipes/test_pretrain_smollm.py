"""The smollm-corpus' form of records: a document for each, tokenized once."""

from __future__ import annotations

import json

from helpers import ROOT, losses_of, prepared_by, recipe_config, run_demo

from llmforge import prepare_dataset

SAMPLE = ROOT / "recipes" / "samples" / "smollm" / "passages.jsonl"


def test_the_demo_trains_on_records_and_tokenizes_them_once(tmp_path, monkeypatch):
    run = run_demo("pretrain_smollm", tmp_path)
    training, evaluation = losses_of(run)
    assert training[-1] < training[0]
    assert evaluation[-1] < evaluation[0]
    assert json.loads((run / "eval.json").read_text())["split"] == "test"
    records = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    found = [text.strip() for documents in prepared_by(tmp_path).values() for text in documents.values()]
    assert sorted(found) == sorted(record["text"] for record in records)
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))
    config = recipe_config("pretrain_smollm", "demo", "--block_size", "128")
    assert prepare_dataset(config.data, config.tokenizer).reused


def test_the_124m_config_is_what_it_promises():
    config = recipe_config("pretrain_smollm", "124m")
    training = config.training
    [source] = config.data.sources()
    assert (source.format, source.subset, source.max_documents) == ("hf", "cosmopedia-v2", 3_500_000)
    assert source.path.endswith("smollm-corpus")
    assert config.model.preset == "gpt2-124m"
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 32
    assert (training.learning_rate, training.warmup_steps, str(training.lr_scheduler_type.value)) == (5e-4, 2000, "cosine")
