"""The sides that training is compared on: llmforge's trainer, stock Trainer, a loop of one's own."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from llmforge import ForgeTrainer, ForgeTrainingArguments, PackedCollator, RunLog, Throughput, TokenizerArguments
from llmforge.configs.checkpoint import CheckpointArguments
from llmforge.tokenization import train_tokenizer

RATE, DECAY, CLIP = 1e-3, 0.1, 1.0


def quiet() -> None:
    """No bars and no chatter between the figures."""
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


def synchronise() -> None:
    """Wait until the device has done what it was told; on a CPU it has."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


class Clock(TrainerCallback):
    """Notes when each step begins, and ends the training once `seconds` have passed."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self.seconds = seconds
        self.begun: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        synchronise()
        self.begun.append(time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(self.begun) > 3 and time.perf_counter() - self.begun[0] > self.seconds:
            control.should_training_stop = True

    def steps(self) -> list[float]:
        """Seconds of each step but the first and the last, which the start and the end belong to."""
        return [later - sooner for sooner, later in itertools.pairwise(self.begun[1:])]


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    """What both trainers are told: AdamW at a constant rate, nothing evaluated or saved."""
    same = {
        "output_dir": str(folder),
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
        "weight_decay": DECAY,
        "max_grad_norm": CLIP,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "logging_steps": 5,
        "disable_tqdm": True,
    }
    return same | changes


def any_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer for a trainer that asks for one; nothing is encoded or decoded with it."""
    train_tokenizer(["a b"], TokenizerArguments()).save(folder / "tokenizer")
    return transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")


def forge(
    model: PreTrainedModel, rows: Sequence[dict[str, Any]], folder: Path, async_save: bool = True, **changes: Any
) -> ForgeTrainer:
    """llmforge's trainer with the callbacks that every run has."""
    args = ForgeTrainingArguments(**arguments(folder, **changes))
    block = len(rows[0]["input_ids"])
    trainer = ForgeTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        processing_class=any_tokenizer(folder),
        data_collator=PackedCollator(),
        callbacks=[Throughput(args.per_device_train_batch_size * block, block), RunLog(folder)],
        saving=CheckpointArguments(async_save=async_save),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def stock(
    model: PreTrainedModel,
    rows: Sequence[dict[str, Any]],
    folder: Path,
    collate: Callable[..., Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    **changes: Any,
) -> Trainer:
    """Trainer as it comes."""
    args = TrainingArguments(**arguments(folder, remove_unused_columns=False, **changes))
    trainer = Trainer(model=model, args=args, train_dataset=rows, data_collator=collate, processing_class=tokenizer)
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def timed(trainer: Trainer, seconds: float = float("inf")) -> Callable[[], list[float]]:
    """Seconds of the steps of one more call of `train`."""
    clock = Clock(seconds)
    trainer.add_callback(clock)

    def measure() -> list[float]:
        clock.begun = []
        trainer.train()
        return clock.steps()

    return measure


def bare(
    model: PreTrainedModel,
    rows: Sequence[dict[str, Any]],
    batch: int,
    steps: int,
    collate: Callable[..., Any],
    half: str | None = None,
    seconds: float = float("inf"),
) -> Callable[[], list[float]]:
    """Seconds of the steps of a loop of a dozen lines: loss over the step's targets, AdamW, clipping, nothing else."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    device = next(model.parameters()).device
    loader = DataLoader(rows, batch_size=batch, shuffle=True, collate_fn=collate, pin_memory=device.type == "cuda")  # type: ignore[arg-type]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(half or "")
    scaler = torch.amp.GradScaler(device.type, enabled=half == "fp16")

    def endless() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    batches = endless()

    def step() -> torch.Tensor:
        read = next(batches).items()
        inputs = {name: value.to(device, non_blocking=True) if torch.is_tensor(value) else value for name, value in read}
        with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
            loss = model(**inputs, num_items_in_batch=(inputs["labels"] != -100).sum()).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return loss.detach()

    def measure() -> list[float]:
        model.train()
        clock = Clock()
        for _ in range(steps):
            clock.on_step_begin()
            step()
            if len(clock.begun) > 3 and time.perf_counter() - clock.begun[0] > seconds:
                break
        return clock.steps()

    return measure
