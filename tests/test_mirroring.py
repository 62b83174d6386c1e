"""What a run makes of --remote and --resume URL before it trains."""

from __future__ import annotations

import json
import logging
import threading

import pytest
from checkpoints.stores import checkpoint

from llmforge import mirroring
from llmforge.checkpoints.mirrored import send_checkpoint
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.configs.remote import RemoteArguments
from llmforge.configs.run import PretrainConfig, RunArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.errors import CheckpointError, ConfigError
from llmforge.pretrain import parse_pretrain
from llmforge.run import _find
from llmforge.runtime.run_folder import RunFolder


@pytest.fixture
def config(tmp_path):
    def make(resume: str | None = None, remote: bool = True) -> PretrainConfig:
        return PretrainConfig(
            training=ForgeTrainingArguments(output_dir=str(tmp_path / "runs" / "mine"), use_cpu=True),
            run=RunArguments(resume=resume),
            remote=RemoteArguments(remote=f"file://{tmp_path}/store" if remote else None),
        )

    return make


@pytest.fixture
def store(tmp_path):
    return RemoteFolder(f"file://{tmp_path}/store/mine")


@pytest.mark.parametrize(
    ("resume", "is_url"), [("gs://b/run", True), ("file:///a/run", True), ("runs/a", False), ("newest", False), (None, False)]
)
def test_what_is_a_url(resume, is_url):
    assert mirroring.is_remote(resume) is is_url


def test_where_a_run_goes_on_whose_url_alone_is_given():
    assert mirroring.default_folder("gs://bucket/prefix/mine/checkpoint-500") == "runs/mine"
    assert mirroring.default_folder("gs://bucket/prefix/mine/") == "runs/mine"


def test_a_run_lies_under_its_own_name(config, tmp_path):
    assert mirroring.mirror_url(config()) == f"file://{tmp_path}/store/mine"
    assert mirroring.mirror_url(config(remote=False)) is None


def test_the_newer_one_is_taken_and_without_a_remote_nothing_is_asked(config, store, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    send_checkpoint(store, checkpoint(elsewhere, 10))
    folder = tmp_path / "runs" / "mine"
    local = checkpoint(folder, 10)
    assert mirroring.restore(config("newest"), folder, local) == local
    assert mirroring.restore(config("newest", remote=False), folder, None) is None
    send_checkpoint(store, checkpoint(elsewhere, 15))
    assert mirroring.restore(config("newest"), folder, local) == folder / "checkpoint-15"
    named = mirroring.restore(config(f"{store.url}/checkpoint-10"), folder, None)
    assert named == folder / "checkpoint-10"


def test_a_run_s_url_takes_what_is_newer_here_too(config, store, tmp_path, caplog, monkeypatch):
    """What could not be uploaded when the machine went down is not to be trained again."""
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.INFO, "llmforge")
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "runs" / "mine"
    send_checkpoint(store, checkpoint(elsewhere, 5))
    send_checkpoint(store, checkpoint(elsewhere, 10, best=5))
    asked = config(store.url, remote=False)
    newer = checkpoint(folder, 15, best=5)
    assert mirroring.restore(asked, folder, newer) == newer
    assert "checkpoint-15 here is taken" in caplog.text
    assert (folder / "checkpoint-5").is_dir()  # the best, which was only there
    assert not (folder / "checkpoint-10").exists()
    older = checkpoint(folder, 7)
    assert mirroring.restore(asked, folder, older) == folder / "checkpoint-10"
    assert "is newer than checkpoint-7" in caplog.text
    exactly = config(f"{store.url}/checkpoint-5", remote=False)
    assert mirroring.restore(exactly, folder, None) == folder / "checkpoint-5"


def test_what_a_run_s_url_finds_on_the_disk_is_verified_like_any_other(config, store, tmp_path):
    folder, asked = tmp_path / "runs" / "mine", config(store.url, remote=False)
    send_checkpoint(store, checkpoint(tmp_path / "elsewhere", 10))
    newer = checkpoint(folder, 15)
    assert _find(folder, asked) == str(newer)
    (newer / "optimizer.pt").write_text("damaged")
    assert _find(folder, asked) == str(folder / "checkpoint-10")


def test_a_run_s_url_without_a_checkpoint_takes_the_one_here(config, store, tmp_path):
    store.write("run.json", b'{"run_id": "run"}')
    local = checkpoint(tmp_path / "runs" / "mine", 15)
    assert mirroring.restore(config(store.url), tmp_path / "runs" / "mine", local) == local


def test_a_newer_checkpoint_of_another_run_is_not_taken_for_the_url_s(config, store, tmp_path):
    send_checkpoint(store, checkpoint(tmp_path / "elsewhere", 10))
    folder = tmp_path / "runs" / "mine"
    local = checkpoint(folder, 15, run_id="other")
    (folder / "run.json").write_text(json.dumps({"run_id": "run"}))
    with pytest.raises(ConfigError, match="holds another run"):
        mirroring.restore(config(store.url), folder, local)


@pytest.mark.parametrize(
    ("resume", "here"), [("gs://b/run", "newest"), ("gs://b/run/checkpoint-5", None), ("newest", "newest"), ("c-5", "c-5")]
)
def test_what_is_looked_for_on_the_disk(resume, here):
    assert mirroring.wanted_here(resume) == here


def test_the_store_forgets_an_end_as_soon_as_the_run_goes_on(config, store, tmp_path):
    """Before training begins, which may take a while to be set up."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": "run"}))
    store.write("run.json", b'{"run_id": "run"}')
    store.write("exit.json", b'{"exit_code": 0}')
    mirror = mirroring.open_mirror(config("newest"), RunFolder(folder))
    mirroring.close(mirror)
    assert "exit.json" not in store.names()


@pytest.mark.parametrize("rank", [0, 2])
def test_each_of_several_machines_refuses_to_restore_for_itself(rank, config, monkeypatch):
    resumed = config("file:///nowhere/run")
    for name, value in (("RANK", rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigError, match="on several machines"):
        mirroring.check_remote(resumed)


def test_what_is_named_and_not_there_is_refused(config, store, tmp_path):
    for url in (store.url, f"{store.url}/checkpoint-5"):
        with pytest.raises(CheckpointError):
            mirroring.restore(config(url), tmp_path / "runs" / "mine", None)
    assert mirroring.restore(config("newest"), tmp_path / "runs" / "mine", None) is None


def test_another_run_in_the_store_is_refused_when_it_is_resumed_here(config, store, tmp_path):
    send_checkpoint(store, checkpoint(tmp_path / "elsewhere", 10, run_id="theirs"))
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"run_id": "mine"}))
    with pytest.raises(ConfigError, match="holds another run"):
        mirroring.restore(config("newest"), folder, None)


def test_a_dry_run_writes_nothing_into_the_store(corpus, tmp_path):
    flags = ["--preset", "gpt2-10m", "--corpus", str(corpus), "--output_dir", "runs/mine"]
    parse_pretrain([*flags, "--remote", f"file://{tmp_path}/store", "--dry_run"])
    assert not (tmp_path / "store").exists()
    parse_pretrain([*flags, "--remote", f"file://{tmp_path}/store"])
    assert (tmp_path / "store").exists()  # the probe, which leaves nothing but the folder
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_without_background_upload_checkpoints_are_not_written_in_the_background_either(corpus, tmp_path):
    flags = ["--preset", "gpt2-10m", "--corpus", str(corpus), "--output_dir", "runs/mine", "--no-background-upload"]
    assert parse_pretrain(flags).checkpoint.async_save
    assert not parse_pretrain([*flags, "--remote", f"file://{tmp_path}/store"]).checkpoint.async_save


@pytest.mark.parametrize("slow", [True, False])
def test_a_store_that_is_waited_for_is_named(slow, config, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "llmforge")
    told = threading.Event()
    monkeypatch.setattr(mirroring, "_PATIENCE", 0.01 if slow else 600)
    monkeypatch.setattr(mirroring.Courier, "ask", lambda *_: slow and told.wait(10))
    monkeypatch.setattr(mirroring.threading, "Timer", _telling(told))
    mirroring.check_remote(config())
    assert ("no answer from file://" in caplog.text) is slow


def _telling(told: threading.Event) -> type[threading.Timer]:
    class Timer(threading.Timer):
        def __init__(self, seconds, say, words):
            super().__init__(seconds, lambda: (say(*words), told.set()))

    return Timer
