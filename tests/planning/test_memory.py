"""The plan's arithmetic against every tensor of a real training step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from helpers import training_args
from live_memory import LiveBytes

from llmforge.attention import install_attention
from llmforge.configs.model import ModelArguments
from llmforge.cross_entropy import chunk_rows
from llmforge.losses import install_losses
from llmforge.models import build_config
from llmforge.optimizers import build_optimizer
from llmforge.planning import memory
from llmforge.planning.activations import Batch
from llmforge.planning.memory import Setup, chunk_bytes, estimate, largest_rows
from llmforge.planning.shapes import shape_from
from llmforge.segments import Segments

WIDTH, LAYERS, ROWS, LENGTH, VOCABULARY = 96, 3, 2, 128, 1024
FORWARD, BACKWARD, STEP = "end of the forward pass", "backward", "optimizer step"


def arguments(preset: str, **changes) -> ModelArguments:
    if preset.startswith("gpt2"):
        return ModelArguments(preset=preset, n_layer=LAYERS, n_embd=WIDTH, n_head=4, n_positions=LENGTH, **changes)
    return ModelArguments(preset=preset, num_hidden_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=4, **changes)


def held(tmp_path, setup: Setup, model_arguments: ModelArguments, way: str) -> dict[str, int]:
    """Peaks of the second optimizer step, when the optimizer has its state."""
    batch = setup.batch
    # A row is a short document and a long one, so that they are gathered into calls; hardly anything is filled up.
    segments = Segments(np.array([32, LENGTH - 32] * batch.rows), (batch.rows, LENGTH))
    ids = torch.randint(2, VOCABULARY, (batch.rows, LENGTH))
    inputs = {"input_ids": ids, "labels": ids, "shift_labels": ids, "segments": segments}
    inputs["position_ids"] = torch.cat([torch.arange(32), torch.arange(LENGTH - 32)]).repeat(batch.rows, 1)
    with LiveBytes() as live:
        model = transformers.AutoModelForCausalLM.from_config(build_config(model_arguments, VOCABULARY))
        install_attention(install_losses(model, setup.lean), way)
        model.train()
        if batch.checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if setup.optim == "muon":
            optimizer = build_optimizer(model, training_args(tmp_path))
        else:
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            for _ in range(setup.accumulation):
                with torch.autocast("cpu", torch.bfloat16, enabled=batch.half):
                    loss = model(**inputs, num_items_in_batch=batch.tokens).loss
                live.mark(FORWARD)
                loss.backward()
                del loss
                live.mark(BACKWARD)
            optimizer.step()
            live.mark(STEP)
            optimizer.zero_grad()
    return live.peaks


CASES = {
    "plain": {},
    "accumulated": {"accumulation": 2},
    "checkpointed": {"checkpointed": 1},
    "half": {"half": True, "optim": "adamw_torch_fused"},
    "half, checkpointed": {"half": True, "checkpointed": 1, "optim": "adamw_torch_fused"},
    "masked": {"attention": "mask"},
    "stock loss": {"lean": False},
    "AdamW": {"optim": "adamw_torch_fused"},
}


@pytest.fixture
def bare(monkeypatch):
    """Tensors alone: no allowance."""
    for name in ("PROCESS_BYTES", "CPU_WASTE", "CHECKPOINTED_WASTE"):
        monkeypatch.setattr(memory, name, 0)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("case", CASES)
def test_the_prediction_is_what_tensors_hold(preset, case, tmp_path):
    """Within 5 % at the peak; a moment that is not the peak may be counted too high, and not too low."""
    settings = dict(CASES[case])
    places = {name: settings.pop(name) for name in ("checkpointed", "half", "attention") if name in settings}
    given = arguments(preset)
    setup = Setup(
        shape_from(build_config(given, VOCABULARY)),
        Batch(ROWS, LENGTH, **places),
        snapshot=False,
        evaluation_rows=0,
        **settings,
    )
    way = "sdpa" if setup.batch.attention == "mask" else "llmforge_by_document"
    peaks = held(tmp_path, setup, given, way)
    predicted = dict(estimate(setup).moments)
    predicted[BACKWARD] = max(predicted.pop(f"{end} of the backward pass") for end in ("start", "end"))
    assert max(predicted.values()) == pytest.approx(max(peaks.values()), rel=0.05)
    for moment, size in peaks.items():
        assert predicted[moment] > 0.95 * size, moment


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_what_an_activation_keeps(activation, tmp_path):
    given = arguments("gpt2-10m", activation_function=activation, n_inner=3 * WIDTH)
    shape = shape_from(build_config(given, VOCABULARY))
    setup = Setup(shape, Batch(ROWS, LENGTH), snapshot=False, evaluation_rows=0)
    assert estimate(setup).peak == pytest.approx(max(held(tmp_path, setup, given, "llmforge_by_document").values()), rel=0.05)


def setup(**changes) -> Setup:
    given = build_config(ModelArguments(preset="gpt2-124m"), 50304)
    return Setup(shape_from(given), Batch(changes.pop("rows", 8), 1024, gpu=changes.pop("gpu", False)), **changes)


def test_a_chunk_of_the_loss_is_the_loss_s_own():
    """The same numbers as where they are used."""
    for vocabulary in (64, 8192, 50304, 250_000):
        for tokens in (64, 500, 8192):
            for half, kind in ((False, torch.float32), (True, torch.float16), (True, torch.bfloat16)):
                one = replace(setup(fp16=kind == torch.float16), batch=Batch(1, tokens, half=half))
                one = replace(one, shape=replace(one.shape, vocabulary=vocabulary))
                rows = min(chunk_rows(tokens, vocabulary, kind, torch.device("cpu")), tokens)
                assert chunk_bytes(one) == rows * vocabulary * (kind.itemsize + 4)


def test_sharding_shares_the_state_and_not_the_activations():
    alone, ddp, fsdp = (
        estimate(setup(gpu=True, optim="adamw_torch_fused", **more))
        for more in ({}, {"processes": 4}, {"processes": 4, "sharded": True})
    )
    assert ddp.gathered == ddp.gradients == alone.gradients
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(fsdp, name) == getattr(alone, name) // 4
    assert fsdp.activations <= ddp.activations == alone.activations
    block, table = 12 * 768**2, 50304 * 768  # gpt2-124m: two blocks and the table are gathered, and a block's gradients
    assert fsdp.gathered == 4 * (2 * block + table + block)
    assert fsdp.peak < alone.peak < ddp.peak
    # A checkpoint is that of an unsharded training: the first process brings it together.
    assert fsdp.snapshot == pytest.approx(alone.snapshot, abs=16)


def test_the_copy_of_a_checkpoint_is_in_the_machine_s_memory():
    with_copy, without = estimate(setup()), estimate(setup(snapshot=False))
    assert with_copy.peak - without.peak == with_copy.snapshot == with_copy.weights + with_copy.optimizer
    assert estimate(setup(gpu=True)).peak == estimate(setup(gpu=True, snapshot=False)).peak


def test_the_largest_micro_batch_divides_the_step_and_fits():
    one = setup()
    sizes = {rows: estimate(one.with_rows(rows, 24 // rows)).peak for rows in (1, 2, 3, 4, 6, 8, 12, 24)}
    assert sorted(sizes.values()) == list(sizes.values())
    for rows, size in sizes.items():
        assert largest_rows(one, 24, size) == rows
        assert largest_rows(one, 24, size - 1) < rows
    assert largest_rows(one, 24, sizes[12] - 1) == 8


def test_what_the_c_library_keeps_is_allowed_for_on_a_cpu():
    """A third more, and with checkpointing most of what it spares: it must not be counted on where it does not come back."""
    one = setup(snapshot=False)
    spared = replace(one, batch=replace(one.batch, checkpointed=1))
    held, held_spared = estimate(one), estimate(spared)
    assert held.allowance == pytest.approx(memory.PROCESS_BYTES + 0.3 / 1.3 * (held.peak - memory.PROCESS_BYTES), rel=1e-6)
    assert held_spared.allowance - memory.PROCESS_BYTES == pytest.approx(
        0.7 * (held.activations - held_spared.activations), rel=1e-6
    )
    assert held_spared.peak < held.peak
