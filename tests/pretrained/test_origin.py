"""What a model was trained on, by made-up records."""

from __future__ import annotations

import glob
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
        prepared = {"path": "prepared", "fingerprint": "f00"}
        record = {"folder": str(tmp_path), "config": {"data": data, **settings}, "data": prepared}
        (final.parent / "run.json").write_text(json.dumps(record))
        return final

    for path in (
        "docs/a.md",
        "docs/deep/b.md",
        "docs/c.go",
        "other/d.md",
        "other/d[1].md",
        "rows/train.jsonl",
        "rows/test.jsonl",
    ):
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
        ({"corpus": "docs/*.md"}, "docs", True),
        ({"corpus": "docs/*.md"}, "docs/*.go", False),
        ({"corpus": "other/d[1].md"}, "other/d[1].md", True),
        ({"corpus": "other/d[1].md"}, "other", True),
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


def test_of_a_folder_of_rows_the_training_file_alone_counts(run):
    final = run("one", {"corpus": None}, finetune={"train_file": "rows"})
    given = ["rows/train.jsonl", "rows/test.jsonl", "rows", "rows/*.jsonl", "rows/t?st.jsonl"]
    assert trained_on(final, given) == ["rows/train.jsonl", "rows", "rows/*.jsonl"]


def test_a_glob_is_walked_once_whatever_is_asked(run, monkeypatch):
    walked = []
    walk = glob.iglob
    monkeypatch.setattr(glob, "iglob", lambda pattern, **how: walked.append(pattern) or walk(pattern, **how))
    assert len(trained_on(run("one", {"corpus": "docs/*.md"}), ["docs/a.md"] * 50 + ["other"])) == 50
    assert walked == ["docs/*.md"]


def card(tmp_path: Path, **values: Any) -> None:
    (tmp_path / "prepared").mkdir(exist_ok=True)
    (tmp_path / "prepared" / "data_card.json").write_text(json.dumps(values))


def test_the_sources_of_the_data_card_count_but_for_what_they_hold_out(run, tmp_path):
    final = run("one", {"corpus": None})
    assert prepared_for(final) is None
    sources = [{"path": "docs", "split": None}, {"path": "other", "split": "validation"}]
    card(tmp_path, sources=sources, fingerprint="f00")
    assert prepared_for(final) == tmp_path / "prepared"
    assert trained_on(final, ["docs", "other", "prepared"]) == ["docs", "prepared"]


def test_prepared_data_are_found_from_elsewhere_and_only_as_they_were(run, tmp_path, monkeypatch):
    """Made again otherwise, their test split may be text that the model was trained on."""
    final = run("one", {"corpus": None})
    card(tmp_path, fingerprint="f00")
    (tmp_path / "elsewhere" / "prepared").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert prepared_for(final) == tmp_path / "prepared"
    for other in ({"fingerprint": "f01"}, {}):
        card(tmp_path, **other)
        assert prepared_for(final) is None


@pytest.mark.parametrize("text", ["", "[]", '{"config": 3, "data": []}', '{"folder": 7, "config": {"data": {"corpus": 5}}}'])
def test_a_record_that_tells_nothing_tells_nothing(run, text):
    final = run("one", {"corpus": "docs"})
    (final.parent / "run.json").write_text(text)
    assert trained_on(final, ["docs"]) == []
    assert prepared_for(final) is None
