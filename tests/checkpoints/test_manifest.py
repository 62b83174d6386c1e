"""What the manifest of a checkpoint finds, and what it does not believe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmforge.checkpoints.manifest import (
    MANIFEST,
    FileEntry,
    checkpoint_step,
    is_committed,
    list_checkpoints,
    read_manifest,
    verify,
    write_manifest,
)
from llmforge.errors import CheckpointError

FILES = {"model.safetensors": b"\x00" * 1000, "trainer_state.json": b'{"global_step": 7}', "more/part.bin": b"part", "empty": b""}
HASH = "0" * 64


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint-7"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, "run", 7)
    return folder


def rewrite(folder: Path, **changes) -> None:
    value = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(value | changes))


def test_it_lists_every_file_with_its_size_and_hash(checkpoint):
    manifest = read_manifest(checkpoint)
    assert (manifest.run_id, manifest.step) == ("run", 7)
    assert set(manifest.files) == set(FILES)
    # From `sha256sum`.
    assert manifest.files["empty"] == FileEntry(0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert manifest.files["model.safetensors"] == FileEntry(
        1000, "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53"
    )
    assert manifest.size == sum(map(len, FILES.values()))
    assert verify(checkpoint) == []


def test_it_is_the_same_written_again(checkpoint):
    before = (checkpoint / MANIFEST).read_bytes()
    write_manifest(checkpoint, "run", 7)
    assert (checkpoint / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    assert verify(checkpoint) == verify(checkpoint, deep=False) == [f"{name}: is missing"]


@pytest.mark.parametrize("name", ["extra.bin", "more/extra.bin", "new/extra.bin"])
def test_an_extra_file_is_named(checkpoint, name):
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(b"x")
    assert verify(checkpoint) == verify(checkpoint, deep=False) == [f"{name}: is not in {MANIFEST}"]


@pytest.mark.parametrize("size", [0, 1, 500, 999, 1001])
def test_a_file_of_another_size_is_found_without_reading_it(checkpoint, size):
    os.truncate(checkpoint / "model.safetensors", size)
    assert verify(checkpoint, deep=False) == [f"model.safetensors: has {size} bytes, not 1000"]


@pytest.mark.parametrize("place", [0, 999])
def test_a_flipped_bit_is_found_by_reading_it(checkpoint, place):
    with open(checkpoint / "model.safetensors", "r+b") as file:
        file.seek(place)
        file.write(b"\x01")
    assert verify(checkpoint) == ["model.safetensors: has another SHA-256"]
    assert verify(checkpoint, deep=False) == []


def test_all_that_is_wrong_is_told(checkpoint):
    (checkpoint / "empty").unlink()
    (checkpoint / "extra").touch()
    (checkpoint / "model.safetensors").write_bytes(b"")
    assert len(verify(checkpoint)) == 3


def test_a_link_in_a_file_s_place_is_refused(checkpoint, tmp_path):
    (tmp_path / "elsewhere").write_bytes(FILES["more/part.bin"])
    (checkpoint / "more" / "part.bin").unlink()
    (checkpoint / "more" / "part.bin").symlink_to(tmp_path / "elsewhere")
    assert verify(checkpoint) == ["more/part.bin: is no plain file"]


def test_a_folder_by_a_link_is_an_extra(checkpoint, tmp_path):
    (checkpoint / "link").symlink_to(tmp_path, target_is_directory=True)
    assert verify(checkpoint) == [f"link: is not in {MANIFEST}"]


def test_a_pipe_in_a_file_s_place_is_not_waited_for(checkpoint):
    (checkpoint / "empty").unlink()
    os.mkfifo(checkpoint / "empty")
    assert verify(checkpoint) == ["empty: is no plain file"]


def test_a_checkpoint_under_another_step_s_name_is_found(checkpoint):
    renamed = checkpoint.rename(checkpoint.with_name("checkpoint-8"))
    assert verify(renamed) == [f"{MANIFEST}: is of step 7, not 8"]
    assert verify(renamed.rename(renamed.with_name("downloaded"))) == []


@pytest.mark.parametrize("size", [0, 1, 200])
def test_a_truncated_manifest_is_damage_and_no_crash(checkpoint, size):
    os.truncate(checkpoint / MANIFEST, size)
    assert is_committed(checkpoint)
    (problem,) = verify(checkpoint)
    assert MANIFEST in problem
    assert "damaged" in problem
    with pytest.raises(CheckpointError, match="damaged"):
        read_manifest(checkpoint)


def test_without_a_manifest_it_was_never_committed(checkpoint):
    (checkpoint / MANIFEST).unlink()
    assert not is_committed(checkpoint)
    with pytest.raises(CheckpointError, match="never committed"):
        read_manifest(checkpoint)


OUTSIDE = ["/etc/passwd", "../other", "a/../../b", "a/..", "./a", "a//b", "a/", "", ".", "..", "a\\b", "a\0b", "C:/x", "a\nb"]


@pytest.mark.parametrize("name", [*OUTSIDE, MANIFEST])
def test_names_that_lead_elsewhere_are_refused(checkpoint, name):
    rewrite(checkpoint, files={name: {"size": 1, "sha256": HASH}})
    with pytest.raises(CheckpointError, match="is no name of a file"):
        read_manifest(checkpoint)
    assert len(verify(checkpoint)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"files": {"a": {"size": 1}}},
        {"files": {"a": {"size": -1, "sha256": HASH}}},
        {"files": {"a": {"size": True, "sha256": HASH}}},
        {"files": {"a": {"size": "1", "sha256": HASH}}},
        {"files": {"a": {"size": 1, "sha256": HASH.replace("0", "G")}}},
        {"files": {"a": {"size": 1, "sha256": HASH}, "A": {"size": 1, "sha256": HASH}}},
        {"files": {"a": [1]}},
        {"step": "7"},
        {"step": None},
        {"run_id": 3},
        {"format": 2},
    ],
)
def test_what_is_no_manifest_is_refused(checkpoint, changes):
    rewrite(checkpoint, **changes)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_manifest(checkpoint)


def test_a_bit_of_the_manifest_itself_is_found(checkpoint):
    """Of the run id too, which no file tells; and the line end that was cut off."""
    content = (checkpoint / MANIFEST).read_bytes()
    for place in range(len(content)):
        (checkpoint / MANIFEST).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert verify(checkpoint, deep=False), (place, content[max(place - 10, 0) : place + 10])
    (checkpoint / MANIFEST).write_bytes(content[:-1])
    assert len(verify(checkpoint)) == 1


@pytest.mark.parametrize("text", ["[]", "7", '{"format": 1, "format": 1}', "[" * 100_000, "\xff"])
def test_json_of_another_kind_is_refused(checkpoint, text):
    (checkpoint / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_manifest(checkpoint)


def test_an_endless_manifest_is_not_read(checkpoint):
    os.truncate(checkpoint / MANIFEST, 1 << 40)
    with pytest.raises(CheckpointError, match="larger than"):
        read_manifest(checkpoint)


def test_checkpoints_are_listed_by_step_whatever_clock_and_name_say(tmp_path):
    for step in (9, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_manifest(tmp_path / f"checkpoint-{step}", "run", step)
    os.utime(tmp_path / "checkpoint-100", (0, 0))
    (tmp_path / "checkpoint-200").mkdir()  # not committed
    (tmp_path / "checkpoint-300").write_text("a file")
    for name in ("checkpoint-best", "checkpoint-5.partial", "my-checkpoint-7", "checkpoint-"):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, "run", 1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_the_step_is_the_one_in_the_name():
    assert checkpoint_step(Path("run/checkpoint-12")) == 12
    assert checkpoint_step(Path("checkpoint-12a")) is None
    assert checkpoint_step(Path("checkpoint-²")) is None
