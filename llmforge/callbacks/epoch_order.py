"""Tells the sampler which epoch begins, also after a resume on several processes."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.data.sampler import EpochSampler


class EpochOrder(TrainerCallback):
    """Sets the epoch from the step count.

    Trainer's own way, `set_epoch` on the loader, does not reach a sampler behind the two
    wrappers that a resume on several processes puts around it; the run would then go on
    with the rows of epoch 0.
    """

    def __init__(self, sampler: EpochSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.sampler.set_epoch(state.global_step // self.sampler.steps)
