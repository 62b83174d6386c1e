"""Which checkpoint `--resume` means."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from llmforge.checkpoints.resume import find_checkpoint, missing_file
from llmforge.errors import CheckpointError
from llmforge.runtime.commands import run_command

FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "config.json", "model.safetensors", "rng_state.pth")


def checkpoint(folder: Path, name: str, without: str | None = None) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    for file in FILES:
        if file != without:
            (path / file).write_text("{}")
    return path


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What the library warned of."""
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.WARNING, "llmforge")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llmforge"]


def test_a_whole_checkpoint_lacks_nothing(tmp_path):
    assert missing_file(checkpoint(tmp_path, "checkpoint-1")) is None


@pytest.mark.parametrize("file", FILES)
def test_each_file_that_resuming_reads_is_missed(tmp_path, file):
    assert missing_file(checkpoint(tmp_path, "checkpoint-1", without=file)) == file


def test_shards_and_one_random_state_a_process_are_enough(tmp_path):
    path = checkpoint(tmp_path, "checkpoint-1")
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "rng_state.pth").rename(path / "rng_state_0.pth")
    assert missing_file(path) is None


def test_the_newest_is_the_one_of_the_highest_step(tmp_path, warnings):
    """Not by name (9 after 10) and not by the clock."""
    for step in (9, 100, 20):
        checkpoint(tmp_path, f"checkpoint-{step}")
    os.utime(tmp_path / "checkpoint-100", (0, 0))
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert warnings() == []


@pytest.mark.parametrize("file", FILES)
def test_an_incomplete_newer_one_is_passed_over_and_named(tmp_path, warnings, file):
    good = checkpoint(tmp_path, "checkpoint-5")
    checkpoint(tmp_path, "checkpoint-10", without=file)
    assert find_checkpoint(tmp_path) == good
    (message,) = warnings()
    assert "checkpoint-10" in message
    assert file in message


def test_every_one_that_is_passed_over_is_named(tmp_path, warnings):
    good = checkpoint(tmp_path, "checkpoint-5")
    checkpoint(tmp_path, "checkpoint-10", without="optimizer.pt")
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-30").write_text("a file")
    assert find_checkpoint(tmp_path) == good
    assert [message.split()[0] for message in warnings()] == ["checkpoint-30", "checkpoint-20", "checkpoint-10"]


@pytest.mark.parametrize(
    "others", [[], ["final", "checkpoint-best", "checkpoint-5.partial", "my-checkpoint-7", "tmp-checkpoint-9"]]
)
def test_where_none_was_ever_saved_there_is_none(tmp_path, others):
    for name in others:
        checkpoint(tmp_path, name)
    assert find_checkpoint(tmp_path) is None


def test_a_run_folder_that_is_not_there_has_none(tmp_path):
    assert find_checkpoint(tmp_path / "nowhere") is None


def test_where_all_are_damaged_it_is_exit_4(tmp_path, capsys):
    for step in (1, 2):
        checkpoint(tmp_path, f"checkpoint-{step}", without="optimizer.pt")
    with pytest.raises(CheckpointError, match="None of the 2 checkpoints"):
        find_checkpoint(tmp_path)
    assert run_command(lambda argv: find_checkpoint(tmp_path), []) == 4
    assert capsys.readouterr().err.count("None of the 2") == 1


def test_by_name(tmp_path):
    for step in (1, 2):
        checkpoint(tmp_path, f"checkpoint-{step}")
    assert find_checkpoint(tmp_path, "checkpoint-1") == tmp_path / "checkpoint-1"


def test_by_path(tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "other", "checkpoint-7")
    assert find_checkpoint(tmp_path / "run", str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(tmp_path / "run", "other/checkpoint-7") == Path("other/checkpoint-7")


def test_a_name_means_the_run_s_own_first(tmp_path, monkeypatch):
    checkpoint(tmp_path, "checkpoint-1")
    own = checkpoint(tmp_path / "run", "checkpoint-1")
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint(tmp_path / "run", "checkpoint-1") == own


def test_one_that_is_not_there_is_refused_though_others_are(tmp_path):
    checkpoint(tmp_path, "checkpoint-1")
    with pytest.raises(CheckpointError, match=r"--resume checkpoint-3: no such checkpoint.*--resume alone"):
        find_checkpoint(tmp_path, "checkpoint-3")


def test_a_named_one_that_is_damaged_is_refused_and_not_replaced_by_another(tmp_path):
    checkpoint(tmp_path, "checkpoint-1")
    checkpoint(tmp_path, "checkpoint-2", without="scheduler.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint-2 has no scheduler\.pt"):
        find_checkpoint(tmp_path, "checkpoint-2")
