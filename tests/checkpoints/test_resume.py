"""Which checkpoint `--resume` means."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from llmforge.checkpoints.manifest import MANIFEST, METADATA, checkpoint_step, write_manifest
from llmforge.checkpoints.resume import find_checkpoint, missing_file, require_sound
from llmforge.errors import CheckpointError
from llmforge.runtime.commands import run_command

FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "config.json", "model.safetensors", "rng_state.pth")


def checkpoint(folder: Path, name: str, without: str | None = None, committed: bool = True) -> Path:
    """One that holds nothing, in files of the right names."""
    path = folder / name
    path.mkdir(parents=True)
    for file in FILES:
        if file != without:
            (path / file).write_text("{}")
    if committed:
        (path / METADATA).write_text("{}")
        write_manifest(path, "run", checkpoint_step(path) or 0)
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
    with pytest.raises(CheckpointError, match=r"checkpoint-2 cannot be used: it has no scheduler\.pt"):
        find_checkpoint(tmp_path, "checkpoint-2")


# --- verified --------------------------------------------------------------------------------------


def test_one_that_was_never_committed_is_passed_over_and_taken_where_it_is_named(tmp_path, warnings):
    """As plain Trainer leaves them: whole or torn, nothing tells."""
    good = checkpoint(tmp_path, "checkpoint-5")
    plain = checkpoint(tmp_path, "checkpoint-10", committed=False)
    assert find_checkpoint(tmp_path) == good
    assert "checkpoint-10 is passed over: it was never committed" in warnings()[0]
    assert find_checkpoint(tmp_path, "checkpoint-10") == plain
    assert "unverified" in warnings()[-1]
    (plain / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"no optimizer\.pt"):
        find_checkpoint(tmp_path, "checkpoint-10")


def test_a_run_of_plain_trainer_s_checkpoints_alone_is_not_begun_anew(tmp_path):
    """To start from step 0 over them would be the worst."""
    checkpoint(tmp_path, "checkpoint-10", committed=False)
    with pytest.raises(CheckpointError, match=r"never committed.*Name one with --resume"):
        find_checkpoint(tmp_path)


def test_one_of_ours_that_lost_its_manifest_is_refused_by_name_too(tmp_path):
    path = checkpoint(tmp_path, "checkpoint-10", committed=False)
    (path / METADATA).write_text("{}")
    with pytest.raises(CheckpointError, match="never committed"):
        find_checkpoint(tmp_path, "checkpoint-10")


@pytest.mark.parametrize("state", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("lost", [True, False])
def test_mode_08_a_missing_state_is_refused_unless_that_is_wanted(tmp_path, state, lost):
    """Lost after the commit, or never written, as with --save_only_model; stock goes on with a fresh state in silence."""
    path = checkpoint(tmp_path, "checkpoint-10", without=None if lost else state)
    if lost:
        (path / state).unlink()
    for which in ("newest", "checkpoint-10"):
        with pytest.raises(CheckpointError, match=rf"{state}.*--allow_fresh_optimizer"):
            find_checkpoint(tmp_path, which)
        assert find_checkpoint(tmp_path, which, fresh_optimizer=True) == path


def test_mode_08_nothing_else_is_done_without(tmp_path):
    path = checkpoint(tmp_path, "checkpoint-10")
    (path / "optimizer.pt").unlink()
    (path / "model.safetensors").write_text("{!")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        find_checkpoint(tmp_path, fresh_optimizer=True)


def test_mode_08_a_training_in_fp16_needs_its_scaler(tmp_path):
    path = checkpoint(tmp_path, "checkpoint-10")
    assert find_checkpoint(tmp_path) == path
    with pytest.raises(CheckpointError, match=r"no scaler\.pt"):
        find_checkpoint(tmp_path, scaler=True)
    assert find_checkpoint(tmp_path, scaler=True, fresh_optimizer=True) == path


def test_a_quick_look_reads_no_file(tmp_path):
    path = checkpoint(tmp_path, "checkpoint-10")
    (path / "optimizer.pt").write_text("[]")
    assert find_checkpoint(tmp_path, deep=False) == path
    with pytest.raises(CheckpointError, match=r"optimizer\.pt: has another SHA-256"):
        find_checkpoint(tmp_path)


def damages(size: int) -> dict:
    """What can happen to a file of that size."""
    return {
        **{f"cut to {left}": left for left in sorted({0, 1, size // 2, size - 1} - {size})},
        "a bit flipped at its start": -1,
        "a bit flipped at its end": -2,
        "missing": None,
    }


def spoil(path: Path, damage: int | None) -> None:
    if damage is None:
        path.unlink()
    elif damage >= 0:
        os.truncate(path, damage)
    else:
        content = bytearray(path.read_bytes())
        content[0 if damage == -1 else -1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("file", [*FILES, MANIFEST])
def test_mode_10_whatever_happens_to_a_file_the_older_one_is_taken(tmp_path, warnings, file):
    good = checkpoint(tmp_path, "checkpoint-5")
    newest = checkpoint(tmp_path, "checkpoint-10")
    content = (newest / file).read_bytes()
    for told, damage in damages(len(content)).items():
        (newest / file).write_bytes(content)
        spoil(newest / file, damage)
        assert find_checkpoint(tmp_path) == good, told
        assert file in warnings()[-1], told
        with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
            find_checkpoint(tmp_path, "checkpoint-10")


def test_mode_10_an_extra_file_is_found(tmp_path, warnings):
    good = checkpoint(tmp_path, "checkpoint-5")
    (checkpoint(tmp_path, "checkpoint-10") / "pytorch_model.bin").write_bytes(b"a pickle")
    assert find_checkpoint(tmp_path) == good
    assert "pytorch_model.bin: is not in manifest.json" in warnings()[0]


def test_mode_10_control_without_verification_the_damage_is_not_seen(tmp_path, monkeypatch):
    """What the two tests above find, they find by the manifest."""
    newest = checkpoint(tmp_path, "checkpoint-10")
    spoil(newest / "model.safetensors", -1)
    with pytest.raises(CheckpointError):
        find_checkpoint(tmp_path)
    monkeypatch.setattr("llmforge.checkpoints.resume.verify", lambda *_: [])
    assert find_checkpoint(tmp_path) == newest


def test_one_that_was_just_found_sound_is_read_once(tmp_path):
    """By the run that looks for it, and not again by the training that begins with it; but by the next one."""
    path = checkpoint(tmp_path, "checkpoint-10")
    assert find_checkpoint(tmp_path) == path
    (path / "optimizer.pt").write_text("[]")
    require_sound(path)
    with pytest.raises(CheckpointError, match="another SHA-256"):
        require_sound(path)
