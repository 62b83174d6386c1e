"""Books: only their own words are trained on, and no book is on two sides."""

from __future__ import annotations

import json
import re

from helpers import ROOT, launch_demo, losses_of, prepared_by, recipe_config

SAMPLE = ROOT / "recipes" / "samples" / "gutenberg"


def test_the_demo_trains_on_the_books_alone(tmp_path):
    run = launch_demo("pretrain_gutenberg", tmp_path)
    training, evaluation = losses_of(run)
    assert training[-1] < training[0]
    assert evaluation[-1] < evaluation[0]
    assert json.loads((run / "eval.json").read_text())["split"] == "test"
    _, names, texts = prepared_by(tmp_path)
    books = {split: {name.partition("#")[0] for name in members} for split, members in names.items()}
    assert sum(len(found) for found in books.values()) == len(set().union(*books.values())) == len(list(SAMPLE.glob("*.txt")))
    whole = re.sub(r"\s+", " ", "".join(texts.values()))
    assert not re.search("gutenberg|imitat|llmforge|small print|transcriber", whole, re.IGNORECASE)
    for first in ("There were eighty-four lamps", "It is two miles and three furlongs", "I was given my first hive"):
        assert first in whole
    for last in ("half a minute.", "said that it was.", "to the archdeacon."):
        assert last in whole


def test_the_124m_config_is_what_it_promises():
    config = recipe_config("pretrain_gutenberg", "124m", "--corpus", "84,1342,2701")
    training = config.training
    assert (config.model.preset, config.data.format, config.data.group_by) == ("gpt2-124m", "gutenberg", "file")
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 32
    assert (training.learning_rate, training.warmup_steps, str(training.lr_scheduler_type.value)) == (5e-4, 2000, "cosine")
