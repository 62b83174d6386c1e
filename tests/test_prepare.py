"""`llmforge prepare`."""

from __future__ import annotations

import functools
import http.server
import json
import os
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


# What is in a dataset


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server on `folder`; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            """Addresses with their secrets, on standard error."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def prepared_with_copies(tmp_path, dedup: str):
    """Forty documents of their own, and as many that copy one of them but for a word in ten."""
    source = random.Random(0)
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(40):
        words = ["".join(source.choices("abcdefgh", k=source.randint(3, 7))) for _ in range(300)]
        (folder / f"{number}.txt").write_text(" ".join(words))
        changed = [source.choice(words) if source.random() < 0.05 else word for word in words]
        (folder / f"{number}-copy.txt").write_text(" ".join(changed))
    assert run("--corpus", folder, "--output_dir", tmp_path / "d", *SETTINGS, "--dedup", dedup, "--block_size", "128") == 0
    return tmp_path / "d"


def test_leaks_are_told_with_exit_code_7(tmp_path, capfd):
    folder = prepared_with_copies(tmp_path, "off")
    capfd.readouterr()
    assert run("--check_leaks", folder) == 7
    captured = capfd.readouterr()
    assert "in training" in captured.out
    assert re.search(r"training has [1-9]\d*\.\d% of (validation|test), in runs of (13|50) tokens", captured.err)
    assert run("--check_leaks", folder, "--json") == 7
    assert json.loads(capfd.readouterr().out)["share"] > 0.1


@pytest.mark.parametrize("dedup", ["drop", "together"])
def test_near_copies_never_leak_by_default(tmp_path, capfd, dedup):
    folder = prepared_with_copies(tmp_path, dedup)
    capfd.readouterr()
    assert run("--check_leaks", folder, "--json") == 0
    assert json.loads(capfd.readouterr().out)["share"] == 0.0


def test_rows_are_shown_with_the_borders_of_their_segments(tmp_path, capfd):
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"\x1b[31mdocument {number} says [bold]{number * number}[/bold]")
    out = tmp_path / "d"
    assert run("--corpus", folder, "--output_dir", out, *SETTINGS, "--dedup", "off", "--no-clean", "--block_size", "64") == 0
    capfd.readouterr()
    assert run("--inspect", out, "--inspect_rows", "2", "--json") == 0
    rows = json.loads(capfd.readouterr().out)
    assert [row["split"] for row in rows] == ["train", "train", "validation", "validation", "test", "test"]
    for row in rows:
        assert sum(segment["length"] for segment in row["segments"]) + row["padding"] == 64
        for segment in row["segments"]:
            number = segment["document"].removesuffix(".txt")
            assert segment["text"].startswith(f"<|endoftext|>\x1b[31mdocument {number} says")
            assert segment["target"] == "<|endoftext|>"
    assert run("--inspect", out) == 0
    shown = capfd.readouterr().out
    assert "\x1b" not in shown
    assert "[bold]" in shown
    assert f"── {rows[0]['segments'][0]['document']}, " in shown


@pytest.mark.parametrize("flag", ["--inspect", "--check_leaks"])
def test_a_folder_that_is_no_dataset_is_exit_3(tmp_path, capfd, flag):
    assert run(flag, tmp_path) == 3
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(tmp_path) in captured.err


def test_several_sources_by_flags(tmp_path, capfd):
    write_documents(tmp_path / "code")
    (tmp_path / "qa.jsonl").write_text(
        "".join(json.dumps({"question": f"what is {n}?", "answer": f"it is {n * n}"}) + "\n" for n in range(80))
    )
    sources = [
        "--source",
        f"path={tmp_path / 'code'},format=code",
        "--source",
        f"path={tmp_path / 'qa.jsonl'},content=qa,name=qa",
    ]
    assert run(*sources, "--output_dir", tmp_path / "d", *SETTINGS, "--dedup", "off") == 0
    card = load_prepared(tmp_path / "d").card
    assert [(source["name"], source["documents"]) for source in card["sources"]] == [(str(tmp_path / "code"), 60), ("qa", 80)]
    assert "`qa` (auto): 1 files" in (tmp_path / "d" / "data_card.md").read_text(encoding="utf-8")


def test_secrets_in_an_address_are_in_no_file(tmp_path, capfd):
    with served(write_documents(tmp_path / "c", suffix=".txt")) as address:
        url = address.replace("http://", "http://user:hunter2@") + "/file000.txt?token=opensesame"
        flags = ["--split_ratios", "1", "--vocab_size", "320", "--block_size", "32"]
        assert run("--corpus", url, "--output_dir", tmp_path / "d", *flags) == 0
    captured = capfd.readouterr()
    written = [path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()]
    assert load_prepared(tmp_path / "d").card["corpus"]["files"] == 1
    for secret in ("hunter2", "opensesame"):
        assert secret not in captured.out + captured.err
        assert not any(secret.encode() in content for content in written)
