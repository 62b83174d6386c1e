"""The state that optimizers really have after a step."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_model, training_args
from transformers import Trainer

from llmforge.configs.training import OPTIMIZERS
from llmforge.optimizers import build_optimizer
from llmforge.planning.optimizer_state import is_known, state_bytes, working_bytes
from llmforge.planning.shapes import shape_from


@pytest.mark.parametrize("optim", ["muon", "adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"])
def test_the_state_is_counted(preset, optim, tokenizer, tmp_path):
    model = tiny_model(preset, tokenizer)
    args = training_args(tmp_path, optim=optim, learning_rate=1e-3)
    if optim == "muon":
        optimizer = build_optimizer(model, args)
    else:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
        optimizer = kind(model.parameters(), **settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value) and value.ndim]
    assert state_bytes(optim, shape_from(model.config)) == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_adapters_have_the_state_of_their_own_size(tokenizer):
    shape = shape_from(tiny_model("gpt2-10m", tokenizer).config)
    assert state_bytes("adamw_torch_fused", shape, trained=1000) == 8000
    assert state_bytes("muon", shape, trained=1000) == 4000
    assert working_bytes("muon", shape, False, trained=1000) == 12_000


def test_every_8_bit_state_is_smaller(tokenizer):
    shape = shape_from(tiny_model("gpt2-10m", tokenizer).config)
    for optim in OPTIMIZERS:
        if "8bit" in optim and is_known(optim):
            assert state_bytes(optim, shape) < 0.5 * state_bytes("adamw_torch_fused", shape), optim
