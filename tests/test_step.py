"""What a training step does beside the maths: nothing twice, and no waiting for the device."""

from __future__ import annotations

import pytest
import torch
from helpers import awkward_documents, forge_trainer, packed_rows, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from llmforge.configs.training import ForgeTrainingArguments


@pytest.fixture
def documents(tokenizer):
    return awkward_documents(tokenizer)


class Waits(TorchDispatchMode):
    """Counts what waits for the device: numbers and sizes that depend on tensors' contents."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.NAMES or (name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Steps(TrainerCallback):
    """How many waits there were until the end of each step."""

    def __init__(self, waits: Waits):
        self.waits = waits
        self.counts: list[int] = []

    def on_step_end(self, *args, **kwargs):
        self.counts.append(len(self.waits.seen))


@pytest.mark.parametrize("dropout", [False, True])
def test_a_micro_batch_never_waits_for_the_device(preset, dropout, documents, tokenizer, tmp_path):
    """Four micro-batches to a step wait as often as one does: for the check of loss and gradient, once."""
    waits = {}
    for accumulation in (1, 4):
        with Waits() as seen:
            steps = Steps(seen)
            forge_trainer(
                tiny_model(preset, tokenizer, dropout=dropout),
                tokenizer,
                tmp_path,
                packed_rows(documents, tokenizer),
                callbacks=[steps],
                max_steps=3,  # within one epoch
                logging_steps=100,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=accumulation,
                optim="adamw_torch_fused",
            ).train()
        waits[accumulation] = [later - sooner for sooner, later in zip(steps.counts, steps.counts[1:], strict=False)]
    assert waits[1] == waits[4]
    assert max(waits[1]) <= 1, seen.seen


def test_operations_are_counted_once_a_size(documents, tokenizer, tmp_path, monkeypatch):
    """Stock walks over every parameter at every micro-batch; the sum in the state is the same."""
    model = tiny_model("gpt2-10m", tokenizer)
    trainer = forge_trainer(model, tokenizer, tmp_path, packed_rows(documents, tokenizer), max_steps=3)
    walks = []
    count = model.num_parameters
    monkeypatch.setattr(model, "num_parameters", lambda **kwargs: walks.append(1) or count(**kwargs))
    trainer.train()
    assert len(walks) <= 2  # the other one is the summary at the start
    positions = 3 * trainer.args.per_device_train_batch_size * 32
    assert trainer.state.total_flos == 6 * positions * count(exclude_embeddings=True)


def test_blocks_compiled_one_by_one_train_the_same(preset, documents, tokenizer, tmp_path, monkeypatch):
    """``--torch_compile``, whatever the launcher says; names in the checkpoint stay those of the plain model."""
    compiled, losses = [], []
    for changes in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):  # which needs no compiler
        if changes:
            monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
        model = tiny_model(preset, tokenizer)
        trainer = forge_trainer(
            model,
            tokenizer,
            tmp_path,
            packed_rows(documents, tokenizer),
            max_steps=3,
            learning_rate=1e-3,
            logging_steps=1,
            **changes,
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        compiled.append({name for name, part in model.named_modules() if part._compiled_call_impl is not None})
        names = list(trainer.accelerator.unwrap_model(trainer.model_wrapped).state_dict())
        assert names == list(tiny_model(preset, tokenizer).state_dict())
    assert type(trainer.model_wrapped) is type(model)  # and the whole is not compiled around them
    assert compiled[0] == set()
    assert len(compiled[1]) == model.config.num_hidden_layers
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_batches_go_to_an_accelerator_without_waiting(monkeypatch, tmp_path):
    assert ForgeTrainingArguments(output_dir=str(tmp_path)).accelerator_config.non_blocking is torch.accelerator.is_available()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(ForgeTrainingArguments, "device", torch.device("cpu"))
    assert ForgeTrainingArguments(output_dir=str(tmp_path)).accelerator_config.non_blocking
    assert not ForgeTrainingArguments(output_dir=str(tmp_path), use_cpu=True).accelerator_config.non_blocking
