"""Losses, gradients and weights that are no numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT

from llmforge.callbacks.divergence import _MOST_SKIPPED, Divergence, refuse_non_finite
from llmforge.errors import ConfigError, TrainingDiverged

ROWS = [{"segment_documents": [4, 7]}, {"segment_documents": [7, 9]}]


@pytest.fixture
def trainer():
    """What the callback reads of ForgeTrainer."""
    return SimpleNamespace(
        last_losses=[torch.tensor(2.0), torch.tensor(1.0)],
        last_grad_norm=torch.tensor(3.0),
        rows_of_step=lambda step: ROWS if step == 20 else [],
        accelerator=SimpleNamespace(optimizer_step_was_skipped=False),
    )


@pytest.fixture
def arguments():
    return SimpleNamespace(fp16=False, world_size=1)


@pytest.fixture
def callback(trainer, tmp_path):
    callback = Divergence(lambda numbers: [f"doc{number}.go" for number in numbers], tmp_path)
    callback.attach(trainer)
    return callback


def test_a_finite_step_passes(callback, arguments, state, control, tmp_path):
    callback.on_pre_optimizer_step(arguments, state, control)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_mode_14_a_step_that_is_not_finite_is_stopped_and_its_documents_named(
    callback, trainer, arguments, state, control, tmp_path, bad, where
):
    if where == "loss":
        trainer.last_losses[1] = torch.tensor(bad)
    else:
        trainer.last_grad_norm = torch.tensor(bad)
    with pytest.raises(TrainingDiverged, match=r"Step 21: .*doc4.go, doc7.go, doc9.go") as error:
        callback.on_pre_optimizer_step(arguments, state, control)
    assert error.value.exit_code == 6
    record = json.loads((tmp_path / "divergence.json").read_text())
    assert (record["step"], record["documents"]) == (21, ["doc4.go", "doc7.go", "doc9.go"])
    assert len(record["micro_batch_losses"]) == 2


def test_of_many_documents_a_few_are_shown_and_all_recorded(callback, trainer, arguments, state, control, tmp_path):
    trainer.rows_of_step = lambda step: [{"segment_documents": list(range(100))}]
    trainer.last_grad_norm = torch.tensor(math.nan)
    with pytest.raises(TrainingDiverged, match=r"doc4.go and 95 more\. \(divergence.json has all\.\)"):
        callback.on_pre_optimizer_step(arguments, state, control)
    assert len(json.loads((tmp_path / "divergence.json").read_text())["documents"]) == 100


def test_without_names_documents_go_by_number_and_nothing_is_written(trainer, arguments, state, control, tmp_path):
    callback = Divergence()
    callback.attach(trainer)
    trainer.last_grad_norm = torch.tensor(math.nan)
    with pytest.raises(TrainingDiverged, match="number 4, number 7"):
        callback.on_pre_optimizer_step(arguments, state, control)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_named_or_recorded_is_told_all_the_same(callback, trainer, arguments, state, control, tmp_path):
    callback.names = lambda numbers: (tmp_path / "documents.jsonl").read_text()
    callback.folder = tmp_path / "missing" / "folder"
    (tmp_path / "missing").write_text("a file")
    trainer.last_grad_norm = torch.tensor(math.nan)
    with pytest.raises(TrainingDiverged, match="number 4, number 7"):
        callback.on_pre_optimizer_step(arguments, state, control)


def test_only_the_first_process_writes(callback, trainer, arguments, another_process, control, tmp_path):
    trainer.last_grad_norm = torch.tensor(math.nan)
    with pytest.raises(TrainingDiverged):
        callback.on_pre_optimizer_step(arguments, another_process, control)
    assert list(tmp_path.iterdir()) == []


def test_with_fp16_an_infinite_gradient_is_the_scaler_s_search(callback, trainer, arguments, state, control):
    arguments.fp16 = True
    trainer.last_grad_norm = torch.tensor(math.inf)
    callback.on_pre_optimizer_step(arguments, state, control)
    trainer.last_losses[0] = torch.tensor(math.nan)
    with pytest.raises(TrainingDiverged):
        callback.on_pre_optimizer_step(arguments, state, control)


def test_a_scaler_that_only_skips_is_stopped(callback, trainer, arguments, state, control):
    trainer.accelerator.optimizer_step_was_skipped = True
    for _ in range(_MOST_SKIPPED - 1):
        callback.on_optimizer_step(arguments, state, control)
    trainer.accelerator.optimizer_step_was_skipped = False
    callback.on_optimizer_step(arguments, state, control)  # one step that was applied: the search goes on
    trainer.accelerator.optimizer_step_was_skipped = True
    with pytest.raises(TrainingDiverged, match=f"{_MOST_SKIPPED} steps in a row"):
        for _ in range(_MOST_SKIPPED):
            callback.on_optimizer_step(arguments, state, control)


def test_it_says_that_it_needs_forge_trainer(arguments, state, control):
    with pytest.raises(ConfigError, match="Divergence needs ForgeTrainer"):
        Divergence().on_train_begin(arguments, state, control)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(bad):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    refuse_non_finite(model, 7)
    with torch.no_grad():
        model[1].bias[2] = bad
    with pytest.raises(TrainingDiverged, match=r"Step 7 .*1\.bias, 1 parameters"):
        refuse_non_finite(model, 7)


# --- two processes ---------------------------------------------------------------------------------

POISONED = """
import math, sys
from llmforge import pretrain
from llmforge.runtime.commands import run_command
from llmforge.runtime.launch import rank
from llmforge.trainer import ForgeTrainer

stock = ForgeTrainer.training_step

def training_step(self, *args, **kwargs):
    loss = stock(self, *args, **kwargs)
    if rank() == 1 and self.state.global_step == 2:
        self._losses[-1] = self._losses[-1] * math.nan  # what only the second process sees; its gradients are fine
    return loss

ForgeTrainer.training_step = training_step
code = run_command(pretrain.main)
print(f"process {rank()} ends with {code}", flush=True)
sys.exit(code)
"""


@pytest.mark.slow
def test_what_one_process_sees_stops_both_at_the_same_step(corpus, tmp_path):
    (tmp_path / "poisoned.py").write_text(POISONED)
    shape = ["--preset", "gpt2-10m", "--n_layer", "2", "--n_embd", "32", "--n_head", "2", "--vocab_size", "400"]
    rhythm = ["--max_steps", "6", "--save_steps", "1", "--eval_strategy", "no", "--logging_steps", "1", "--report_to", "none"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / "cpu_ddp.yaml"),
            *("poisoned.py", "--corpus", corpus, "--output_dir", "run", "--block_size", "32", *shape, *rhythm),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    told = done.stdout + done.stderr
    assert "process 0 ends with 6" in told, told
    assert "process 1 ends with 6" in told, told
    record = json.loads((tmp_path / "run" / "exit.json").read_text())
    assert (record["exit_code"], record["newest_checkpoint"]) == (6, "checkpoint-2")
    assert "Step 3" in record["reason"]
    assert json.loads((tmp_path / "run" / "divergence.json").read_text())["documents"]
