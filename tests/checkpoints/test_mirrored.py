"""A checkpoint in a store exists once its manifest does."""

from __future__ import annotations

import shutil

import pytest
from checkpoints.stores import FILES, checkpoint

from llmforge.checkpoints.failures import RemoteError
from llmforge.checkpoints.fetch import download_checkpoint, newest_remote, restore_run
from llmforge.checkpoints.manifest import MANIFEST, verify, write_manifest
from llmforge.checkpoints.mirrored import (
    delete_checkpoint,
    read_remote_manifest,
    refuse_other_run,
    remote_checkpoints,
    remote_leftovers,
    remote_run_id,
    send_checkpoint,
    withdraw_after,
)
from llmforge.checkpoints.probe import probe
from llmforge.checkpoints.remote import RemoteFolder
from llmforge.errors import CheckpointError, ConfigError, StorageError


@pytest.fixture
def remote(tmp_path):
    return RemoteFolder(f"file://{tmp_path}/store/run")


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


class Watch(RemoteFolder):
    """Notes what is stored and deleted, in order; `fail` names an object at which the store breaks."""

    def __init__(self, url, fail=None):
        super().__init__(url)
        self.done, self.fail = [], fail

    def put(self, local, name, *rest):
        if self.fail == name:
            raise RemoteError("the store is gone")
        sent = super().put(local, name, *rest)
        self.done.append(name)
        return sent

    def delete(self, name):
        if self.fail == name:
            raise RemoteError("the store is gone")
        super().delete(name)
        self.done.append(f"-{name}")


def test_the_manifest_goes_last_and_the_checkpoint_comes_back_whole(remote, run, tmp_path):
    path = checkpoint(run, 5)
    store = Watch(f"file://{tmp_path}/store/run")
    sent = send_checkpoint(store, path)
    assert sent == sum(file.stat().st_size for file in path.iterdir())
    assert store.done[-1] == f"checkpoint-5/{MANIFEST}"
    assert len(store.done) == len(FILES) + 2
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    assert send_checkpoint(remote, path) == 0
    shutil.rmtree(run)
    back = download_checkpoint(remote, "checkpoint-5", run)
    assert back == path
    assert verify(back) == []
    assert [item.name for item in run.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize("at", [*FILES, "trainer_state.json", MANIFEST])
def test_an_upload_that_breaks_off_shows_no_checkpoint(remote, run, tmp_path, at):
    path = checkpoint(run, 5)
    with pytest.raises(RemoteError):
        send_checkpoint(Watch(f"file://{tmp_path}/store/run", f"checkpoint-5/{at}"), path)
    assert remote_checkpoints(remote) == []
    assert newest_remote(remote) is None
    assert remote_leftovers(remote) == ["checkpoint-5"]
    send_checkpoint(remote, path)
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    assert remote_leftovers(remote) == []


def test_a_step_that_was_made_anew_does_not_exist_until_it_is_whole(remote, run, tmp_path):
    path = checkpoint(run, 5)
    (path / "scaler.pt").write_text("of the first")
    (path / MANIFEST).unlink()
    write_manifest(path, "run", 5)
    send_checkpoint(remote, path)
    shutil.rmtree(path)
    path = checkpoint(run, 5, content="anew")
    with pytest.raises(RemoteError):
        send_checkpoint(Watch(f"file://{tmp_path}/store/run", "checkpoint-5/optimizer.pt"), path)
    assert remote_checkpoints(remote) == []
    send_checkpoint(remote, path)
    shutil.rmtree(run)
    assert "anew" in (download_checkpoint(remote, "checkpoint-5", run) / "model.safetensors").read_text()
    assert "checkpoint-5/scaler.pt" not in remote.names()


def test_what_is_damaged_here_is_not_uploaded(remote, run):
    path = checkpoint(run, 5)
    (path / "model.safetensors").write_text("model.safetensors of 6 ")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        send_checkpoint(remote, path)
    assert remote_checkpoints(remote) == []


@pytest.mark.parametrize("at", [f"checkpoint-5/{MANIFEST}", "checkpoint-5/config.json"])
def test_a_deletion_that_breaks_off_leaves_a_whole_checkpoint_or_none(remote, run, tmp_path, at):
    send_checkpoint(remote, checkpoint(run, 5))
    with pytest.raises(RemoteError):
        delete_checkpoint(Watch(f"file://{tmp_path}/store/run", at), "checkpoint-5", "run")
    if remote_checkpoints(remote):
        assert len(remote.names()) == len(FILES) + 2
    else:
        assert delete_checkpoint(remote, "checkpoint-5", "run") is False  # not known to be ours
        assert delete_checkpoint(remote, "checkpoint-5", "run", uploaded=True)
        assert remote.names() == []


def test_only_checkpoints_of_the_run_are_deleted(remote, run, tmp_path):
    send_checkpoint(remote, checkpoint(run, 5, run_id="other"))
    beside = tmp_path / "store" / "beside"
    beside.write_text("somebody's")
    assert delete_checkpoint(remote, "checkpoint-5", "run", uploaded=True) is False
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    for name in ("final", "../beside", ".", "", "checkpoint-5/config.json"):
        with pytest.raises(RemoteError):
            delete_checkpoint(remote, name, "other", uploaded=True)
    assert beside.exists()
    assert len(remote.names()) == len(FILES) + 2
    with pytest.raises(RemoteError, match="another run"):
        shutil.rmtree(run)
        send_checkpoint(remote, checkpoint(run, 5))


def test_a_place_that_holds_another_run_is_refused(remote, run, tmp_path):
    refuse_other_run(remote, "run")
    assert remote_run_id(remote) is None
    send_checkpoint(remote, checkpoint(run, 5))
    assert remote_run_id(remote) == "run"
    refuse_other_run(remote, "run")
    with pytest.raises(ConfigError, match="already holds another run"):
        refuse_other_run(remote, None)
    remote.write("run.json", b'{"run_id": "third"}')
    with pytest.raises(ConfigError, match="third"):
        refuse_other_run(remote, "run")


def test_a_course_that_was_left_is_no_checkpoint_any_more_and_its_files_stay(remote, run):
    for step in (5, 10, 15):
        send_checkpoint(remote, checkpoint(run, step))
    before = len(remote.names())
    assert withdraw_after(remote, 5, "run") == ["checkpoint-10", "checkpoint-15"]
    assert remote_checkpoints(remote) == ["checkpoint-5"]
    assert len(remote.names()) == before
    assert remote_leftovers(remote) == []


def test_a_damaged_manifest_of_a_course_that_was_left_is_set_aside_too(remote, run):
    """It would be in the way of every upload otherwise."""
    for step in (5, 10):
        send_checkpoint(remote, checkpoint(run, step))
    remote.write(f"checkpoint-10/{MANIFEST}", b"{")
    assert withdraw_after(remote, 5, "run") == ["checkpoint-10"]
    assert remote_checkpoints(remote) == ["checkpoint-5"]


def test_damaged_manifests_are_passed_over(remote, run):
    for step in (5, 10, 15):
        send_checkpoint(remote, checkpoint(run, step))
    remote.write(f"checkpoint-15/{MANIFEST}", remote.read(f"checkpoint-15/{MANIFEST}")[:-20])
    remote.write(f"checkpoint-10/{MANIFEST}", remote.read(f"checkpoint-5/{MANIFEST}"))
    assert newest_remote(remote) == "checkpoint-5"
    with pytest.raises(CheckpointError, match="of step 5"):
        read_remote_manifest(remote, "checkpoint-10")


# Down again


def test_a_download_that_was_killed_goes_on(remote, run, tmp_path):
    send_checkpoint(remote, checkpoint(run, 5))
    shutil.rmtree(run)
    fetched = []

    class Counting(RemoteFolder):
        def get(self, name, path, sha256=None):
            fetched.append(name)
            if len(fetched) == 3:
                raise KeyboardInterrupt
            super().get(name, path, sha256)

        def each(self, work, items):
            return [work(item) for item in items]

    store = Counting(f"file://{tmp_path}/store/run")
    with pytest.raises(KeyboardInterrupt):
        download_checkpoint(store, "checkpoint-5", run)
    assert not (run / "checkpoint-5").exists()
    staging = run / ".download-checkpoint-5"
    assert len(list(staging.iterdir())) == 2
    (staging / "stray").write_text("not in the manifest")
    fetched[:] = [""] * 3
    download_checkpoint(store, "checkpoint-5", run)
    assert len(fetched) == 3 + len(FILES) + 1 - 2
    assert verify(run / "checkpoint-5") == []
    assert not staging.exists()


def test_what_is_damaged_in_the_store_is_passed_over_or_refused_by_name(remote, run, tmp_path):
    for step in (5, 10):
        send_checkpoint(remote, checkpoint(run, step))
    shutil.rmtree(run)
    (tmp_path / "store" / "run" / "checkpoint-10" / "model.safetensors").write_text("model.safetensors of 11 ")
    with pytest.raises(CheckpointError, match=r"checkpoint-10/model.safetensors is damaged"):
        restore_run(remote, str(run), "checkpoint-10")
    assert not (run / "checkpoint-10").exists()
    assert restore_run(remote, str(run)) == str(run / "checkpoint-5")
    (tmp_path / "store" / "run" / "checkpoint-5" / "optimizer.pt").unlink()
    shutil.rmtree(run)
    with pytest.raises(CheckpointError, match="None of the 2 checkpoints"):
        restore_run(remote, str(run))
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        restore_run(remote, str(run), "checkpoint-7")


def test_a_run_is_restored_with_its_best_checkpoint_and_its_records(remote, run):
    send_checkpoint(remote, checkpoint(run, 5))
    send_checkpoint(remote, checkpoint(run, 10))
    send_checkpoint(remote, checkpoint(run, 15, best=5))
    remote.write("run.json", b'{"run_id": "run"}')
    remote.write("metrics.jsonl", b'{"step": 1}\n')
    shutil.rmtree(run)
    assert restore_run(remote, str(run)) == str(run / "checkpoint-15")
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-15", "checkpoint-5", "metrics.jsonl", "run.json"]


def test_only_something_newer_is_fetched(remote, run):
    assert restore_run(remote, str(run)) is None
    send_checkpoint(remote, checkpoint(run, 5))
    assert restore_run(remote, str(run), above=5) is None
    shutil.rmtree(run)
    assert restore_run(remote, str(run), above=4) == str(run / "checkpoint-5")


def test_a_folder_of_another_run_is_not_restored_into(remote, run):
    send_checkpoint(remote, checkpoint(run, 5))
    shutil.rmtree(run)
    run.mkdir()
    (run / "run.json").write_text('{"run_id": "mine"}')
    with pytest.raises(ConfigError, match="holds another run"):
        restore_run(remote, str(run))


def test_no_room_is_told_before_anything_is_fetched(remote, run, monkeypatch):
    send_checkpoint(remote, checkpoint(run, 5))
    shutil.rmtree(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(StorageError, match=r"takes 0 MiB and .* has 0 MiB left"):
        restore_run(remote, str(run))


# The start


def test_the_probe_leaves_nothing(remote):
    probe(remote)
    assert remote.names() == []


@pytest.mark.parametrize(("method", "said"), [("write", "written"), ("read", "read back"), ("delete", "deleted")])
def test_the_probe_says_what_cannot_be_done(remote, monkeypatch, method, said):
    def denied(name, *rest):
        raise RemoteError(f"{remote.url}/{name}: permission denied (HttpError 403).", "Grant it.", "denied")

    monkeypatch.setattr(remote, method, denied)
    with pytest.raises(StorageError, match=f"nothing can be {said} there: permission denied .* Grant it") as caught:
        probe(remote)
    assert caught.value.exit_code == 5
    assert ".probe-" not in str(caught.value)
