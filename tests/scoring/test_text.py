"""The text of an evaluation: documents stay whole, and the tokens are the model's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import tiny_model, write_documents

from llmforge import cli
from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data.prepare import prepare_dataset
from llmforge.scoring.text import text_of_corpus


def test_a_large_document_is_evaluated_whole(tokenizer, tmp_path):
    """Preparing cuts a few large documents into sections, for there to be something to split; here nothing is split."""
    paragraphs = [f"func data {number} return nil " * 20 for number in range(120)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    text = text_of_corpus(DataArguments(corpus=str(tmp_path / "book.txt"), format="text"), tokenizer)
    assert len(text.documents) == 1
    assert tokenizer.decode(text.documents[0]).count("return") == 120 * 20


@pytest.fixture
def model(tokenizer, tmp_path) -> Path:
    tiny_model("gpt2-10m", tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_figures_are_seen_where_they_cannot_be_written(model, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("func data return nil")
    (tmp_path / "file").write_text("")
    command = ["evaluate", "--model", str(model), "--corpus", str(tmp_path / "text.txt"), "--format", "text"]
    for words in ([], ["--json"]):
        assert cli.main([*command, *words, "--output", str(tmp_path / "file" / "eval.json")]) == 5
        told = capsys.readouterr()
        assert "perplexity" in told.out
        assert "error: Cannot write" in told.err


def test_a_dataset_with_the_same_entries_and_other_merges_is_refused(model, tokenizer_folder, tmp_path, capsys):
    """Another order of merges makes other tokens of the same text, of which each is known."""
    other = shutil.copytree(tokenizer_folder, tmp_path / "other")
    values = json.loads((other / "tokenizer.json").read_text())
    values["model"]["merges"].reverse()
    (other / "tokenizer.json").write_text(json.dumps(values))
    corpus = write_documents(tmp_path / "corpus", 50)
    data = prepare_dataset(DataArguments(corpus=str(corpus), block_size=32), TokenizerArguments(tokenizer=str(other)))
    words = ["--dataset_dir", str(data.path), "--report_to", "none", "--max_steps", "1", "--output_dir", "run"]
    assert cli.main(["finetune", "--from_pretrained", str(model), *words]) == 3
    assert "was tokenized with another tokenizer" in capsys.readouterr().err
    assert cli.main(["evaluate", "--model", str(model), "--dataset_dir", str(data.path)]) == 3
    assert "was tokenized with another tokenizer" in capsys.readouterr().err
