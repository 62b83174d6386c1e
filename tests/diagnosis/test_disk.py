"""The disk, as it is: a full one, one that may not be written, one that does not answer."""

from __future__ import annotations

import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from simulated import healthy, put

from llmforge.diagnosis import disk
from llmforge.diagnosis.disk import look_at_disk
from llmforge.diagnosis.machine import Machine


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk: Path):
    [found] = look_at_disk(Machine(), str(small_disk / "runs"))
    assert (found.level, found.see) == ("failure", "disk-full")
    assert "No space left on device" in found.text
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_works_is_left_as_it_was(tmp_path: Path):
    found = [item for item in look_at_disk(Machine(), str(tmp_path / "runs" / "mine")) if item.level == "failure"]
    assert found == []
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_named_as_it_was_given(tmp_path: Path):
    [found] = look_at_disk(healthy(tmp_path), str(tmp_path / "runs"))
    assert found.text.startswith(f"{tmp_path / 'runs'} (to be made in {tmp_path}): 50.0 GiB free of 100.0 GiB, ")
    [found] = look_at_disk(healthy(tmp_path), str(tmp_path))
    assert found.text.startswith(f"{tmp_path}: ")


def test_a_file_in_the_way(tmp_path: Path):
    (tmp_path / "runs").write_text("")
    [found] = look_at_disk(Machine(), str(tmp_path / "runs"))
    assert (found.level, found.text) == ("failure", f"{tmp_path / 'runs'} is a file.")


def test_a_folder_that_takes_no_files():
    [found] = look_at_disk(Machine(), "/proc/runs")
    assert found.level == "failure"
    assert "cannot be written" in found.text
    assert "may write to" in found.remedy


def test_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(disk, "PATIENCE", 0.2)
    end = threading.Event()

    def hang(folder: Path, block: bytes, blocks: int) -> float:
        end.wait(30)
        return 1.0

    [found] = look_at_disk(healthy(tmp_path, write=hang), str(tmp_path))
    end.set()
    assert (found.level, found.see) == ("failure", "slow-disk")
    assert "does not answer" in found.text


@pytest.mark.parametrize("hangs", [True, False], ids=["for ever", "a while"])
def test_a_disk_that_crawls_is_slow_and_not_dead(hangs, tmp_path: Path, monkeypatch):
    """Small writes come back, whatever becomes of the large one."""
    monkeypatch.setattr(disk, "PATIENCE", 0.5)
    end, asked = threading.Event(), []

    def crawl(folder: Path, block: bytes, blocks: int) -> float:
        asked.append(len(block) * blocks)
        if hangs and len(block) > 512:
            end.wait(30)
        return len(block) * blocks / 0.25e6

    [found] = look_at_disk(healthy(tmp_path, write=crawl), str(tmp_path))
    end.set()
    assert (found.level, found.see) == ("warning", "slow-disk")
    assert ("less than 1.7 MB/s synced" if hangs else "0.2 MB/s synced") in found.text
    assert max(asked) <= 1 << 20  # 32 MiB would take minutes


def test_a_disk_in_memory_is_noted(tmp_path: Path):
    machine = healthy(tmp_path)
    put(machine, {"proc/mounts": f"/dev/vda / ext4 rw 0 0\nnone {tmp_path} tmpfs rw 0 0\n"})
    assert [item.level for item in look_at_disk(machine, str(tmp_path / "runs"))] == ["ok", "note"]
    assert [item.level for item in look_at_disk(machine, "/runs-of-nobody")] == ["ok"]
