"""One training step of a small model as it trains here, compared with the stock model in float64 on the CPU.

Ours: packed rows, attention document by document, the loss made chunk by chunk, the precision of the device. The other
side: transformers' own model with its eager attention and its mask, the whole logits, float64.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from llmforge.attention import choose_attention, install_attention
from llmforge.configs.model import ModelArguments
from llmforge.data.collate import PackedCollator
from llmforge.diagnosis.numerics import Comparison
from llmforge.losses import IGNORE, install_losses
from llmforge.models import build_config
from llmforge.speed_probe import made_up_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_VOCABULARY, _ROWS, _LENGTH = 320, 4, 96
#: Two layers of two heads; weights large enough that a wrong term shows.
_SHAPES = {
    "GPT-2": ModelArguments(preset="gpt2-10m", n_layer=2, n_embd=64, n_head=2, initializer_range=0.1),
    "GPT-NeoX": ModelArguments(
        preset="neox-10m", num_hidden_layers=2, hidden_size=64, num_attention_heads=2, initializer_range=0.1
    ),
}
#: As fp16's scaler begins with, so that small gradients do not become zero.
_SCALE = 1024.0
_RATE = 1e-2
#: What rounding explains of the norm of a gradient, and of a loss: at least ten times the most that was seen on a CPU.
_ALLOWED = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 2e-1}
_ALLOWED_LOSS = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 5e-3}


def compare_steps(
    device: torch.device,
    precision: str,
    tell: Callable[[str], None],
    running: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[Comparison]:
    """Loss, gradients, and the loss after an AdamW step, of a GPT-2 and a GPT-NeoX.

    Args:
        device: To compute on.
        precision: That it trains in.
        tell: Is told what comes next.
        running: Entered around whatever the device computes.
    """
    import torch
    import transformers

    for name, shape in _SHAPES.items():
        tell(f"a step of {name} in {precision}")
        config = build_config(shape, _VOCABULARY)
        transformers.set_seed(0)
        ours = transformers.AutoModelForCausalLM.from_config(config)
        # A config of its own: what is said of the attention is kept in it.
        stock = transformers.AutoModelForCausalLM.from_config(build_config(shape, _VOCABULARY), attn_implementation="eager")
        stock.load_state_dict(ours.state_dict())
        batch = PackedCollator()(made_up_rows(_ROWS, _LENGTH, _VOCABULARY))
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        right = _right(stock.double(), batch)
        with running():
            install_losses(install_attention(ours, choose_attention("auto", config, device, half).way))
            result = _step(ours.to(device), batch, device, half)
        for part, allowed in (("loss", _ALLOWED_LOSS), ("gradients", _ALLOWED), ("loss after AdamW", _ALLOWED_LOSS)):
            # Each tensor by its own norm: a small one that is wrong would not show beside the embeddings'.
            errors = [_off(result[part][key], value) for key, value in right[part].items()]
            error = math.nan if any(map(math.isnan, errors)) else max(errors)
            yield Comparison(f"{part} of {name} in {precision}", error, allowed[precision])


def _off(result: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(result - right) / np.linalg.norm(right))


_Told = dict[str, dict[str, np.ndarray]]


def _step(model: PreTrainedModel, batch: dict[str, Any], device: torch.device, half: torch.dtype) -> _Told:
    import torch

    given = {name: value.to(device) for name, value in batch.items()}
    model.train()
    mixed = torch.autocast(device.type, half) if half != torch.float32 else contextlib.nullcontext()
    scale = _SCALE if half == torch.float16 else 1.0

    def loss() -> torch.Tensor:
        with mixed:
            return model(**given).loss

    before = loss()
    (before * scale).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad /= scale
    return _after(model, before, loss)


def _right(model: PreTrainedModel, batch: dict[str, Any]) -> _Told:
    from torch.nn import functional as F

    model.train()
    goals = batch["shift_labels"].reshape(-1)

    def loss() -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        return F.cross_entropy(logits.reshape(len(goals), -1), goals, ignore_index=IGNORE)

    before = loss()
    before.backward()
    return _after(model, before, loss)


def _after(model: PreTrainedModel, before: torch.Tensor, loss: Callable[[], torch.Tensor]) -> _Told:
    import torch

    gradients = {name: parameter.grad.cpu().double().numpy() for name, parameter in model.named_parameters()}
    torch.optim.AdamW(model.parameters(), lr=_RATE, eps=1e-4, fused=True).step()
    with torch.no_grad():
        after = loss()
    losses = {"loss": before, "loss after AdamW": after}
    return {name: {"": np.array(value.item())} for name, value in losses.items()} | {"gradients": gradients}
