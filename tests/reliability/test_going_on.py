"""What a resumed training makes of a checkpoint: strict, exact, and with the settings that are given now."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from reliability.harness import STEPS, differing, go_on, training, weights
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from llmforge.checkpoints.manifest import list_checkpoints, write_manifest
from llmforge.errors import CheckpointError


@pytest.fixture
def told(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("llmforge"), "propagate", True)
    caplog.set_level(logging.INFO, "llmforge")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llmforge"]


def rewritten(checkpoint: Path) -> Path:
    """After a change that its manifest is to know of."""
    write_manifest(checkpoint, "run", int(checkpoint.name.split("-")[1]))
    return checkpoint


#: The runs that `until` has made, by preset and step: most tests want the same one.
_STOPPED: dict[tuple[str, int], Path] = {}


@pytest.fixture(scope="module", autouse=True)
def stopped(tmp_path_factory):
    """A place for them."""
    _STOPPED.clear()
    _STOPPED["", 0] = tmp_path_factory.mktemp("stopped")


def until(folder: Path, tokenizer, step: int, preset: str = "gpt2-10m", **changes) -> Path:
    """A run of `STEPS` that stopped at a step; its newest checkpoint."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= step

    place = folder if changes else _STOPPED["", 0] / f"{preset}-{step}"
    if changes or (preset, step) not in _STOPPED:
        training(place, tokenizer, preset, callbacks=[Stop()], **changes).train()
    if not changes:
        _STOPPED[preset, step] = place
    if place != folder:
        shutil.copytree(place, folder, dirs_exist_ok=True)
    return folder / f"checkpoint-{step}"


# --- verified before it is loaded --------------------------------------------------------------------


def test_mode_10_nothing_of_a_damaged_checkpoint_is_loaded(tokenizer, tmp_path, monkeypatch):
    """Given by its path, to `train`; stock loads a flipped bit without a word."""
    checkpoint = until(tmp_path, tokenizer, 2)
    content = bytearray((checkpoint / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "optimizer.pt").write_bytes(content)
    trainer = training(tmp_path, tokenizer, fresh_seed=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(CheckpointError, match=r"optimizer\.pt: has another SHA-256"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert differing(before, trainer.model.state_dict()) == []


def test_true_means_the_newest_sound_one(tokenizer, undisturbed, tmp_path, told):
    """As in stock's own API, which would take the newest by name."""
    checkpoint = until(tmp_path, tokenizer, 3)
    os.truncate(checkpoint / "model.safetensors", 1000)
    training(tmp_path, tokenizer, fresh_seed=1).train(resume_from_checkpoint=True)
    assert any("checkpoint-3 is passed over: model.safetensors: has 1000 bytes" in message for message in told())
    assert differing(weights(tmp_path), undisturbed()) == []
    assert (tmp_path / "set-aside" / "checkpoint-3-1").is_dir()


def test_true_where_there_is_none_starts_at_step_0_and_says_so(tokenizer, undisturbed, tmp_path, told):
    training(tmp_path, tokenizer).train(resume_from_checkpoint=True)
    assert any("training starts from step 0" in message for message in told())
    assert differing(weights(tmp_path), undisturbed()) == []


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_code_in_a_pickle_is_refused_and_not_run(file, tokenizer, tmp_path):
    checkpoint = until(tmp_path, tokenizer, 2)
    torch.save({"state": Bomb()}, checkpoint / file, pickle_module=pickle)
    rewritten(checkpoint)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        training(tmp_path, tokenizer).train(resume_from_checkpoint=str(checkpoint))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("file", ["training_args.bin", "pytorch_model.bin"])
def test_a_pickle_that_nothing_needs_is_never_read(file, tokenizer, tmp_path, monkeypatch):
    """One that stock loads: weights of old, and arguments to compare with."""
    checkpoint = until(tmp_path, tokenizer, 2)
    torch.save({"state": Bomb()}, checkpoint / file, pickle_module=pickle)
    rewritten(checkpoint)
    training(tmp_path / "on", tokenizer).train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "model.safetensors").unlink()
    rewritten(checkpoint)
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        training(tmp_path / "on", tokenizer).train(resume_from_checkpoint=str(checkpoint))
    assert not Path("exploded").exists()


def test_code_in_the_scaler_s_state_is_refused_and_not_run(tokenizer, tmp_path):
    """Which only a training in fp16 reads."""
    trainer = training(tmp_path, tokenizer)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    torch.save({"state": Bomb()}, tmp_path / "scaler.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        trainer._load_scaler(str(tmp_path))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("kind", ["missing", "extra", "of another shape"])
def test_mode_09_tensors_that_are_not_the_model_s_are_refused(kind, preset, tokenizer, tmp_path):
    """Stock warns, at most, and trains on with random ones."""
    checkpoint = until(tmp_path, tokenizer, 2, preset=preset)
    tensors = load_file(checkpoint / "model.safetensors")
    name = next(name for name in tensors if name.endswith("bias"))
    if kind == "missing":
        del tensors[name]
    elif kind == "extra":
        tensors["another"] = torch.zeros(2)
    else:
        tensors[name] = torch.zeros(3)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    rewritten(checkpoint)
    with pytest.raises(CheckpointError, match="another" if kind == "extra" else name):
        training(tmp_path, tokenizer, preset=preset).train(resume_from_checkpoint=str(checkpoint))


def test_mode_09_tied_weights_are_neither_missing_nor_warned_of(tokenizer, tmp_path, caplog):
    checkpoint = until(tmp_path, tokenizer, 2)
    assert "lm_head.weight" not in load_file(checkpoint / "model.safetensors")
    trainer = training(tmp_path, tokenizer)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert "missing" not in caplog.text
    assert trainer.model.lm_head.weight is trainer.model.transformer.wte.weight


@pytest.mark.parametrize("state", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_mode_08_without_its_state_training_does_not_go_on(state, tokenizer, tmp_path, told):
    """Stock does, from a fresh one, without a word."""
    checkpoint = until(tmp_path, tokenizer, 2)
    (checkpoint / state).unlink()
    with pytest.raises(CheckpointError, match=rf"{state}.*--allow_fresh_optimizer"):
        training(tmp_path, tokenizer).train(resume_from_checkpoint=str(checkpoint))
    trainer = training(tmp_path, tokenizer, saving={"allow_fresh_optimizer": True})
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == STEPS
    if state != "rng_state.pth":
        assert any(f"checkpoint-2 has no {state}: the state starts anew" in message for message in told())


def test_mode_08_with_a_fresh_optimizer_the_schedule_goes_on_where_it_was(tokenizer, tmp_path):
    checkpoint = until(tmp_path, tokenizer, 2)
    rates = []
    for lost in (False, True):
        if lost:
            (checkpoint / "optimizer.pt").unlink()
        trainer = training(tmp_path / str(lost), tokenizer, saving={"allow_fresh_optimizer": True})
        trainer.train(resume_from_checkpoint=str(checkpoint))
        rates.append([entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry])
    assert rates[0] == rates[1]


# --- what is given now holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("optim", ["muon", "adamw_torch_fused"])
def test_mode_12_a_changed_learning_rate_is_the_one_that_is_trained_with(optim, tokenizer, tmp_path, told):
    """With the optimizer's state stock takes the old one from the checkpoint, and nothing tells."""
    settings = {"optim": optim, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0}
    checkpoint = until(tmp_path, tokenizer, 2, **settings)
    trainer = training(tmp_path, tokenizer, **settings | {"learning_rate": 1e-3, "weight_decay": 0.25, "adam_beta2": 0.5})
    trainer.train(resume_from_checkpoint=str(checkpoint))
    rates = {entry["step"]: entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry}
    assert rates == {1: 1e-2, 2: 1e-2, 3: 1e-3, 4: 1e-3, 5: 1e-3}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.25}
    assert trainer.optimizer.param_groups[-1]["betas"][1] == 0.5
    assert any("initial_lr" in message and "was 0.01" in message for message in told())


def test_more_steps_stretch_the_schedule_from_the_first_one_on(tokenizer, tmp_path):
    """The first step after the resume has the rate of the new schedule already."""
    whole = training(tmp_path / "whole", tokenizer, max_steps=8, learning_rate=1e-2)
    whole.train()
    checkpoint = until(tmp_path / "cut", tokenizer, 3)
    longer = training(tmp_path / "cut", tokenizer, max_steps=8)
    longer.train(resume_from_checkpoint=str(checkpoint))
    rates = [
        [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry and entry["step"] > 3]
        for trainer in (whole, longer)
    ]
    assert rates[0] == rates[1]


def test_unchanged_settings_change_no_bit(preset, tokenizer, undisturbed, tmp_path, told):
    checkpoint = until(tmp_path, tokenizer, 3, preset=preset)
    training(tmp_path, tokenizer, preset, fresh_seed=1).train(resume_from_checkpoint=str(checkpoint))
    assert differing(weights(tmp_path), undisturbed(preset)) == []
    assert not any("is now" in message for message in told())


# --- an evaluation cut short ----------------------------------------------------------------------------


def test_mode_16_an_evaluation_cut_short_is_done_again(tokenizer, undisturbed, tmp_path):
    """Stopped within the evaluation of step 2, and a checkpoint committed there, as on SIGTERM."""
    rhythm = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 0.0, "save_steps": 2}

    class Preempted(Exception):
        pass

    trainer = training(tmp_path / "cut", tokenizer, **rhythm)

    class Interrupt(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            if state.global_step == 2:
                trainer._save_checkpoint(trainer.model_wrapped, None)
                raise Preempted

    trainer.add_callback(Interrupt())
    with pytest.raises(Preempted):
        trainer.train()
    assert [path.name for path in list_checkpoints(tmp_path / "cut")] == ["checkpoint-2"]
    resumed = go_on(tmp_path / "cut", tokenizer, **rhythm)
    whole = training(tmp_path / "whole", tokenizer, **rhythm)
    whole.train()
    told = [
        [(entry["step"], entry["eval_loss"]) for entry in each.state.log_history if "eval_loss" in entry]
        for each in (resumed, whole)
    ]
    assert told[0] == told[1]
    assert [step for step, _ in told[0]] == [2, 4, 5]
    assert resumed.state.best_global_step == whole.state.best_global_step == 2
    assert Path(resumed.state.best_model_checkpoint).name == "checkpoint-2"


def test_an_evaluation_that_was_done_is_not_done_again(tokenizer, tmp_path):
    rhythm = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    until(tmp_path, tokenizer, 2, **rhythm)
    resumed = go_on(tmp_path, tokenizer, **rhythm)
    assert [entry["step"] for entry in resumed.state.log_history if "eval_loss" in entry] == [2, 4, 5]


# --- 13: the cost of a start ------------------------------------------------------------------------------


def test_mode_13_a_start_at_step_100_000_costs_what_it_costs_at_step_10(tokenizer, tmp_path):
    """With the history of so many steps, and so many rows passed over in the epoch; calls of functions till the first step."""
    few = until(tmp_path / "few", tokenizer, 2)
    far = 100_000
    late = tmp_path / "many" / f"checkpoint-{far}"
    late.parent.mkdir()
    os.rename(few, late)
    state = json.loads((late / "trainer_state.json").read_text())
    entry = next(entry for entry in state["log_history"] if "loss" in entry)
    state["log_history"] = [entry | {"step": step} for step in range(10, far + 1, 10)]
    state["global_step"] = far
    (late / "trainer_state.json").write_text(json.dumps(state))
    (late.parent / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in state["log_history"]))
    rewritten(late)
    until(tmp_path / "few", tokenizer, 2)

    def start(checkpoint: Path) -> int:
        calls = 0

        def count(frame, event, argument) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        class First(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                sys.setprofile(None)
                control.should_training_stop = True

        trainer = training(tmp_path / "out", tokenizer, callbacks=[First()], save_strategy="no", max_steps=far + 5)
        rows = trainer.train_dataset
        rows._chosen = np.arange(4 * far + 20) % len(rows)  # one epoch is longer than the run
        sys.setprofile(count)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        finally:
            sys.setprofile(None)
        return calls

    passed_over = 2 * far  # batches, of which each is named once and none is read
    assert start(late) - start(few) < 1.5 * passed_over
