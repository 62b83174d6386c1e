"""python benchmarks/step.py [--rounds N] [--json]

One training step of a small GPT-2 with a 50k vocabulary: llmforge's trainer, without and with the
lean loss, against a bare PyTorch loop that does the same and against stock Trainer, in turn.

- bare: the same model, rows, attention and AdamW in a loop of a dozen lines, with the stock loss
- ours, plain: `ForgeTrainer` with ``lean_loss`` off. ``ratio`` is its tokens a second over the bare loop's
- ours: the lean loss too. ``ratio_lean`` is its tokens a second over the bare loop's
- stock: `transformers.Trainer` with the same rows, whose documents a mask keeps apart
"""

from __future__ import annotations

import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from common import in_turn, packed_rows, parser, ratio, spread, table, tell
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback
from transformers.utils.logging import disable_progress_bar

from llmforge import ForgeTrainer, ForgeTrainingArguments, PackedCollator, RunLog, Throughput, TokenizerArguments
from llmforge.tokenization import train_tokenizer

VOCABULARY, BLOCK, ROWS, STEPS, DOCUMENT = 50_304, 512, 4, 6, 300
RATE = 1e-3


class Clock(TrainerCallback):
    """Notes when each step begins."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.begun.append(time.perf_counter())


class Parts:
    """Seconds spent inside chosen methods of an object."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count the time inside `owner.method` as `part`."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

        setattr(owner, method, timed)


def model(layers: int, width: int) -> GPT2LMHeadModel:
    """The same initial weights for every side; no dropout, which differs by side in how it is drawn."""
    transformers.set_seed(0)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": BLOCK}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=1, **shape, **dropout))


def arguments(folder: str, **changes: Any) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": ROWS,
        "max_steps": STEPS + 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "logging_steps": 3,
        "disable_tqdm": True,
        **changes,
    }


def trainer_step(trainer: Trainer) -> Callable[[], float]:
    """Median seconds of the steps of one more call of `train`."""
    clock = Clock()
    trainer.add_callback(clock)

    def measure() -> float:
        clock.begun = []
        trainer.train()
        return statistics.median(later - sooner for sooner, later in itertools.pairwise(clock.begun[1:]))

    return measure


def bare_step(bare: GPT2LMHeadModel, rows: list[dict[str, Any]]) -> Callable[[], float]:
    """The same maths in a loop of one's own: the stock loss over the targets of the step, AdamW, clipping."""
    decayed = [parameter for parameter in bare.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in bare.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    loader = DataLoader(rows, batch_size=ROWS, shuffle=True, collate_fn=PackedCollator())  # type: ignore[arg-type]

    def endless() -> Iterator[dict[str, Any]]:
        while True:
            yield from loader

    batches = endless()
    device = next(bare.parameters()).device

    def measure() -> float:
        bare.train()
        begun = []
        for _ in range(STEPS + 1):
            begun.append(time.perf_counter())
            batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in next(batches).items()}
            loss = bare(**batch, num_items_in_batch=(batch["labels"] != -100).sum()).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss.item()
        return statistics.median(later - sooner for sooner, later in itertools.pairwise(begun[1:]))

    return measure


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="pairs to take")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--width", type=int, default=256)
    chosen = options.parse_args()
    disable_progress_bar()
    logging.disable(logging.WARNING)
    rows = packed_rows(64, BLOCK, DOCUMENT, VOCABULARY)
    # Any will do: its ids are not these rows', and nothing is decoded.
    tokenizer = train_tokenizer(["a b"], TokenizerArguments())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "tokenizer")
        words = transformers.AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")

        def forge(**changes: Any) -> ForgeTrainer:
            callbacks = [RunLog(Path(folder)), Throughput(ROWS * BLOCK, BLOCK)]
            args = ForgeTrainingArguments(**arguments(folder, **changes))
            made = ForgeTrainer(
                model=model(chosen.layers, chosen.width),
                args=args,
                train_dataset=rows,
                processing_class=words,
                data_collator=PackedCollator(),
                callbacks=callbacks,
            )
            made.remove_callback(transformers.PrinterCallback)
            return made

        stock = Trainer(
            model=model(chosen.layers, chosen.width),
            args=transformers.TrainingArguments(**arguments(folder, remove_unused_columns=False)),
            train_dataset=rows,
            data_collator=PackedCollator(),
        )
        stock.remove_callback(transformers.PrinterCallback)
        plain, lean = forge(lean_loss=False), forge(lean_loss=True)
        bare = forge(lean_loss=False).model  # its attention and its loss, out of any trainer's hands
        ways = {
            "bare": bare_step(bare, rows),
            "ours, plain": trainer_step(plain),
            "ours": trainer_step(lean),
            "stock": trainer_step(stock),
        }
        seconds = in_turn(ways, chosen.rounds)
        parts = Parts()
        parts.watch(lean.model, "forward", "forward")
        parts.watch(lean.accelerator, "backward", "backward")
        parts.watch(lean, "_get_grad_norm", "clip")
        parts.watch(lean.optimizer, "step", "optimizer")
        started = time.perf_counter()
        ways["ours"]()
        total = time.perf_counter() - started
    parts.seconds["all the rest"] = total - sum(parts.seconds.values())
    figures = {
        "ratio": ratio(seconds["bare"], seconds["ours, plain"]),
        "ratio_lean": ratio(seconds["bare"], seconds["ours"]),
        "ratio_stock": ratio(seconds["stock"], seconds["ours"]),
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in seconds.items()},
        "parts": {name: value / total for name, value in parts.seconds.items()},
    }
    head = ["side", "ms a step", "tokens a second over the bare loop's"]
    lines = [
        [name, spread([1e3 * value for value in values], "{:.0f}"), f"{ratio(seconds['bare'], values):.3f}"]
        for name, values in seconds.items()
    ]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in figures["parts"].items())
    text = (
        f"GPT-2 of {chosen.layers} layers of {chosen.width}, vocabulary {VOCABULARY:,}, {ROWS} rows of {BLOCK}, "
        f"{chosen.rounds} rounds of {STEPS} steps in turn\n\n{table([head, *lines])}\n\nours over stock: "
        f"{figures['ratio_stock']:.3f}\nwhere our time goes: {shares}"
    )
    tell(chosen.json, figures, text)


if __name__ == "__main__":
    main()
