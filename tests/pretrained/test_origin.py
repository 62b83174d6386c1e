"""What a model was trained on, by made-up records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.pretrained.origin import prepared_for, trained_on


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Writes the record of a run begun in `tmp_path`, and returns its final/."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, data: dict[str, Any], **settings: Any) -> Path:
        final = tmp_path / "runs" / name / "final"
        final.mkdir(parents=True)
        record = {"folder": str(tmp_path), "config": {"data": data, **settings}, "data": {"path": str(tmp_path / "prepared")}}
        (final.parent / "run.json").write_text(json.dumps(record))
        return final

    for path in ("docs/a.md", "docs/deep/b.md", "docs/c.go", "other/d.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("text")
    return write


@pytest.mark.parametrize(
    ("data", "given", "seen"),
    [
        ({"corpus": "docs"}, "docs", True),
        ({"corpus": "docs"}, "docs/deep", True),
        ({"corpus": "docs"}, "docs/deep/b.md", True),
        ({"corpus": "docs/deep"}, "docs", True),
        ({"corpus": "docs"}, "other", False),
        ({"corpus": "docs"}, "docs*", True),
        ({"corpus": "docs", "suffixes": [".go"]}, "docs/a.md", False),
        ({"corpus": "docs", "suffixes": [".go"]}, "docs/c.go", True),
        ({"corpus": "docs/*.md"}, "docs/a.md", True),
        ({"corpus": "docs/*.md"}, "docs/c.go", False),
        ({"corpus": "docs"}, "gs://bucket/docs", False),
        ({"corpus": "gs://bucket/docs"}, "docs", False),
        ({}, "docs", False),
    ],
)
def test_a_text_is_known_again(run, data, given, seen):
    assert bool(trained_on(run("one", data), [given])) is seen


def test_what_its_base_was_trained_on_counts_too_and_a_circle_ends(run):
    base = run("base", {"corpus": "docs"}, finetune={"from_pretrained": "runs/tuned"})
    tuned = run("tuned", {"corpus": None}, finetune={"from_pretrained": "runs/base", "train_file": "other/d.md"})
    anew = run("anew", {"corpus": None}, finetune={"from_pretrained": "runs/base", "from_scratch": True})
    assert trained_on(tuned, ["docs", "other/d.md", "elsewhere"]) == ["docs", "other/d.md"]
    assert trained_on(base, ["docs"]) == ["docs"]
    assert trained_on(anew, ["docs"]) == []


def test_the_sources_of_the_data_card_count_but_for_what_they_hold_out(run, tmp_path):
    final = run("one", {"corpus": None})
    assert prepared_for(final) is None
    (tmp_path / "prepared").mkdir()
    sources = [{"path": "docs", "split": None}, {"path": "other", "split": "validation"}]
    (tmp_path / "prepared" / "data_card.json").write_text(json.dumps({"sources": sources}))
    assert prepared_for(final) == tmp_path / "prepared"
    assert trained_on(final, ["docs", "other"]) == ["docs"]


@pytest.mark.parametrize("text", ["", "[]", '{"config": 3, "data": []}', '{"folder": 7, "config": {"data": {"corpus": 5}}}'])
def test_a_record_that_tells_nothing_tells_nothing(run, text):
    final = run("one", {"corpus": "docs"})
    (final.parent / "run.json").write_text(text)
    assert trained_on(final, ["docs"]) == []
    assert prepared_for(final) is None
