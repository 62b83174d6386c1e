"""A checkpoint is committed or does not exist: kills, full disks, a second save, the clock, the best one."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from reliability.harness import STEPS, At, KillAt, differing, forked, go_on, training, unsound, weights
from transformers import TrainerCallback

from llmforge.checkpoints import commit, retention
from llmforge.checkpoints.manifest import MANIFEST, METADATA, list_checkpoints, read_manifest, verify
from llmforge.checkpoints.retention import superfluous
from llmforge.errors import ConfigError, StorageError, TrainingDiverged

BOTH_WAYS = pytest.mark.parametrize("saving", [{"async_save": True}, {"async_save": False}], ids=["background", "at once"])


@pytest.fixture
def told(caplog, monkeypatch):
    """What the library said."""
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.INFO, "llmforge")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llmforge"]


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


# --- what a checkpoint is ------------------------------------------------------------------------


@BOTH_WAYS
def test_a_checkpoint_has_stock_s_files_a_manifest_and_metadata(saving, tokenizer, tmp_path):
    trainer = training(tmp_path, tokenizer, saving=saving)
    trainer.train()
    (_, newest) = list_checkpoints(tmp_path)
    assert verify(newest) == []
    assert (read_manifest(newest).run_id, read_manifest(newest).step) == (trainer.checkpoints.run_id, STEPS)
    listed = set(read_manifest(newest).files)
    assert {"model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < listed
    assert METADATA in listed
    assert "training_args.bin" not in listed
    assert unsound(tmp_path) == []


@BOTH_WAYS
def test_metadata_says_what_the_design_says(saving, tokenizer, tmp_path):
    trainer = training(tmp_path, tokenizer, saving=saving, eval_strategy="steps", eval_steps=2)
    trainer.train()
    told = json.loads((tmp_path / f"checkpoint-{STEPS}" / METADATA).read_text())
    history = trainer.state.log_history
    assert told["step"] == STEPS
    assert told["tokens_seen"] == trainer.state.num_input_tokens_seen
    assert told["loss_history"] == [[entry["step"], entry["loss"]] for entry in history if "loss" in entry]
    assert [step for step, _ in told["learning_rate_history"]] == [1, 2, 3, 4, 5]
    assert told["loss"] == told["loss_history"][-1][1]
    evaluations = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    assert told["best_loss"] == min(evaluations.values())
    assert evaluations[told["best_step"]] == told["best_loss"]
    assert told["steps_since_best"] == STEPS - told["best_step"]
    assert told["validation"]["eval_loss"] == evaluations[STEPS]
    assert told["mixed_precision"] == "fp32"
    assert told["system"]["torch"] == torch.__version__
    assert told["system"]["processes"] == 1
    assert told["config"]["training"]["learning_rate"] == 1e-2


@BOTH_WAYS
def test_whoever_may_read_the_folder_may_read_the_checkpoint(saving, tokenizer, tmp_path):
    """safetensors makes its files for the owner alone; another user, or a server, is to load them."""
    before = os.umask(0o027)
    try:
        training(tmp_path, tokenizer, saving=saving, max_steps=1).train()
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "checkpoint-1").iterdir()}
    assert modes.pop("model.safetensors") == "0o640"
    assert set(modes.values()) == {"0o640"}


def test_files_are_synced_before_the_rename_and_the_folder_after_it(tokenizer, tmp_path, monkeypatch):
    """In the order in which a power cut could take them away again."""
    done: list[tuple[str, str]] = []
    for name in ("fsync", "rename", "replace"):
        stock = getattr(os, name)

        def watched(first, *rest, stock=stock, name=name):
            done.append((name, os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(rest[0])))
            return stock(first, *rest)

        monkeypatch.setattr(os, name, watched)
    training(tmp_path, tokenizer, max_steps=1).train()
    staging, target = str(tmp_path / ".staging-checkpoint-1"), str(tmp_path / "checkpoint-1")
    renamed = done.index(("rename", target))
    synced = {Path(path).name for what, path in done[:renamed] if what == "fsync" and path.startswith(staging + "/")}
    assert set(read_manifest(tmp_path / "checkpoint-1").files) <= synced
    manifest = done.index(("replace", f"{staging}/{MANIFEST}"))
    assert max(place for place, item in enumerate(done) if item[0] == "fsync" and item[1].startswith(staging)) > manifest
    assert all("model.safetensors" not in path for _, path in done[manifest:])
    assert done[renamed - 1] == ("fsync", staging)
    assert done[renamed + 1] == ("fsync", str(tmp_path))


# --- 1: killed while saving ----------------------------------------------------------------------


def killed_at(number: int, folder: Path, tokenizer, undisturbed, saving) -> int:
    """Kill a run at the n-th touch of its folder and go on; the exit code of the first, 0 when it ran to its end."""
    folder.mkdir()

    def first() -> None:
        trainer = training(folder, tokenizer, saving=saving, max_steps=3)
        sys.addaudithook(KillAt(folder, number))
        trainer.train()

    code = forked(first)
    assert code in (0, -signal.SIGKILL)
    newest = list_checkpoints(folder)
    assert [problem for path in newest for problem in verify(path)] == []
    assert forked(lambda: go_on(folder, tokenizer, saving=saving, max_steps=3)) == 0
    assert differing(weights(folder, 3), undisturbed(max_steps=3)) == []
    assert unsound(folder) == []
    return code


@pytest.mark.parametrize(("background", "number"), [(True, 9), (True, 50), (False, 31)])
def test_mode_01_killed_while_saving_nothing_is_lost_and_nothing_is_to_be_done(
    background, number, tokenizer, undisturbed, tmp_path
):
    code = killed_at(number, tmp_path / "run", tokenizer, undisturbed, {"async_save": background})
    assert code == -signal.SIGKILL


@pytest.mark.slow
@BOTH_WAYS
def test_mode_01_killed_at_every_touch_of_the_folder(saving, tokenizer, undisturbed, tmp_path):
    number, code = 0, -signal.SIGKILL
    while code:
        number += 1
        code = killed_at(number, tmp_path / str(number), tokenizer, undisturbed, saving)
    assert number > 60


def test_what_a_killed_process_left_is_swept_when_the_run_goes_on(tokenizer, tmp_path):
    """Of a step, too, that is not saved again."""
    training(tmp_path, tokenizer, max_steps=2).train()
    for name in (".staging-checkpoint-99", ".download-checkpoint-9", ".llmforge-trash/checkpoint-1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    go_on(tmp_path, tokenizer, max_steps=3)
    assert unsound(tmp_path) == []


# --- in the background -----------------------------------------------------------------------------


def test_what_is_saved_is_the_state_of_its_step(preset, tokenizer, undisturbed, tmp_path, monkeypatch):
    """The copy is made while the next step's gradients are; slowly, so that they are there first."""
    from llmforge.checkpoints import parts, snapshot

    monkeypatch.setattr(parts, "OVERLAPPING_FROM", 0)
    stock = snapshot._fill
    filled = []

    def slowly(pairs):
        time.sleep(0.2)
        filled.append(threading.current_thread().name)
        stock(pairs)

    monkeypatch.setattr(snapshot, "_fill", slowly)
    training(tmp_path, tokenizer, preset).train()
    assert filled == ["checkpoint"] * STEPS
    assert differing(weights(tmp_path), undisturbed(preset)) == []
    last = weights(tmp_path, STEPS)
    shutil.rmtree(tmp_path / f"checkpoint-{STEPS}")
    go_on(tmp_path, tokenizer, preset=preset)
    assert differing(weights(tmp_path), last) == []


def test_weights_that_change_while_they_are_copied_are_not_committed(tokenizer, tmp_path, monkeypatch, told):
    """By a callback at the start of a step; from then on the copy is made at once."""
    from llmforge.checkpoints import parts, snapshot

    monkeypatch.setattr(parts, "OVERLAPPING_FROM", 0)
    stock = snapshot._fill
    monkeypatch.setattr(snapshot, "_fill", lambda pairs: (time.sleep(0.2), stock(pairs)))

    class Meddler(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            with torch.no_grad():
                next(model.parameters()).add_(1e-3)

    training(tmp_path, tokenizer, callbacks=[Meddler()], save_total_limit=9).train()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3", "checkpoint-4", "checkpoint-5"]
    assert any("checkpoint-1 could not be saved" in message and "were changed" in message for message in told())


def test_where_memory_is_short_training_waits_and_says_so(tokenizer, tmp_path, monkeypatch, told):
    from llmforge.checkpoints import parts

    monkeypatch.setattr(parts, "has_room", lambda size: False)
    trainer = training(tmp_path, tokenizer)
    start = threading.Thread.start
    refuse = lambda self: pytest.fail("a thread") if self.name == "checkpoint" else start(self)  # noqa: E731
    trainer.add_callback(At(2, lambda: monkeypatch.setattr(threading.Thread, "start", refuse)))
    trainer.train()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]
    assert len([message for message in told() if "saved while training waits: no" in message]) == 1


def test_a_callback_that_listens_to_on_save_finds_the_checkpoint(tokenizer, tmp_path, told):
    seen = []

    class Listener(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append(verify(Path(args.output_dir) / f"checkpoint-{state.global_step}"))

    training(tmp_path, tokenizer, callbacks=[Listener()]).train()
    assert seen == [[]] * STEPS
    assert any("Listener may look at a checkpoint" in message for message in told())


def test_the_next_save_waits_for_the_one_before(tokenizer, tmp_path, monkeypatch):
    stock, running = commit.commit, []

    def slowly(*arguments):
        running.append(threading.active_count())
        time.sleep(0.1)
        return stock(*arguments)

    monkeypatch.setattr(commit, "commit", slowly)
    training(tmp_path, tokenizer, save_total_limit=9).train()
    assert len(names(tmp_path)) == STEPS
    assert len(set(running)) == 1


def test_an_exception_of_training_does_not_lose_the_checkpoint_being_written(tokenizer, tmp_path, monkeypatch):
    stock = commit.commit
    monkeypatch.setattr(commit, "commit", lambda *arguments: (time.sleep(0.3), stock(*arguments))[1])
    trainer = training(tmp_path, tokenizer)

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    trainer.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


# --- 2: disk full ---------------------------------------------------------------------------------


def failing(monkeypatch, when, error=None):
    """Have `torch.save` fail as it does on a full disk, in the calls that `when` says."""
    stock, calls = torch.save, []

    def save(state, path, *arguments, **settings):
        calls.append(Path(path).name)
        if Path(path).name == "optimizer.pt" and when(calls.count("optimizer.pt")):
            raise error or OSError(errno.ENOSPC, "No space left on device")
        return stock(state, path, *arguments, **settings)

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.parametrize(
    ("background", "error"),
    [
        (True, None),
        (False, None),
        (True, RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")),
        (False, OSError(errno.EIO, "I/O error")),
    ],
    ids=["full, in the background", "full, at once", "full, as torch says it", "broken"],
)
def test_mode_02_a_full_disk_costs_a_checkpoint_and_not_the_run(background, error, tokenizer, tmp_path, monkeypatch, told):
    failing(monkeypatch, lambda call: call in (2, 3), error)
    trainer = training(tmp_path, tokenizer, saving={"async_save": background}, save_total_limit=9)
    trainer.train()
    assert trainer.state.global_step == STEPS
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4", "checkpoint-5"]
    assert unsound(tmp_path) == []
    warned = [message for message in told() if "could not be saved" in message]
    assert ["checkpoint-2" in warned[0], "1 of 3" in warned[0], "checkpoint-3" in warned[1], "2 of 3" in warned[1]] == [True] * 4
    assert len(warned) == 2


@BOTH_WAYS
def test_mode_02_three_in_a_row_stop_the_run(saving, tokenizer, tmp_path, monkeypatch):
    failing(monkeypatch, lambda call: call > 1)
    trainer = training(tmp_path, tokenizer, saving=saving, max_steps=20)
    with pytest.raises(StorageError, match=r"3 checkpoints in a row could not be saved.*No space left on device") as error:
        trainer.train()
    assert error.value.exit_code == 5
    assert names(tmp_path) == ["checkpoint-1"]
    assert unsound(tmp_path) == []


@BOTH_WAYS
def test_mode_02_a_best_that_could_not_be_saved_is_not_the_best(saving, tokenizer, tmp_path, monkeypatch):
    """Of three evaluations, better and better, the last was not saved: the second is what is kept and loaded."""
    failing(monkeypatch, lambda call: call == 3)
    trainer = training(
        tmp_path, tokenizer, saving=saving, max_steps=3, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses == sorted(losses, reverse=True)
    assert trainer.state.best_global_step == 2
    assert trainer.state.best_metric == losses[1]
    model = trainer.model.state_dict()
    assert [name for name, value in weights(tmp_path, 2).items() if not torch.equal(value, model[name])] == []


@BOTH_WAYS
def test_mode_02_a_really_full_disk(saving, tokenizer, tmp_path):
    """No file may grow beyond what the model takes: its own is written, that of the optimizer is not."""

    def run() -> None:
        trainer = training(tmp_path, tokenizer, saving=saving, max_steps=4, save_total_limit=9)
        size = sum(parameter.nbytes for parameter in trainer.model.parameters()) + 20_000

        def allow(most: int) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

        trainer.add_callback(At(2, lambda: allow(size)))
        trainer.add_callback(At(4, lambda: (trainer.checkpoints.wait(), allow(resource.RLIM_INFINITY))))
        trainer.train()

    assert forked(run) == 0
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]
    assert unsound(tmp_path) == []


@BOTH_WAYS
def test_what_is_no_matter_of_disks_stops_the_run_at_once(saving, tokenizer, tmp_path, monkeypatch):
    failing(monkeypatch, lambda call: call == 2, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        training(tmp_path, tokenizer, saving=saving).train()
    assert names(tmp_path) == ["checkpoint-1"]
    assert unsound(tmp_path) == []


# --- 3: a good checkpoint rewritten ----------------------------------------------------------------


@BOTH_WAYS
def test_mode_03_a_second_save_of_a_step_changes_nothing(saving, tokenizer, tmp_path, told):
    trainer = training(tmp_path, tokenizer, saving=saving, max_steps=2)
    trainer.train()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "checkpoint-2").iterdir()}
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1)
    trainer.checkpoints.save()
    trainer.checkpoints.settle()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "checkpoint-2").iterdir()} == before
    assert "checkpoint-2 is committed already and stays as it is" in told()
    assert unsound(tmp_path) == []


@pytest.mark.parametrize("kind", ["never committed", "damaged", "of another run"])
def test_mode_03_what_stands_in_the_way_is_moved_aside_and_not_deleted(kind, tokenizer, tmp_path):
    trainer = training(tmp_path, tokenizer, max_steps=2)
    trainer.train()
    target = tmp_path / "checkpoint-2"
    if kind == "never committed":
        (target / MANIFEST).unlink()
    elif kind == "damaged":
        os.truncate(target / "optimizer.pt", 100)
    else:
        trainer.checkpoints.run_id = "another"
    (before,) = (path.read_bytes() for path in target.glob("model.safetensors"))
    trainer.checkpoints.save()
    trainer.checkpoints.settle()
    assert verify(target) == []
    (aside,) = (tmp_path / "set-aside").iterdir()
    assert aside.name == "checkpoint-2-1"
    assert (aside / "model.safetensors").read_bytes() == before
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_going_on_from_an_older_one_moves_the_later_ones_aside(tokenizer, tmp_path):
    """They are of a course that was left: the next plain --resume must not take one of them for the newest."""
    training(tmp_path, tokenizer, save_total_limit=9).train()
    again = training(tmp_path, tokenizer, save_total_limit=9, max_steps=3)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert sorted(path.name for path in (tmp_path / "set-aside").iterdir()) == [f"checkpoint-{step}-1" for step in (3, 4, 5)]


# --- 4, 5 and 17: retention ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "limit", "pinned", "gone"),
    [
        ([1, 2, 3, 4], 2, [], [1, 2]),
        ([10, 9, 100, 20], 2, [], [9, 10]),
        ([1, 2, 3, 4], 2, [1], [2, 3]),
        ([1, 2, 3, 4], 1, [1], [2, 3]),
        ([1, 2, 3, 4], 3, [1, 2], [3]),
        ([1, 2, 3, 4], 2, [1, 2, 3], []),
        ([1, 2, 3], 2, [7], [1]),
        ([1, 2, 3], None, [], []),
        ([1, 2, 3], 0, [], []),
        ([1, 2, 3], -1, [], []),
        ([5], 1, [], []),
        ([], 1, [], []),
    ],
)
def test_what_goes_and_what_stays(steps, limit, pinned, gone):
    """The newest and what is pinned stay whatever the limit, and count towards it."""
    assert superfluous(steps, limit, pinned) == gone


@BOTH_WAYS
def test_mode_04_rotation_is_by_step_whatever_the_clock_says(saving, tokenizer, tmp_path):
    """A marker written late into an old checkpoint made stock keep that and delete the newest."""

    def touch(path: Path) -> None:
        os.utime(path, (4e9, 4e9) if path.name in ("checkpoint-1", "checkpoint-2") else (0, 0))

    trainer = training(tmp_path, tokenizer, saving=saving)
    trainer.checkpoints.after_commit.append(touch)
    trainer.train()
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]


@pytest.mark.parametrize(("saving", "limit"), [({"async_save": True}, 1), ({"async_save": False}, 2)], ids=["one", "two"])
def test_mode_05_the_best_survives_a_limit_of_one_a_crash_and_a_move(saving, limit, tokenizer, tmp_path):
    """It gets worse and worse: the first evaluation is the best."""
    rhythm = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
        "save_total_limit": limit,
        "optim": "sgd",
    }
    rhythm |= {"learning_rate": 0.0}

    def spoil(trainer) -> None:
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(0.1 * trainer.state.global_step * torch.randn_like(parameter))

    def made(folder, **changes):
        trainer = training(folder, tokenizer, saving=saving, **rhythm | changes)
        for step in range(2, STEPS + 1):
            trainer.add_callback(At(step, lambda: spoil(trainer)))
        return trainer

    first = tmp_path / "first"

    def crash() -> None:
        trainer = made(first)
        trainer.add_callback(At(4, lambda: (trainer.checkpoints.wait(), os._exit(9))))
        trainer.train()

    assert forked(crash) == 9
    assert names(first) == ["checkpoint-1", "checkpoint-3"]
    moved = first.rename(tmp_path / "moved")
    trainer = made(moved)
    trainer.train(resume_from_checkpoint=str(moved / "checkpoint-3"))
    assert trainer.state.best_global_step == 1
    assert Path(trainer.state.best_model_checkpoint) == moved / "checkpoint-1"
    assert names(moved) == ["checkpoint-1", "checkpoint-5"]
    best = weights(moved, 1)
    assert [name for name in best if not torch.equal(best[name], trainer.model.state_dict()[name])] == []


def test_mode_05_a_damaged_best_is_not_loaded(tokenizer, tmp_path, told):
    rhythm = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "learning_rate": 0.0}
    trainer = training(tmp_path, tokenizer, **rhythm)
    trainer.add_callback(At(STEPS, lambda: os.truncate(tmp_path / "checkpoint-1" / "model.safetensors", 1000)))
    trainer.train()
    assert trainer.state.best_model_checkpoint is None
    assert any("is damaged and not loaded: model.safetensors" in message for message in told())


def test_what_is_pinned_stays_till_it_is_let_go(tokenizer, tmp_path):
    """As an upload pins what it has not sent yet."""
    pinned = {1, 2}
    trainer = training(tmp_path, tokenizer, save_total_limit=1)
    trainer.checkpoints.pinned.append(lambda: pinned)
    trainer.add_callback(At(4, lambda: pinned.discard(2)))
    trainer.train()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-5"]


def test_nothing_is_deleted_while_it_is_not_known_what_is_pinned(tokenizer, tmp_path, told):
    trainer = training(tmp_path, tokenizer, save_total_limit=1)
    trainer.checkpoints.pinned.append(lambda: 1 / 0)
    trainer.train()
    assert len(names(tmp_path)) == STEPS
    assert any("no checkpoint is deleted" in message for message in told())


@BOTH_WAYS
def test_what_follows_a_checkpoint_follows_its_commit_and_precedes_retention(saving, tokenizer, tmp_path, told):
    seen = []

    def follow(path: Path) -> None:
        seen.append((path.name, verify(path), len(list_checkpoints(tmp_path))))
        raise ValueError("of an uploader")

    trainer = training(tmp_path, tokenizer, saving=saving, max_steps=4)
    trainer.checkpoints.after_commit.append(follow)
    trainer.train()
    assert seen == [("checkpoint-1", [], 1), ("checkpoint-2", [], 2), ("checkpoint-3", [], 3), ("checkpoint-4", [], 3)]
    assert "after checkpoint-2: ValueError: of an uploader" in told()


def test_mode_17_killed_while_deleting_leaves_nothing_half_deleted(tokenizer, undisturbed, tmp_path):
    """Killed between the files of a checkpoint that is deleted: what is listed is whole, and the rest is swept."""

    def run() -> None:
        deleted = []

        def unlink(path, *arguments, stock=os.unlink, **settings):
            deleted.append(path)
            if len(deleted) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return stock(path, *arguments, **settings)

        trainer = training(tmp_path, tokenizer)
        trainer.add_callback(At(3, lambda: (trainer.checkpoints.wait(), setattr(os, "unlink", unlink))))
        trainer.train()

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("not llmforge's")
    assert forked(run) == -signal.SIGKILL
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    assert len(list((tmp_path / ".llmforge-trash").iterdir())) == 1
    assert all(verify(path) == [] for path in list_checkpoints(tmp_path))
    go_on(tmp_path, tokenizer)
    assert unsound(tmp_path) == ["mine"]
    assert (tmp_path / "mine" / "notes").exists()
    assert differing(weights(tmp_path), undisturbed()) == []


def test_what_cannot_be_deleted_is_told_and_stays(tmp_path, monkeypatch, told):
    from llmforge.checkpoints.manifest import write_manifest

    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        write_manifest(tmp_path / f"checkpoint-{step}", "run", step)

    def refuse(*arguments):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    assert retention.prune(tmp_path, 1) == []
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert "checkpoint-1 cannot be deleted: Permission denied" in told()[0]


# --- 14: weights that are no numbers ----------------------------------------------------------------


@BOTH_WAYS
def test_mode_14_weights_that_are_not_finite_are_never_committed(saving, tokenizer, tmp_path):
    trainer = training(tmp_path, tokenizer, saving=saving)

    def poison() -> None:
        with torch.no_grad():
            list(trainer.model.parameters())[-1].view(-1)[-1] = math.inf

    trainer.add_callback(At(3, poison))
    with pytest.raises(TrainingDiverged, match="Step 3 left weights that are not finite"):
        trainer.train()
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert unsound(tmp_path) == []


def test_mode_14_large_weights_are_finite(tokenizer, tmp_path):
    """Their sum is not: it is no proof."""
    from llmforge.callbacks.divergence import refuse_non_finite

    trainer = training(tmp_path, tokenizer)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(3e38)
    refuse_non_finite(trainer.model, 1)


# --- what is refused ----------------------------------------------------------------------------------


def test_a_sharded_fsdp_state_is_refused_with_the_reason(tokenizer, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from llmforge.checkpoints.writer import CheckpointWriter
    from llmforge.configs.checkpoint import CheckpointArguments

    def trainer(kind: str):
        plugin = SimpleNamespace(state_dict_type=f"StateDictType.{kind}", fsdp_version=2)
        accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
        return SimpleNamespace(
            is_fsdp_enabled=True, accelerator=accelerator, args=SimpleNamespace(save_on_each_node=False, push_to_hub=False)
        )

    with pytest.raises(ConfigError, match=r"fsdp_state_dict_type SHARDED_STATE_DICT.*pickle.*FULL_STATE_DICT"):
        CheckpointWriter(trainer("SHARDED_STATE_DICT"), CheckpointArguments())
    CheckpointWriter(trainer("FULL_STATE_DICT"), CheckpointArguments())


def test_saving_on_each_machine_is_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="--save_on_each_node"):
        training(tmp_path, tokenizer, save_on_each_node=True)
