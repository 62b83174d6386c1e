"""Corpora in buckets, by the command a user types: what is prepared is what the same files on the disk give."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import write_documents
from remote.test_s3 import S3Bucket

from llmforge import prepare
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.data.prepared import load_prepared
from llmforge.data.sources import remote
from llmforge.runtime.commands import run_command


@pytest.fixture(params=["gs", "s3"])
def place(request) -> str:
    """A new bucket of either kind."""
    if request.param == "gs":
        return request.getfixturevalue("bucket").url
    request.getfixturevalue("s3_proxy")
    return S3Bucket(request.getfixturevalue("s3_server"), f"corpora-{abs(hash(request.node.name)):x}").url


@pytest.fixture
def faults(place, request):
    """The proxy before it."""
    return request.getfixturevalue("proxy" if place.startswith("gs") else "s3_proxy")


@pytest.fixture
def files(tmp_path) -> Path:
    """Files of several kinds, one of them in a folder and with a name that has to be quoted, one compressed, one packed."""
    folder = write_documents(tmp_path / "docs", 30)
    (folder / "sub dir").mkdir()
    (folder / "sub dir" / "größe 100%.md").write_text("# A title\n\nA text with enough words to be kept as it is.\n" * 3)
    with gzip.open(folder / "faq.jsonl.gz", "wt") as file:
        for number in range(9):
            words = random.Random(number).sample("river stone copper lantern window harbour winter engine".split(), 6)
            file.write(json.dumps({"text": f"{' '.join(words)} {number}"}) + "\n")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("a/b.txt", "A text in an archive, with enough words in it to be kept.\n" * 3)
    return folder


def put(folder: Path, url: str) -> None:
    store = RemoteFolder(url)
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path, path.relative_to(folder).as_posix())


def prepared(out: str, *arguments: object) -> tuple[dict, dict[str, list]]:
    """What `llmforge prepare` makes of them: the splits as the card has them, and the token ids."""
    flags = ["--vocab_size", "350", "--block_size", "64", "--split_ratios", "1,0,0", "--dedup", "off", "--output_dir", out]
    assert run_command(prepare.main, [*map(str, arguments), *flags]) == 0
    data = load_prepared(out)
    return data.card["splits"], {name: split["input_ids"][:] for name, split in data.dataset.items()}


@pytest.mark.parametrize("place", ["gs", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_a_folder_a_glob_and_a_file_give_what_they_give_on_the_disk(place, files, tmp_path, own_cache):
    put(files, f"{place}/pre/docs")
    RemoteFolder(f"{place}/pre").put(tmp_path / "packed.zip", "packed.zip")
    for number, what in enumerate(("docs", "docs/*.go", "docs/faq.jsonl.gz")):
        here = prepared(f"here-{number}", "--corpus", tmp_path / what)
        shutil.rmtree(own_cache)
        assert prepared(f"there-{number}", "--corpus", f"{place}/pre/{what}") == here, what
    sources = [f"path={place}/pre/docs/faq.jsonl.gz", f"path={place}/pre/packed.zip,format=text"]
    splits, _ = prepared("both", "--source", *sources)
    assert sum(split["documents"] for split in splits.values()) == 10


def test_shards_of_token_ids(place, tokenizer_folder, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    source = np.random.default_rng(0)
    for number in range(2):
        np.savez_compressed(folder / f"shard-{number}.npz", ids=source.integers(5, 300, size=(20, 50), dtype=np.int32))
    put(folder, f"{place}/shards")
    flags = ("--format", "npz", "--tokenizer", tokenizer_folder)
    here = prepared("here", "--corpus", folder, *flags)
    assert sum(split["documents"] for split in here[0].values()) == 40
    assert prepared("there", "--corpus", f"{place}/shards", *flags) == here


def test_a_bit_that_flips_on_the_way_is_fetched_again(place, faults, files, own_cache, monkeypatch):
    put(files, f"{place}/docs")
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0))
    here = prepared("here", "--corpus", files / "file000.go")
    shutil.rmtree(own_cache)
    fault = faults.add("corrupt down", "download", name="file000")
    if place.startswith("gs"):  # which has no MD5 of what was uploaded in parts
        monkeypatch.setattr(remote, "_md5", lambda info: None)
    assert prepared("there", "--corpus", f"{place}/docs/file000.go") == here
    assert fault.hits > 1


@pytest.mark.parametrize("what", ["missing-bucket/docs", "{bucket}/nothing-here"])
def test_what_is_not_there_is_told_in_one_line(what, place, capfd):
    protocol, _, bucket = place.partition("://")
    url = f"{protocol}://{what.format(bucket=bucket)}"
    assert run_command(prepare.main, ["--corpus", url, "--output_dir", "out"]) == 3
    told = capfd.readouterr()
    assert url in told.err
    assert told.err.count("\n") == 1


@pytest.mark.slow
def test_nothing_of_the_libraries_is_printed(bucket, files, tmp_path):
    """In a process of its own, which has not silenced anything yet."""
    put(files, f"{bucket.url}/docs")
    command = [sys.executable, "-m", "llmforge", "prepare", "--corpus", f"{bucket.url}/docs", "--vocab_size", "350"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("GCSFS_")}  # which the tests have set
    command += ["--block_size", "64", "--output_dir", "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=alone)
    assert done.returncode == 0, done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if "bucket type" in line or "Traceback" in line]
