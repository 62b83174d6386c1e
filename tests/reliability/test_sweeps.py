"""A slice of the sweeps that ``make chaos`` runs at length, and the controls of what they find things with."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from reliability import sweeps
from reliability.faults import can_mount, disorder, has_strace
from reliability.sweeps import Place

from llmforge.checkpoints import resume


@pytest.fixture(scope="module")
def place(tokenizer, corpus, tmp_path_factory):
    return Place(tmp_path_factory.mktemp("sweeps"), tokenizer, corpus)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMFORGE_CACHE", str(tmp_path / "cache"))  # which the rows set anew
    logger = logging.getLogger("llmforge")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def test_mode_10_every_file_of_a_real_checkpoint_damaged_in_every_way(place):
    result = sweeps.damage(place, flips=2, presets=("gpt2-10m",), train=0)
    assert result.cases > 70
    assert result.faults == []


def test_mode_10_control_without_verification_the_sweep_fails(place, monkeypatch):
    """All that is not a missing file goes unnoticed then."""
    monkeypatch.setattr(resume, "verify", lambda *_: [])
    result = sweeps.damage(place, flips=2, presets=("gpt2-10m",), train=0)
    assert len(result.faults) > result.cases * 0.8


def test_mode_25_killed_while_data_is_prepared(place):
    """Before its last rename: the next one finds nothing torn, and leaves nothing of it."""
    result = sweeps.cache_calls(place, numbers=[60])
    assert (result.cases, result.faults) == (1, [])


@pytest.mark.skipif(not can_mount(), reason="no disk of one's own can be had here")
def test_mode_25_a_really_full_disk_while_data_is_prepared(place):
    result = sweeps.full_cache(place, sizes=(60_000,))
    assert (result.cases, result.faults) == (1, [])


@pytest.mark.skipif(not has_strace(), reason="no strace")
def test_mode_25_files_are_synced_before_the_rename_and_the_folder_after_it(place):
    assert sweeps.cache_order(place).faults == []


#: What strace writes: a file in a staging folder, the manifest, the folder's rename, the sync of the folder it is in.
GOOD = """\
7 mkdir("/r/.staging-checkpoint-1", 0777) = 0
7 openat(AT_FDCWD</r>, "/r/.staging-checkpoint-1/m", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</r/.staging-checkpoint-1/m>
7 write(3</r/.staging-checkpoint-1/m>, ""..., 9) = 9
7 fsync(4</r/.staging-checkpoint-1/m> <unfinished ...>
8 write(5</elsewhere/log>, ""..., 9) = 9
7 <... fsync resumed>) = 0
7 openat(AT_FDCWD</r>, "/r/.staging-checkpoint-1/.partial-1", O_RDWR|O_CREAT, 0600) = 3</r/.staging-checkpoint-1/.partial-1>
7 write(3</r/.staging-checkpoint-1/.partial-1>, ""..., 9) = 9
7 fsync(4</r/.staging-checkpoint-1/.partial-1>) = 0
7 rename("/r/.staging-checkpoint-1/.partial-1", "/r/.staging-checkpoint-1/manifest.json") = 0
7 fsync(4</r/.staging-checkpoint-1>) = 0
7 rename("/r/.staging-checkpoint-1", "/r/checkpoint-1") = 0
7 fsync(4</r>) = 0
"""


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("", []),
        ("7 fsync(4</r/.staging-checkpoint-1/m> <unfinished ...>\n", ["m was written and not synced"]),
        ("7 fsync(4</r/.staging-checkpoint-1/.partial-1>) = 0\n", ["manifest.json was written and not synced"]),
        ("7 fsync(4</r/.staging-checkpoint-1>) = 0\n", ["/r/.staging-checkpoint-1 was given its manifest and not synced"]),
        ("7 fsync(4</r>) = 0\n", ["/r was not synced after a rename"]),
    ],
)
def test_control_a_sync_that_is_missing_is_found(lost, told, tmp_path):
    assert lost in GOOD
    (tmp_path / "log").write_text(GOOD.replace(lost, "") if lost else GOOD)
    renames, faults = disorder(tmp_path / "log", Path("/r"))
    assert renames == 2
    assert len(faults) == len(told)
    assert all(part in fault for part, fault in zip(told, faults, strict=True)), faults


def test_control_a_file_written_after_the_manifest_is_found(tmp_path):
    late = '7 write(3</r/.staging-checkpoint-1/m>, ""..., 9) = 9\n7 fsync(4</r/.staging-checkpoint-1/m>) = 0\n'
    rename = '7 rename("/r/.staging-checkpoint-1", "/r/checkpoint-1")'
    (tmp_path / "log").write_text(GOOD.replace(rename, late + rename))
    assert disorder(tmp_path / "log", Path("/r"))[1] == ["/r/.staging-checkpoint-1/m was written after the manifest"]
