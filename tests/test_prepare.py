"""`llmforge prepare`."""

from __future__ import annotations

import json
import os

import pytest
from helpers import write_documents

from llmforge.data.prepared import load_prepared
from llmforge.prepare import main
from llmforge.runtime.commands import run_command

SETTINGS = ["--vocab_size", "320", "--block_size", "32", "--split_ratios", "0.6,0.2,0.2"]


def run(*argv) -> int:
    return run_command(main, [str(item) for item in argv])


def test_a_corpus_becomes_a_dataset_with_a_table(corpus, tmp_path, capfd):
    assert run("--corpus", corpus, "--output_dir", tmp_path / "d", *SETTINGS) == 0
    prepared = load_prepared(tmp_path / "d")
    out = capfd.readouterr().out
    assert f"Wrote {tmp_path / 'd'}" in out
    for split, figures in prepared.card["splits"].items():
        assert split in out
        assert f"{figures['tokens']:,}" in out


def test_the_second_time_it_is_found(corpus, tmp_path, capfd):
    assert run("--corpus", corpus, "--output_dir", tmp_path / "d", *SETTINGS) == 0
    capfd.readouterr()
    assert run("--corpus", corpus, "--output_dir", tmp_path / "d", *SETTINGS) == 0
    assert f"Found {tmp_path / 'd'}" in capfd.readouterr().out


def test_without_a_folder_it_goes_to_the_cache(corpus, own_cache):
    prepared = main(["--corpus", str(corpus), *SETTINGS])
    assert prepared.path.parent == own_cache / "datasets"
    assert len(prepared.rows("train")) > 0


def test_json_is_one_object_and_nothing_else(corpus, tmp_path, capfd):
    assert run("--corpus", corpus, "--output_dir", tmp_path / "d", *SETTINGS, "--json") == 0
    card = json.loads(capfd.readouterr().out)
    assert card["path"] == str(tmp_path / "d")
    assert card["reused"] is False
    assert card["fingerprint"] == load_prepared(tmp_path / "d").fingerprint
    assert run("--corpus", corpus, "--output_dir", tmp_path / "d", *SETTINGS, "--json") == 0
    assert json.loads(capfd.readouterr().out)["reused"] is True


def test_settings_may_come_from_a_file(corpus, tmp_path):
    (tmp_path / "c.yaml").write_text(f"corpus: {corpus}\nvocab_size: 320\nblock_size: 32\n")
    prepared = main(["--config", str(tmp_path / "c.yaml"), "--block_size", "16"])
    assert prepared.block_size == 16
    assert prepared.card["tokenizer"]["requested_vocab_size"] == 320


def test_what_was_left_out_is_told(tmp_path, capfd):
    corpus = write_documents(tmp_path / "c")
    (corpus / "binary.go").write_bytes(b"\0")
    assert run("--corpus", corpus, *SETTINGS) == 0
    captured = capfd.readouterr()
    assert "left out 1 entry: binary (e.g. binary.go)" in captured.err
    assert "left out" not in captured.out


def empty(folder):
    folder.mkdir()


def without_the_suffix(folder):
    folder.mkdir()
    (folder / "a.xyz").write_text("text")


def all_empty(folder):
    folder.mkdir()
    (folder / "a.go").write_text("")


def too_few(folder):
    folder.mkdir()
    (folder / "a.go").write_text("package a")


def missing(folder):
    """Makes nothing."""


def fifo(folder):
    os.mkfifo(folder)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (missing, "no such file or folder"),
        (empty, "is empty"),
        (without_the_suffix, "a.xyz"),
        (all_empty, "1 empty"),
        (too_few, "got none of the 1 documents"),
        (fifo, "neither file nor folder"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_data_is_exit_3_in_one_line(tmp_path, capfd, make, told):
    make(tmp_path / "c")
    assert run("--corpus", tmp_path / "c", "--output_dir", tmp_path / "d") == 3
    captured = capfd.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--dataset_dir", "d"], "--dataset_dir d is prepared already"),
        (["--corpus", "{corpus}", "--block_size", "1"], "--block_size 1"),
        (["--corpus", "{corpus}", "--split_ratios", "0.5,0.6"], "--split_ratios '0.5,0.6'"),
        (["--corpus", "{corpus}", "--formt", "code"], "--format"),
        (["--corpus", "{corpus}", "--format", "pdf"], "pdf"),
        (["--corpus", "{corpus}", "--tokenizer", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_wrong_usage_is_exit_2_in_one_line(corpus, capfd, argv, told):
    assert run(*[item.format(corpus=corpus) for item in argv]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1


def test_no_corpus_is_told(capfd):
    assert run() == 3
    assert "--corpus FOLDER" in capfd.readouterr().err


def test_a_folder_with_something_else_is_refused(corpus, tmp_path, capfd):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine.txt").write_text("mine")
    assert run("--corpus", corpus, "--output_dir", tmp_path / "d", *SETTINGS) == 2
    assert (tmp_path / "d" / "mine.txt").read_text() == "mine"
    assert "holds something" in capfd.readouterr().err
