"""Books: only their own words are trained on, and no book is on two sides."""

from __future__ import annotations

import json
import re

from helpers import ROOT, losses_of, prepared_by, recipe_config, run_demo

SAMPLE = ROOT / "recipes" / "samples" / "gutenberg"
#: Where the author's own words begin and end.
BOOKS = [
    ("bees.txt", "ON KEEPING BEES IN A COLD PARISH", "the archdeacon."),
    ("clockmaker.txt", "THE CLOCKMAKER'S SECOND APPRENTICE", "the clock is going yet."),
    ("ferry.txt", "THE FERRY AT HARROW BEND", "over it in half a minute."),
    ("island.txt", "LETTERS FROM THE WEATHER STATION", "by the\neye."),
    ("orchard.txt", "THE INHERITANCE OF THE THREE MISS MARLOWS", '"We can none of us remember."'),
    ("walking.txt", "ON WALKING TO THE MILL", "said\nthat it was."),
]


def test_the_demo_trains_on_the_books_alone(tmp_path):
    run = run_demo("pretrain_gutenberg", tmp_path)
    training, evaluation = losses_of(run)
    assert training[-1] < training[0]
    assert evaluation[-1] < evaluation[0]
    assert json.loads((run / "eval.json").read_text())["split"] == "test"
    splits = prepared_by(tmp_path)
    books = [{name.partition("#")[0] for name in documents} for documents in splits.values()]
    assert sum(map(len, books)) == len(set().union(*books)) == len(list(SAMPLE.glob("*.txt")))
    sections = {name: text for documents in splits.values() for name, text in documents.items()}
    whole: dict[str, str] = {}
    for name in sorted(sections, key=lambda name: int(name.partition("#")[2] or 0)):
        whole[name.partition("#")[0]] = whole.get(name.partition("#")[0], "") + sections[name]
    for name, first, last in BOOKS:
        assert whole[name].startswith(first), name
        assert whole[name].rstrip().endswith(last), name
    assert not re.search("gutenberg|imitat|llmforge|small print|transcriber", "".join(whole.values()), re.IGNORECASE)


def test_the_124m_config_is_what_it_promises():
    config = recipe_config("pretrain_gutenberg", "124m", "--corpus", "84,1342,2701")
    training = config.training
    assert (config.model.preset, config.data.format, config.data.group_by) == ("gpt2-124m", "gutenberg", "file")
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 32
    assert (training.learning_rate, training.warmup_steps, str(training.lr_scheduler_type.value)) == (5e-4, 2000, "cosine")
