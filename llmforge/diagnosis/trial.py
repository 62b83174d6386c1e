"""A training of seconds, all of it real: text, tokenizer, model, optimizer, checkpoint, resume."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from llmforge.build import build_trainer
from llmforge.callbacks.loss_plot import LossPlot
from llmforge.checkpoints.manifest import list_checkpoints, verify
from llmforge.configs.data import DataArguments
from llmforge.configs.model import ModelArguments
from llmforge.configs.tokenizer import TokenizerArguments
from llmforge.configs.training import ForgeTrainingArguments
from llmforge.data.prepare import prepare_dataset
from llmforge.data.prepared import PreparedDataset
from llmforge.diagnosis.findings import Finding
from llmforge.errors import Entry
from llmforge.models import build_model
from llmforge.runtime.logs import logger
from llmforge.runtime.precision import apply_precision

_STEPS = 5
#: The smallest preset, with two of its ten layers: the others would only take time.
_MODEL: dict[str, Any] = {"preset": "gpt2-10m", "n_layer": 2}
_NAME = "a gpt2-10m of 2 layers"
#: The loss must come down by so much from the first step to the last; it does by two and more.
_LEAST = 0.3


def train_a_little(tell: Callable[[str], None]) -> Finding:
    """Train the smallest preset for a few steps in a temporary folder, verify its checkpoint, and go on from it.

    Args:
        tell: Is told what comes next.

    Raises:
        Exception: Whatever training raises.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="llmforge-doctor-", ignore_cleanup_errors=True) as name, _quiet(Path(name)):
        folder = Path(name)
        tell("preparing text")
        data = _prepare(folder)
        tell(f"{_STEPS} steps of {_NAME}")
        losses, device = _train(data, folder / "run", _STEPS, None)
        checkpoints = list_checkpoints(folder / "run")
        if not checkpoints:
            return _wrong("no checkpoint was written")
        tell("verifying the checkpoint")
        problems = verify(checkpoints[-1])
        if problems:
            return _wrong(f"the checkpoint is not sound: {problems[0]}")
        if not all(map(math.isfinite, losses)):
            return _wrong(f"the loss is not finite: {', '.join(f'{loss:.3g}' for loss in losses)}", "loss-nan")
        if losses[-1] > losses[0] - _LEAST:
            return _wrong(f"the loss does not fall: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last", "loss-flat")
        tell("resuming")
        resumed, _ = _train(data, folder / "run", _STEPS + 1, str(checkpoints[-1]))
        if len(resumed) != 1 or not resumed[0] < losses[0] - _LEAST:
            told = ", ".join(f"{loss:.3f}" for loss in resumed)
            return _wrong(f"a resume did not go on where the checkpoint was: loss {told}", "resume-refused")
        size = sum(path.stat().st_size for path in checkpoints[-1].rglob("*") if path.is_file())
    text = f"{_STEPS} steps of {_NAME} on {device}: loss {losses[0]:.2f} to {losses[-1]:.2f}; "
    text += f"checkpoint of {size / 2**20:.0f} MiB verified, resumed; {time.perf_counter() - start:.0f} s"
    return Finding("training", "ok", text)


def _wrong(text: str, see: Entry = "loss-flat") -> Finding:
    remedy = "Look at the failures above first; with none, report this with the output of llmforge doctor --json."
    return Finding("training", "failure", f"{text[0].upper()}{text[1:]}.", remedy, see)


def _prepare(folder: Path) -> PreparedDataset:
    """Made-up text whose words come back, so that a few steps are enough to learn from it."""
    corpus = folder / "corpus"
    corpus.mkdir()
    words = "the pump loses pressure when its oil is cold and nobody knows why it does so".split()
    for number in range(60):
        lines = [" ".join(words[(number + line + place) % len(words)] for place in range(9)) for line in range(12)]
        (corpus / f"{number}.txt").write_text("\n".join(lines) + f"\nNote {number}.\n", encoding="utf-8")
    data = DataArguments(corpus=str(corpus), block_size=128, dedup="off", split_ratios="1,0,0", prepare_workers=1)
    return prepare_dataset(data, TokenizerArguments(vocab_size=384))


def _train(data: PreparedDataset, folder: Path, steps: int, checkpoint: str | None) -> tuple[list[float], str]:
    """The loss of each step, and the device it was made on; this process goes on with one thread on a CPU."""
    args = ForgeTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        lr_scheduler_type="constant",
        warmup_steps=0,
        logging_steps=1,
        save_steps=steps,
        save_strategy="no" if checkpoint else "steps",
        eval_strategy="no",
        report_to=["none"],
        disable_tqdm=True,
    )
    apply_precision(args)
    if args.device.type == "cpu":  # such small matrices gain nothing, and threads on cores that others use wait for one another
        torch.set_num_threads(1)
    model = build_model(ModelArguments(**_MODEL), data.tokenizer, data.block_size)
    trainer = build_trainer(model, data, args)
    if checkpoint is not None:
        trainer.pop_callback(LossPlot)  # drawn once already, and that takes seconds
    trainer.train(resume_from_checkpoint=checkpoint)
    done = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    before = 0 if checkpoint is None else _STEPS
    return done[before:], str(args.device)


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Nothing is logged, and what is prepared goes into `folder`."""
    before = os.environ.get("LLMFORGE_CACHE")
    os.environ["LLMFORGE_CACHE"] = str(folder / "cache")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            os.environ.pop("LLMFORGE_CACHE", None)
        else:
            os.environ["LLMFORGE_CACHE"] = before
