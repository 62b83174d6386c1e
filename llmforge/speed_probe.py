"""The speed of a model on the device here, measured by training it for a few steps on made-up rows."""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import TrainerCallback

from llmforge.configs.run import PretrainConfig
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.data.collate import PackedCollator
from llmforge.data.packing import pack
from llmforge.models import build_config, embedding_rows
from llmforge.planning.speed import Speed
from llmforge.runtime.launch import use_all_cores
from llmforge.runtime.logs import logger
from llmforge.tokenization import train_tokenizer
from llmforge.trainer import ForgeTrainer

#: Steps that are measured after two that warm up, unless they take longer than so many seconds.
STEPS, MOST_SECONDS = 20, 60.0
#: Tokens of the made-up documents, about: between those of code and those of books.
_DOCUMENT = 400


def made_up_rows(count: int, length: int, vocabulary: int, seed: int = 0) -> list[dict[str, Any]]:
    """Packed rows of random tokens, in documents of some hundred.

    Args:
        count: Rows.
        length: Tokens of a row.
        vocabulary: Entries; the first two are never inside a document.
        seed: Of the tokens.
    """
    source = np.random.RandomState(seed)
    sizes: list[int] = []
    while sum(sizes) < (count + 1) * length:
        sizes.append(int(source.randint(_DOCUMENT // 2, _DOCUMENT * 3 // 2)))
    rows = pack([source.randint(2, vocabulary, size).astype(np.int32) for size in sizes], range(len(sizes)), length, 0, 1)
    names = ("input_ids", "segment_lengths", "segment_targets", "segment_documents")
    return [{name: np.asarray(getattr(rows, name)[index]) for name in names} for index in range(count)]


#: What the speed of a step depends on.
_TAKEN = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "optim", "optim_args", "optim_target_modules", "precision"),
    *("packed_attention", "lean_loss", "activation_checkpointing", "activation_checkpointing_kwargs", "use_cpu"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode", "dataloader_num_workers", "max_grad_norm"),
)


def _quiet(folder: str, steps: int) -> dict[str, Any]:
    """Arguments of a training that leaves nothing."""
    same = {"output_dir": folder, "report_to": [], "disable_tqdm": True, "logging_steps": 1000, "max_steps": steps + 3}
    return same | {"eval_strategy": "no", "save_strategy": "no", "eval_on_start": False}


class _Clock(TrainerCallback):
    """Notes when each step begins, and ends the training when it has lasted long enough."""

    def __init__(self, most_seconds: float) -> None:
        self.most_seconds = most_seconds
        self.begun: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        import torch

        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.begun.append(time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(self.begun) > 3 and time.perf_counter() - self.begun[0] > self.most_seconds:
            control.should_training_stop = True

    def seconds(self) -> list[float]:
        """Of each step but the first two, which begin slowly."""
        return list(np.diff(self.begun[2:]))


def probe_speed(config: PretrainConfig, vocabulary: int, steps: int = STEPS, most_seconds: float = MOST_SECONDS) -> Speed:
    """Train the model of `config` for a few steps, with its micro-batch, accumulation and optimizer, and measure.

    Args:
        config: Of the run; nothing of it is changed, and nothing is left behind.
        vocabulary: Entries of the tokenizer.
        steps: To measure, after two that warm up.
        most_seconds: After which no other step is begun, from the second measured one on.
    """
    transformers.utils.logging.disable_progress_bar()
    asked, length = config.training, config.data.block_size
    step_rows = asked.per_device_train_batch_size * asked.gradient_accumulation_steps
    clock = _Clock(most_seconds)
    with tempfile.TemporaryDirectory() as folder:
        args = ForgeTrainingArguments(**{name: getattr(asked, name) for name in _TAKEN}, **_quiet(folder, steps))
        if args.device.type == "cpu":
            use_all_cores()
        tokenizer = train_tokenizer(["a b"], TokenizerArguments())
        tokenizer.save(Path(folder))
        loaded = transformers.AutoTokenizer.from_pretrained(folder)
        shape = build_config(config.model, embedding_rows(vocabulary), loaded)
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            trainer = ForgeTrainer(
                model=transformers.AutoModelForCausalLM.from_config(shape),
                args=args,
                train_dataset=made_up_rows(step_rows * 2, length, vocabulary),
                processing_class=loaded,
                data_collator=PackedCollator(),
                callbacks=[clock],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        finally:
            logger.setLevel(level)
    seconds = statistics.median(clock.seconds())
    return Speed(step_rows * length / seconds, f"measured here, {len(clock.seconds())} steps", measured=True)
