"""python benchmarks/checkpoint.py [--preset small|medium|gpt2-124m] [--rounds N] [--folder DIR] [--json]

How long training stands still for a checkpoint: llmforge's, written in the background and at once,
against stock Trainer's, with the same model and AdamW state, in turn. And what a step costs while a
checkpoint is being written in the background. Weights are random. A checkpoint of gpt2-124m has
1.5 GB; some 6 GB of disk and 8 GB of memory are needed.

- standstill: from the call of `_save_checkpoint` to its return, and what the optimizer of the next step waits for the copy
- whole: till the checkpoint is on the disk, synced and committed; stock syncs nothing
- ``ratio`` is the median of stock's standstill over ours, pair by pair
- ``slowdown`` is a step's time while a checkpoint is written over its time otherwise
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from common import in_turn, packed_rows, parser, ratio, spread, table, tell
from sides import forge, quiet, stock
from transformers import GPT2Config, GPT2LMHeadModel

from llmforge import PackedCollator
from llmforge.runtime.devices import format_bytes

#: Layers, width, vocabulary.
PRESETS = {"small": (4, 256, 8_192), "medium": (8, 512, 32_000), "gpt2-124m": (12, 768, 50_257)}
BLOCK, ROWS = 128, 1


def model(preset: str) -> GPT2LMHeadModel:
    """Random weights of that size."""
    transformers.set_seed(0)
    layers, width, vocabulary = PRESETS[preset]
    shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": 1024}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, pad_token_id=1, **shape))


def ready(trainer: Any) -> Any:
    """`trainer` after two steps: its optimizer has state."""
    trainer.train()
    trainer.state.best_global_step = None
    return trainer


def saving(trainer: Any, step: Callable[[], float]) -> Callable[[], tuple[float, float]]:
    """Seconds that training stands still for a save, and till it is on the disk; each of a new step, with a step after it."""

    def once() -> tuple[float, float]:
        trainer.state.global_step += 1
        began = time.perf_counter()
        trainer._save_checkpoint(trainer.model_wrapped, None)
        still = time.perf_counter() - began
        still += step()
        if hasattr(trainer, "checkpoints"):
            trainer.checkpoints.settle()
        return still, time.perf_counter() - began

    return once


def standstill(save: Callable[[], tuple[float, float]], wholes: list[float]) -> Callable[[], float]:
    """The first figure of `save`; the second is noted."""

    def once() -> float:
        still, whole = save()
        wholes.append(whole)
        return still

    return once


def stepping(trainer: Any, rows: list[dict[str, Any]], collate: Callable[..., Any], waits: bool = False) -> Callable[[], float]:
    """Seconds of a forward and backward pass and a step of the optimizer; with `waits`, of what that waits for a copy."""
    batch = collate(rows[:ROWS])

    def once() -> float:
        began = time.perf_counter()
        trainer.training_step(trainer.model_wrapped, dict(batch), torch.tensor(ROWS * BLOCK))
        waiting = time.perf_counter()
        if hasattr(trainer, "checkpoints"):
            trainer.checkpoints.parts.await_copy()
        waited = time.perf_counter() - waiting
        trainer.optimizer.step()
        trainer.model_wrapped.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return waited if waits else time.perf_counter() - began

    return once


def disturbed(trainer: Any, step: Callable[[], float]) -> Callable[[], float]:
    """A step's time while a checkpoint is written, over its time just before."""

    def once() -> float:
        alone = [step() for _ in range(3)]
        trainer.state.global_step += 1
        trainer.checkpoints.save()
        beside = []
        while trainer.checkpoints.is_writing:
            beside.append(step())
        trainer.checkpoints.settle()
        return statistics.median(beside or [step()]) / statistics.median(alone)

    return once


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="saves of each side, in turn")
    options.add_argument("--preset", choices=list(PRESETS), default="gpt2-124m")
    options.add_argument("--folder", help="on the disk to measure; by default where temporary files go")
    chosen = options.parse_args()
    quiet()
    vocabulary = PRESETS[chosen.preset][2]
    rows, collate = packed_rows(8, BLOCK, 100, vocabulary), PackedCollator()
    told = {"per_device_train_batch_size": ROWS, "max_steps": 2, "use_cpu": not torch.cuda.is_available()}
    told |= {"optim": "adamw_torch_fused", "learning_rate": 1e-5, "save_total_limit": 1, "save_strategy": "no"}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        needed = 40 * sum(parameter.numel() for parameter in model(chosen.preset).parameters())
        if shutil.disk_usage(name).free < needed:
            raise SystemExit(f"{format_bytes(needed)} of disk are needed here: take --preset small")
        behind = ready(forge(model(chosen.preset), rows, Path(name) / "behind", **told))
        at_once = ready(forge(model(chosen.preset), rows, Path(name) / "at_once", async_save=False, **told))
        plain = ready(stock(model(chosen.preset), rows, Path(name) / "stock", collate, behind.processing_class, **told))
        began = time.perf_counter()
        steps = {id(trainer): stepping(trainer, rows, collate, waits=True) for trainer in (behind, at_once, plain)}
        first = saving(behind, steps[id(behind)])()[0]
        wholes: dict[str, list[float]] = {"ours, in the background": [], "ours, at once": [], "stock": []}
        sides = {"ours, in the background": behind, "ours, at once": at_once, "stock": plain}
        ways = {side: standstill(saving(trainer, steps[id(trainer)]), wholes[side]) for side, trainer in sides.items()}
        still = in_turn(ways, chosen.rounds)
        slow = in_turn({"slowdown": disturbed(behind, stepping(behind, rows, collate))}, max(chosen.rounds // 2, 2))["slowdown"]
        size = sum(path.stat().st_size for path in (Path(name) / "stock").glob("checkpoint-*/*"))
        took = time.perf_counter() - began
    ours = still["ours, in the background"]
    figures = {
        "ratio": ratio(still["stock"], ours),
        "ratio_at_once": ratio(still["stock"], still["ours, at once"]),
        "slowdown": statistics.median(slow),
        "seconds": {side: statistics.median(values) for side, values in still.items()},
        "seconds_whole": {side: statistics.median(values[1:]) for side, values in wholes.items()},
        "seconds_first": first,
        "bytes": size,
        "preset": chosen.preset,
    }
    head = ["side", "training stands still, ms", "till it is on the disk, ms", "stock's standstill over it"]
    lines = [
        [
            side,
            spread([1e3 * value for value in values], "{:.0f}"),
            spread([1e3 * value for value in wholes[side][1:]], "{:.0f}"),
            f"{ratio(still['stock'], values):.2f}",
        ]
        for side, values in still.items()
    ]
    text = (
        f"{chosen.preset}, AdamW, a checkpoint of {format_bytes(size)}, {chosen.rounds} saves a side in turn ({took:.0f} s)\n\n"
        f"{table([head, *lines])}\n\nthe first save, which allocates the memory: {1e3 * first:.0f} ms\n"
        f"a step while a checkpoint is written, over one otherwise: {spread(slow)}"
    )
    tell(chosen.json, figures, text)


if __name__ == "__main__":
    main()
