"""Distributions of parameters and gradients, for whoever looks for the layer that misbehaves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.callbacks.forge_callback import ForgeCallback
from llmforge.errors import ConfigError
from llmforge.sharding import is_sharded, whole

#: Values taken of each tensor, evenly spread: enough for a histogram, and little to copy from a GPU.
_MOST = 65_536


class Histograms(ForgeCallback):
    """Histograms into the trackers every `every` steps: ``histograms/parameters/…`` and ``histograms/gradients/…``.

    Gradients are those the optimizer is about to apply, clipped and unscaled.

    Raises:
        ConfigError: `every` is below 1, or when training begins without a tracker that shows histograms.
    """

    def __init__(self, every: int):
        if every < 1:
            raise ConfigError(f"Histograms every {every} steps cannot be made.", "Give at least 1.")
        self.every = every

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        check_tracker(args)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        step = state.global_step + 1
        if model is None or step % self.every or not (state.is_world_process_zero or is_sharded(model)):
            return
        values = {}
        for name, parameter in model.named_parameters():
            for kind, tensor in (("parameters", parameter), ("gradients", parameter.grad)):
                if tensor is not None:
                    values[f"histograms/{kind}/{name}"] = _some(whole(tensor))  # for which a sharded one needs every process
        if state.is_world_process_zero:
            self.trainer.trackers.histograms(values, step)


def check_tracker(args: TrainingArguments) -> None:
    """Refuse histograms that nothing would show.

    Raises:
        ConfigError: Neither TensorBoard nor W&B is reported to.
    """
    if not {"tensorboard", "wandb"} & set(args.report_to):
        raise ConfigError(
            "--histogram_steps needs a tracker, and --report_to names none.", "Give --report_to tensorboard, or wandb."
        )


def _some(values: torch.Tensor) -> Any:
    """At most `_MOST` of `values`, evenly spread, as a NumPy array of its own."""
    flat = values.detach().flatten()
    stride = -(-flat.numel() // _MOST)
    # Sharing a factor with the width, it would find the same few columns in every row.
    while stride > 1 and any(stride % factor == 0 for factor in (2, 3, 5, 7)):
        stride += 1
    return flat[:: max(stride, 1)].float().cpu().numpy().copy()
