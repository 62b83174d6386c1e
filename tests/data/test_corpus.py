"""The engine: what has not changed is not read again, what was killed is gone on with, whatever does the reading."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import write_documents

from llmforge.configs.data import DataArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.data import reading as engine
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import load_prepared
from llmforge.data.reading import read_shards
from llmforge.errors import DataError
from llmforge.fast_tokens import Encoder

BLOCK = 32
SMALL = {"_SMALLEST": 1500, "_LARGEST": 20_000, "_BORDER": 4}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, own_cache) -> None:
    """Shards of some ten small files, in a cache of the test's own."""
    for name, value in SMALL.items():
        monkeypatch.setattr(engine, name, value)


def data(*paths: Path | str, **changes) -> DataArguments:
    where = {"corpus": str(paths[0])} if len(paths) == 1 else {"source": list(paths)}
    settings = {"block_size": BLOCK, "split_ratios": "0.6,0.2,0.2", "dedup": "off", "prepare_workers": 1}
    return DataArguments(**where | settings | changes)


def words(seed: int, count: int = 30) -> str:
    """Text that is similar to no other."""
    source = random.Random(seed)
    return " ".join("".join(source.choices("abcdefghijklmnop", k=source.randint(2, 8))) for _ in range(count))


def write_texts(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:04d}.txt").write_text(words(number) + "\n")
    return folder


def rows_of(prepared) -> dict[str, bytes]:
    """The files of the rows, byte by byte."""
    return {
        str(path.relative_to(prepared.path)): path.read_bytes() for path in sorted((prepared.path / "dataset").rglob("*.arrow"))
    }


def count_calls(monkeypatch, owner, name: str) -> list:
    calls: list = []
    real = getattr(owner, name)

    def counted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_a_new_file_is_read_and_tokenized_with_its_neighbours_alone(tmp_path, monkeypatch):
    folder = write_texts(tmp_path / "c", 300)
    first = prepare_dataset(data(folder), TokenizerArguments(vocab_size=300), tmp_path / "out")
    made, encoded = count_calls(monkeypatch, engine, "_make"), count_calls(monkeypatch, Encoder, "encode_batch")
    (folder / "0150b.txt").write_text(words(9999))
    second = prepare_dataset(data(folder), TokenizerArguments(), tmp_path / "out")
    assert len(list((tmp_path / "cache" / "shards" / "text").rglob("*.arrow"))) > 20
    assert sum(len(job.units) for job, _ in made) < 50
    assert len(made) <= 2
    assert 1 <= len(encoded) <= 2
    assert second.card["corpus"]["files"] == 301
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "another"))
    whole = prepare_dataset(data(folder), TokenizerArguments(tokenizer=str(first.path / "tokenizer")), tmp_path / "whole")
    assert rows_of(whole) == rows_of(second)


def test_a_file_that_changes_or_goes_is_noticed(tmp_path):
    folder = write_texts(tmp_path / "c", 80)
    before = set(read_shards(data(folder)).names.to_pylist())
    (folder / "0007.txt").unlink()
    (folder / "0008.txt").write_text("changed to this " + words(5000))
    corpus = read_shards(data(folder))
    assert before - set(corpus.names.to_pylist()) == {"0007.txt"}
    assert [text for _, text in corpus.texts() if text.startswith("changed")] == ["changed to this " + words(5000)]


@pytest.mark.parametrize("change", [{"min_characters": 150}, {"clean": False}, {"split_seed": 3}, {"dedup": "drop"}])
def test_other_settings_are_read_anew(tmp_path, monkeypatch, change):
    folder = write_texts(tmp_path / "c", 60)
    read_shards(data(folder))
    made = count_calls(monkeypatch, engine, "_make")
    read_shards(data(folder))
    assert made == []
    read_shards(data(folder, **change))
    assert made


def test_processes_give_the_same_dataset_as_one(tmp_path, monkeypatch):
    folder = write_texts(tmp_path / "c", 120)
    alone = prepare_dataset(data(folder), TokenizerArguments(vocab_size=300), tmp_path / "one")
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(engine, "_WORTH_A_PROCESS", 0)
    monkeypatch.setattr(engine, "_make_several", _refuse_here(os.getpid()))
    several = prepare_dataset(data(folder, prepare_workers=2), TokenizerArguments(vocab_size=300), tmp_path / "two")
    assert rows_of(several) == rows_of(alone)
    assert several.fingerprint == alone.fingerprint


class _refuse_here:
    """`engine._make_several`, but not in the process of the test."""

    def __init__(self, process: int):
        self.process = process

    def __call__(self, jobs):
        assert os.getpid() != self.process
        from llmforge.data.reading import _make_several

        return _make_several(jobs)


def test_a_script_without_a_guard_runs_once(tmp_path):
    folder = write_texts(tmp_path / "c", 60)
    (tmp_path / "script.py").write_text(f"""
from llmforge.data import corpus
import llmforge
corpus._SMALLEST, corpus._WORTH_A_PROCESS = 1500, 0
print("the script runs")
data = llmforge.DataArguments(corpus={str(folder)!r}, block_size=32, dedup="off", prepare_workers=2)
print(len(llmforge.prepare_dataset(data, llmforge.TokenizerArguments(vocab_size=300)).rows("train")) > 0)
""")
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=True)
    assert done.stdout == "the script runs\nTrue\n"
    assert "Traceback" not in done.stderr
    assert "lost" not in done.stderr


def test_a_lost_process_is_made_up_for(tmp_path, monkeypatch, caplog):
    folder = write_texts(tmp_path / "c", 60)
    (tmp_path / "fatal.py").write_text(
        "import multiprocessing, os\ndef clean(text):\n    if multiprocessing.parent_process() is not None:\n"
        "        os._exit(9)\n    return text\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(engine, "_WORTH_A_PROCESS", 0)
    corpus = read_shards(data(folder, prepare_workers=2, cleaner="fatal:clean"))
    assert len(corpus) == 60
    assert "a reading process was lost" in caplog.text


def test_bad_data_in_a_process_is_told_as_in_one(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(40):
        lines = [json.dumps({"text": words(100 * number + line)}) for line in range(5)]
        (folder / f"{number:02d}.jsonl").write_text("\n".join([*lines, "{broken" if number == 31 else ""]))
    monkeypatch.setattr(engine, "_WORTH_A_PROCESS", 0)
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"31\.jsonl:6"):
            read_shards(data(folder, strict=True, prepare_workers=workers))


def test_sections_of_a_book_keep_its_group(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(5):
        (folder / f"book{number}.txt").write_text("\n\n".join(words(1000 * number + part) for part in range(60)))
    prepared = prepare_dataset(data(folder, group_by="file", split_ratios="0.6,0.4"), TokenizerArguments(vocab_size=300))
    splits: dict[str, set[str]] = {}
    for line in (prepared.path / "documents.jsonl").read_text().splitlines():
        splits.setdefault(json.loads(line)["name"].split("#")[0], set()).add(json.loads(line)["split"])
    assert len(splits) == 5
    assert all(len(found) == 1 for found in splits.values())
    assert prepared.card["splits"]["train"]["documents"] > 10


def test_weights_share_the_training_tokens(tmp_path):
    small, large = write_texts(tmp_path / "small", 60), write_texts(tmp_path / "large", 400, first=1000)
    prepared = prepare_dataset(
        data(f"path={small},weight=1,name=small", f"path={large},weight=1,name=large"), TokenizerArguments(vocab_size=300)
    )
    names = prepared.document_names(range(1000))
    tokens = {"small": 0, "large": 0}
    for row in prepared.dataset["train"]:
        for length, document in zip(row["segment_lengths"], row["segment_documents"], strict=True):
            tokens["small" if int(names[document][:4]) < 1000 else "large"] += length
    assert tokens["small"] / sum(tokens.values()) == pytest.approx(0.5, abs=0.02)
    shown = {part["source"]: part for part in prepared.card["mixture"]}
    assert shown["small"]["repeats"] > 2
    assert shown["small"]["achieved"] == pytest.approx(tokens["small"] / sum(tokens.values()), abs=1e-6)
    assert "| `small` | 50.0% |" in (prepared.path / "data_card.md").read_text(encoding="utf-8")
    once = [number for row in prepared.dataset["validation"]["segment_documents"] for number in row]
    assert len(set(once)) == prepared.card["splits"]["validation"]["documents"]


def test_a_source_may_be_a_split_of_its_own(tmp_path):
    train, held = write_texts(tmp_path / "train", 60), write_texts(tmp_path / "held", 20, first=1000)
    (held / "copied.txt").write_text(words(7) + "\n")
    prepared = prepare_dataset(
        data(f"path={train}", f"path={held},split=validation", split_ratios="1", dedup="drop"), TokenizerArguments(vocab_size=300)
    )
    documents = [json.loads(line) for line in (prepared.path / "documents.jsonl").read_text().splitlines()]
    assert {line["name"] for line in documents if line["split"] == "validation"} == {path.name for path in held.iterdir()}
    assert "0007.txt" not in {line["name"] for line in documents}
    assert prepared.card["dropped"]["examples"] == {"exact copy of a held-out document": ["0007.txt"]}


def test_a_header_that_all_share_is_told_and_trimmed_when_asked(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    header = "// Copyright 2021 The Authors. All rights reserved.\n// Use of this source is governed by a licence.\n\n"
    for number in range(60):
        (folder / f"{number:02d}.go").write_text(f"{header}package p{number}\n\n// {words(number)}\n")
    (folder / "notice.go").write_text(header)
    kept = prepare_dataset(data(folder, block_size=256), TokenizerArguments(vocab_size=300))
    assert kept.card["boilerplate"][0]["documents"] == 61
    assert "governed by a licence" in kept.card["boilerplate"][0]["excerpt"]
    trimmed = prepare_dataset(data(folder, block_size=256, trim_boilerplate=True), TokenizerArguments(vocab_size=300))
    assert trimmed.fingerprint != kept.fingerprint
    assert trimmed.card["dropped"]["examples"] == {"nothing but boilerplate": ["notice.go"]}
    for prepared, count in ((kept, kept.card["splits"]["train"]["documents"]), (trimmed, 0)):
        texts = [prepared.tokenizer.decode(ids) for ids in prepared.dataset["train"]["input_ids"]]
        assert sum(text.count("governed by a licence") for text in texts) == pytest.approx(count, abs=count / 10)
        assert any("package p" in text for text in texts)


@pytest.mark.parametrize(("dedup", "told"), [("drop", True), ("off", False)])
def test_text_that_is_similar_throughout_is_told(tmp_path, caplog, dedup, told):
    folder = tmp_path / "c"
    folder.mkdir()
    for number in range(200):
        own = words(number, 2 if number < 80 else 30)
        (folder / f"{number:03d}.txt").write_text(f"Equipment: digger\nSymptom: the engine stalls when cold\nCode: {own}\n")
    prepare_dataset(data(folder, dedup=dedup), TokenizerArguments(vocab_size=300))
    assert ("raise --dedup_threshold" in caplog.text) is told


def test_ids_of_others_become_rows(tmp_path, tokenizer_folder, text_tokenizer):
    folder = tmp_path / "ids"
    folder.mkdir()
    source = np.random.default_rng(0)
    documents = [source.integers(3, len(text_tokenizer), size=source.integers(5, 90)).tolist() for _ in range(80)]
    for number in range(4):
        own = [np.array([text_tokenizer.end_of_text, *ids]) for ids in documents[number * 20 : number * 20 + 20]]
        np.savez(folder / f"{number}.npz", input_ids=np.concatenate(own).astype(np.uint16))
    prepared = prepare_dataset(data(folder, format="npz"), TokenizerArguments(tokenizer=str(tokenizer_folder)))
    pieces: dict[int, list[int]] = {}
    for split in prepared.dataset.values():
        for row in split:
            start = 0
            for length, document in zip(row["segment_lengths"], row["segment_documents"], strict=True):
                ids = row["input_ids"][start : start + length]
                pieces.setdefault(document, []).extend(index for index in ids if index != text_tokenizer.end_of_text)
                start += length
    assert sorted(map(sorted, pieces.values())) == sorted(map(sorted, documents))


def test_ids_need_a_tokenizer_and_must_fit_it(tmp_path, tokenizer_folder, text_tokenizer):
    np.savez(tmp_path / "a.npz", np.arange(50, dtype=np.uint16))
    np.savez(tmp_path / "b.npz", np.array([len(text_tokenizer)], dtype=np.uint16))
    with pytest.raises(DataError, match=r"--tokenizer"):
        prepare_dataset(data(tmp_path, format="npz"), TokenizerArguments())
    with pytest.raises(DataError, match=rf"b\.npz.*{len(text_tokenizer)}"):
        prepare_dataset(data(tmp_path, format="npz", strict=True), TokenizerArguments(tokenizer=str(tokenizer_folder)))


#: What a process does to files, by Python's audit events.
TOUCHES = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.utime",
    "tempfile.mkstemp",
    "tempfile.mkdtemp",
}


def _prepare(folder: Path, out: Path, cache: Path, go, last: int, seen) -> None:
    """Prepare, killed just before the `last` touch of a file; `seen` counts them."""
    os.environ["LLMFORGE_CACHE"] = str(cache)
    vars(engine).update(SMALL)

    def count(event: str, arguments: tuple) -> None:
        if event in TOUCHES and str(out.parent) in str(arguments[0]):
            seen.value += 1
            if seen.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    go.set()
    prepare_dataset(data(folder), TokenizerArguments(vocab_size=300), out)


class Killing:
    """Runs of `_prepare` in processes of their own, and what an undisturbed one makes."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.corpus = write_texts(folder / "c", 250)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["llmforge.data.prepare", __name__])
        began = time.monotonic()
        self.touches = self.run("undisturbed")
        self.seconds = time.monotonic() - began
        self.expected = rows_of(load_prepared(folder / "undisturbed" / "out"))

    def run(self, name: str, last: int = 0, after: float | None = None) -> int:
        """Prepare in the folder `name`, killed at a touch or after some seconds; how many touches there were."""
        go, seen = self.context.Event(), self.context.Value("i", 0)
        arguments = (self.corpus, self.folder / name / "out", self.folder / name / "cache", go, last, seen)
        process = self.context.Process(target=_prepare, args=arguments)
        process.start()
        assert go.wait(120)
        if after is not None:
            time.sleep(after)
            process.kill()
        process.join(120)
        self.killed = process.exitcode == -signal.SIGKILL
        assert self.killed or process.exitcode == 0
        return seen.value

    def check(self, name: str) -> None:
        """The next run finishes, and makes what an undisturbed one makes."""
        self.run(name)
        assert not self.killed
        assert rows_of(load_prepared(self.folder / name / "out")) == self.expected


def test_killed_at_a_random_touch_of_a_file_the_next_run_finishes(tmp_path):
    killing = Killing(tmp_path)
    source = random.Random(1)
    for number in range(3):
        killing.run(f"k{number}", last=source.randint(1, killing.touches * 9 // 10))  # threads: their number varies a little
        assert killing.killed
        killing.check(f"k{number}")


@pytest.mark.slow
def test_killed_at_fifty_random_moments_the_next_run_finishes(tmp_path):
    killing = Killing(tmp_path)
    source = random.Random(2)
    hits = number = 0
    while hits < 50:
        number += 1
        killing.run(f"k{number}", after=source.uniform(0, killing.seconds))
        hits += killing.killed
        killing.check(f"k{number}")
    print(f"{hits} kills in {number} runs")


def test_a_full_disk_tears_nothing(tmp_path):
    """A limit on the size of a file makes the kernel refuse the write, as a full disk does."""
    folder = write_documents(tmp_path / "c", count=200)
    code = """
import resource, sys
from llmforge.prepare import main
from llmforge.runtime.commands import run_command
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(run_command(main, sys.argv[2:]))
"""
    argv = [
        "--corpus",
        str(folder),
        "--vocab_size",
        "300",
        "--block_size",
        "32",
        "--dedup",
        "off",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"LLMFORGE_CACHE": str(tmp_path / "cache")}
    for limit, expected in ((30_000, 5), (0, 0)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(limit), *argv], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, done.stderr
        assert (tmp_path / "out").exists() is (expected == 0)
        if expected:
            assert done.stderr.strip().splitlines()[-1].startswith("error: Cannot write")
            assert "Free some space" in done.stderr
