"""`llmforge tokenizer`: train and inspect."""

from __future__ import annotations

import json

import pytest
from helpers import write_documents

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.errors import ConfigError
from llmforge.runtime.commands import run_command
from llmforge.tokenization import load
from llmforge.tokenizer import inspect_tokenizer, main, train


def run(*argv) -> int:
    return run_command(main, [str(item) for item in argv])


def test_train_saves_a_tokenizer_and_reports(corpus, tmp_path, capfd):
    assert run("train", "--corpus", corpus, "--vocab_size", 320, "--output_dir", tmp_path / "t") == 0
    assert len(load(tmp_path / "t")) == 320
    out = capfd.readouterr().out
    assert "320 entries" in out
    assert "exact" in out


def test_train_uses_the_training_documents_only(corpus, tmp_path):
    data = DataArguments(corpus=str(corpus), split_ratios="0.5,0.5")
    half = train(data, TokenizerArguments(vocab_size=320), tmp_path / "a")
    whole = train(DataArguments(corpus=str(corpus), split_ratios="1"), TokenizerArguments(vocab_size=320), tmp_path / "b")
    assert half.backend.to_str() != whole.backend.to_str()


def test_json_is_one_object_and_nothing_else(corpus, tmp_path, capfd):
    assert run("train", "--corpus", corpus, "--vocab_size", 320, "--output_dir", tmp_path / "t", "--json") == 0
    trained = json.loads(capfd.readouterr().out)
    assert run("inspect", "--tokenizer", tmp_path / "t", "--corpus", corpus, "--json") == 0
    inspected = json.loads(capfd.readouterr().out)
    assert trained == inspected
    size = sum(path.stat().st_size for path in corpus.iterdir())
    assert (trained["vocab_size"], trained["requested_vocab_size"], trained["bytes"]) == (320, 320, size)
    assert trained["bytes_per_token"] == pytest.approx(size / trained["tokens"], abs=1e-4)
    assert trained["round_trip_failures"] == 0


def test_inspect_tells_how_a_tokenizer_fits(corpus, tokenizer_folder, capfd):
    assert run("inspect", "--tokenizer", tokenizer_folder, "--corpus", corpus) == 0
    out = capfd.readouterr().out
    assert "400" in out
    assert "round trip" in out


def test_inspect_counts(text_tokenizer):
    report = inspect_tokenizer(text_tokenizer, ["é é", ""])
    assert report.bytes == 5
    assert report.tokens == len(next(text_tokenizer.encode(["é é"])))
    used = set(next(text_tokenizer.encode(["é é"])).tolist())
    assert report.unused == len(text_tokenizer) - 2 - len(used)  # special tokens are no entries to use
    assert report.longest_tokens == sorted(report.longest_tokens, key=len, reverse=True)
    assert report.longest_tokens[0] == max(map(str.strip, report.longest_tokens), key=len)
    assert report.round_trip_failures == 0


def test_inspect_finds_documents_that_do_not_come_back(text_tokenizer):
    from tokenizers import Tokenizer, normalizers

    from llmforge.tokenization import TextTokenizer

    backend = Tokenizer.from_str(text_tokenizer.backend.to_str())
    backend.normalizer = normalizers.Lowercase()
    report = inspect_tokenizer(TextTokenizer(backend, 0, 1), ["data", "DATA"])
    assert report.round_trip_failures == 1


def test_inspect_of_an_empty_list_divides_by_nothing(text_tokenizer):
    report = inspect_tokenizer(text_tokenizer, [])
    assert (report.bytes, report.tokens, report.bytes_per_token) == (0, 0, 0)


def test_escapes_and_markup_in_a_corpus_do_not_reach_the_terminal(tmp_path, capfd):
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"{number} " + "\x1b[31mred[/red][bold]" * 20)
    assert run("train", "--corpus", folder, "--vocab_size", 300, "--output_dir", tmp_path / "t", "--no-clean", "--dedup=off") == 0
    out = capfd.readouterr().out
    assert "\x1b[31m" not in out
    assert "[bold]" in out or "bold" in out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["train", "--corpus", "{corpus}"], "--output_dir is missing"),
        (["train", "--corpus", "{corpus}", "--output_dir", "t", "--tokenizer", "x"], "--tokenizer x exists already"),
        (["inspect", "--corpus", "{corpus}"], "--tokenizer is missing"),
        (["inspect", "--corpus", "{corpus}", "--tokenizer", "nowhere/at-all"], "neither a folder nor a reachable hub id"),
        (["mend"], "mend: no such action"),
        (["train", "--corpus", "{corpus}", "--vocab_size", "12", "--output_dir", "t"], "--vocab_size 12"),
        (["train", "--corpus", "{corpus}", "--vocab_siez", "300"], "vocab_size"),
    ],
)
def test_wrong_usage_is_exit_2_in_one_line(corpus, capfd, tmp_path, argv, told):
    assert run(*[item.format(corpus=corpus) for item in argv]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("action", ["train", "inspect"])
def test_bad_data_is_exit_3_in_one_line(action, tokenizer_folder, capfd, tmp_path):
    where = ["--output_dir", tmp_path / "t"] if action == "train" else ["--tokenizer", tokenizer_folder]
    assert run(action, "--corpus", tmp_path / "nowhere", *where) == 3
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "no such file" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_the_actions(capfd, argv):
    assert run(*argv) == 0
    out = capfd.readouterr().out
    assert "train" in out
    assert "inspect" in out


def test_a_folder_in_use_is_refused_untouched(corpus, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--output_dir .*t holds something that is no tokenizer"):
        main(["train", "--corpus", str(corpus), "--output_dir", str(tmp_path / "t")])
    assert (tmp_path / "t" / "mine.txt").read_text() == "mine"


def test_retraining_replaces_the_tokenizer(tmp_path):
    corpus = write_documents(tmp_path / "c", count=20)
    common = ["train", "--corpus", str(corpus), "--split_ratios", "1", "--output_dir", str(tmp_path / "t")]
    main([*common, "--vocab_size", "300"])
    main([*common, "--vocab_size", "310", "--retrain_tokenizer"])
    assert len(load(tmp_path / "t")) == 310


def test_retraining_never_deletes_what_is_no_tokenizer(corpus, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.txt").write_text("years of work")
    run("train", "--corpus", corpus, "--vocab_size", 300, "--output_dir", tmp_path / "t", "--retrain_tokenizer")
    assert (tmp_path / "t" / "thesis.txt").read_text() == "years of work"


def test_retraining_never_deletes_a_file(corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    run("train", "--corpus", corpus, "--vocab_size", 300, "--output_dir", tmp_path / "thesis.txt", "--retrain_tokenizer")
    assert (tmp_path / "thesis.txt").is_file()
