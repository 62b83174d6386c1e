"""python benchmarks/step.py [--rounds N] [--json]

One training step of a small GPT-2 with a 50k vocabulary: llmforge's trainer, without and with the
lean loss, against a bare PyTorch loop that does the same and against stock Trainer, in turn.

- bare: the same model, rows, attention and AdamW in a loop of a dozen lines, with the stock loss
- ours, plain: `ForgeTrainer` with ``lean_loss`` off. ``ratio`` is its tokens a second over the bare loop's
- ours: the lean loss too. ``ratio_lean`` is its tokens a second over the bare loop's
- stock: `transformers.Trainer` with the same rows, whose documents a mask keeps apart
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from common import in_turn, packed_rows, parser, ratio, spread, table, tell
from sides import bare, forge, quiet, stock, timed
from transformers import GPT2Config, GPT2LMHeadModel

from llmforge import PackedCollator

VOCABULARY, BLOCK, ROWS, STEPS, DOCUMENT = 50_304, 512, 4, 4, 300


class Parts:
    """Seconds spent inside chosen methods of objects."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, part: str, seconds: float) -> None:
        """Count `seconds` as spent on `part`."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Count the time inside `owner.method` as `part`."""
        inner = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.add(part, time.perf_counter() - start)

        setattr(owner, method, counted)


def model(layers: int, width: int) -> GPT2LMHeadModel:
    """The same initial weights for every side; no dropout, whose draws would differ from side to side."""
    transformers.set_seed(0)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    shape = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "n_positions": BLOCK}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=1, **shape, **dropout))


def middle(steps: Callable[[], list[float]]) -> Callable[[], float]:
    """The median of a round's steps."""
    return lambda: statistics.median(steps())


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="rounds to take, each side in turn")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--width", type=int, default=256)
    chosen = options.parse_args()
    quiet()
    rows = packed_rows(64, BLOCK, DOCUMENT, VOCABULARY)
    collate = PackedCollator()
    told = {"per_device_train_batch_size": ROWS, "max_steps": STEPS, "use_cpu": not torch.cuda.is_available()}

    def fresh() -> GPT2LMHeadModel:
        return model(chosen.layers, chosen.width)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lean = forge(fresh(), rows, folder, lean_loss=True, **told)
        # Its model has our attention, and the stock loss, out of any trainer's hands.
        same_maths = forge(fresh(), rows, folder, lean_loss=False, **told).model
        ways = {
            "bare": middle(bare(same_maths, rows, ROWS, STEPS, collate)),
            "ours, plain": middle(timed(forge(fresh(), rows, folder, lean_loss=False, **told))),
            "ours": middle(timed(lean)),
            "stock": middle(timed(stock(fresh(), rows, folder, collate, **told))),
        }
        seconds = in_turn(ways, chosen.rounds)
        parts = Parts()
        parts.watch(lean.model, "forward", "forward")
        parts.watch(lean.accelerator, "backward", "backward")
        parts.watch(lean.accelerator, "clip_grad_norm_", "clipping")
        inner = getattr(lean.optimizer, "optimizer", lean.optimizer)
        begun: list[float] = []
        inner.register_step_pre_hook(lambda *_: begun.append(time.perf_counter()))
        inner.register_step_post_hook(lambda *_: parts.add("optimizer", time.perf_counter() - begun.pop()))
        started = time.perf_counter()
        lean.train()
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
