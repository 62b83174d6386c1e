"""python benchmarks/gpu.py [--minutes 7] [--smoke] [--json]

What one GPU does, in one go. Needs torch, transformers and accelerate, and nothing else.

- Tokens a second and model FLOPs utilisation of GPT-2 50M, 124M and 355M and GPT-NeoX 1.2B at 1,024
  positions: llmforge's trainer, stock Trainer and a bare loop, in turn on the same card with the same rows
  and optimizer. llmforge keeps documents apart; the other two run over them, which is their fastest way.
  Utilisation counts attention over whole rows on every side, although llmforge's is shorter.
- Rows of 1,024 that a 124M model trains on within 8, 12 and 24 GB, emulated by a memory fraction.

What the time does not suffice for is named as not measured. Each figure goes to stderr as soon as it is
there. ``--smoke`` runs all of it with a tiny model for a few steps, on a CPU as well, and its figures mean nothing.
"""

from __future__ import annotations

import functools
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import packed_rows, parser, table, tell
from sides import bare, forge, quiet, stock, timed
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmforge import ModelArguments
from llmforge.attention import choose_attention
from llmforge.models import build_config, count_parameters, embedding_rows, flops_per_token
from llmforge.runtime.devices import peak_flops, probe_device

#: Preset and the rows of a micro-batch to begin with; halved until they fit.
SIZES = {"gpt2-124m": 32, "gpt2-50m": 64, "gpt2-355m": 16, "neox-1.2b": 8}
BLOCK, DOCUMENT, SECONDS, GB = 1024, 600, 10.0, 10**9
LIMITS = (8, 12, 24)
HALVES = {"bf16": "bfloat16", "fp16": "float16"}


def plain(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What stock pipelines feed: ids and labels, and documents that run into one another."""
    ids = torch.from_numpy(np.stack([row["input_ids"] for row in rows]).astype(np.int64))
    return {"input_ids": ids, "labels": ids}


def build(preset: str, smoke: bool, dropout: float = 0.0) -> PreTrainedModel:
    """A fresh model, made on the device."""
    transformers.set_seed(0)
    neox = preset.startswith("neox")
    names = ("hidden_dropout", "attention_dropout") if neox else ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    small = ("num_hidden_layers", "hidden_size", "num_attention_heads") if neox else ("n_layer", "n_embd", "n_head")
    tiny: dict[str, Any] = dict(zip(small, (1, 64, 2), strict=True))
    args = ModelArguments(preset=preset, **dict.fromkeys(names, dropout), **(tiny if smoke else {}))
    config = build_config(args, embedding_rows(512 if smoke else 50_257))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return AutoModelForCausalLM.from_config(config)


def free() -> None:
    """Give back what the last side held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class Bench:
    """The rows, the precision and the clock that all measurements share."""

    def __init__(self, folder: Path, smoke: bool, minutes: float):
        self.folder, self.smoke = folder, smoke
        self.end = time.monotonic() + 60 * minutes
        self.seconds, self.block = (0.0, 64) if smoke else (SECONDS, BLOCK)
        self.half = probe_device().half if torch.cuda.is_available() else None
        self.rows = packed_rows(
            16 if smoke else 512, self.block, self.block // 2 if smoke else DOCUMENT, 500 if smoke else 50_257
        )

    def told(self, batch: int, **changes: Any) -> dict[str, Any]:
        """Arguments of both trainers."""
        precision = {self.half: True} if self.half else {"use_cpu": not torch.cuda.is_available()}
        steps = 4 if self.smoke else 1_000
        return {"per_device_train_batch_size": batch, "max_steps": steps, "logging_steps": 1_000, **precision, **changes}

    def sides(self, preset: str, batch: int) -> dict[str, Callable[[], list[float]]]:
        """Seconds a step of each side; none of them is built before it is called."""

        def ours(dropout: float = 0.0, **changes: Any) -> list[float]:
            told = self.told(batch, **changes)
            return timed(forge(build(preset, self.smoke, dropout), self.rows, self.folder, **told), self.seconds)()

        def theirs() -> list[float]:
            return timed(stock(build(preset, self.smoke), self.rows, self.folder, plain, **self.told(batch)), self.seconds)()

        def loop() -> list[float]:
            steps = 4 if self.smoke else 1_000
            return bare(build(preset, self.smoke), self.rows, batch, steps, plain, self.half, self.seconds)()

        sides: dict[str, Callable[[], list[float]]] = {"ours": ours, "stock Trainer": theirs, "bare loop": loop}
        if preset == "gpt2-124m":
            for way in ("segments", "mask"):
                for dropout in (0.0, 0.1):
                    label = f"ours, {way}, dropout {dropout:g}"
                    sides[label] = functools.partial(ours, dropout=dropout, packed_attention=way)
            sides["ours, stock loss"] = lambda: ours(lean_loss=False)
            sides["ours, Muon"] = lambda: ours(optim="muon")
            sides["ours, blocks compiled"] = lambda: ours(torch_compile_backend="aot_eager" if self.smoke else "inductor")
        return sides

    def speed(self, preset: str) -> Iterable[dict[str, Any]]:
        """A line a side: tokens a second and utilisation."""
        sketch = build(preset, self.smoke)
        flops, parameters = flops_per_token(sketch, self.block), count_parameters(sketch.config)
        del sketch
        peak = peak_flops(self.half or "fp32")
        batch = 2 if self.smoke else SIZES[preset]
        for name, side in self.sides(preset, batch).items():
            line: dict[str, Any] = {"model": preset, "parameters": parameters, "side": name}
            size = batch
            while time.monotonic() < self.end and size:
                free()
                try:
                    steps = side() if size == batch else self.sides(preset, size)[name]()
                except torch.OutOfMemoryError:
                    size //= 2
                    continue
                except Exception as error:  # a side that cannot run here is a finding, not the end of the others
                    line["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}" if str(error) else repr(error)
                    break
                rate = size * self.block / statistics.median(steps)
                line |= {"rows": size, "tokens_per_second": round(rate), "steps": len(steps)}
                line["mfu"] = round(rate * flops / peak, 4) if peak else None
                line["memory"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
                break
            print(line, file=sys.stderr, flush=True)
            yield line

    def fits(self, side: str, batch: int) -> bool:
        """Whether two steps of so many rows run within what the process may take."""
        free()
        try:
            told = self.told(batch, max_steps=2)
            if side == "ours":
                forge(build("gpt2-124m", self.smoke), self.rows, self.folder, **told).train()
            else:
                stock(build("gpt2-124m", self.smoke), self.rows, self.folder, plain, **told).train()
        except torch.OutOfMemoryError:
            return False
        return True

    def most_rows(self, side: str) -> str:
        """The most rows that run, to a sixteenth; "at least" where the time was up before the search was."""
        low, high = 0, 1
        try:
            while time.monotonic() < self.end:
                if not self.fits(side, high):
                    break
                low, high = high, 2 * high
            while high - low > max(1, low // 16) and time.monotonic() < self.end:
                middle = (low + high) // 2
                low, high = (middle, high) if self.fits(side, middle) else (low, middle)
        except Exception as error:  # other failures of a full device than torch's own
            return f"{type(error).__name__} at {high}"
        return str(low) if high - low <= max(1, low // 16) else f"at least {low}"

    def memory(self) -> Iterable[dict[str, Any]]:
        """The most rows each side trains on within a smaller card's memory."""
        total = torch.cuda.get_device_properties(0).total_memory
        for limit in LIMITS:
            line: dict[str, Any] = {"gigabytes": limit}
            for side in ("ours", "stock"):
                if limit * GB < total and time.monotonic() < self.end:
                    torch.cuda.set_per_process_memory_fraction(limit * GB / total)
                    line[side] = self.most_rows(side)
            torch.cuda.set_per_process_memory_fraction(1.0)
            both = [line.get(side, "") for side in ("ours", "stock")]
            if all(count.isdigit() and int(count) for count in both):
                line["ratio"] = round(int(both[0]) / int(both[1]), 2)
            print(line, file=sys.stderr, flush=True)
            yield line


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=7, help="begin nothing new after so many")
    options.add_argument("--smoke", action="store_true", help="a tiny model for a few steps: does the script still run?")
    chosen = options.parse_args()
    quiet()
    if not torch.cuda.is_available() and not chosen.smoke:
        tell(chosen.json, {"speed": [], "memory": []}, "\nno GPU: not measured (--smoke runs the script all the same)")
        return
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), chosen.smoke, chosen.minutes)
        first, *others = SIZES
        speed = list(bench.speed(first))
        memory = list(bench.memory()) if torch.cuda.is_available() and not chosen.smoke else []
        speed += [line for preset in others for line in bench.speed(preset)]
        model = build(first, chosen.smoke)
        way = choose_attention("auto", model.config, model.device, getattr(torch, HALVES.get(bench.half or "", "float32")))
    head = ["model and side", "rows", "tokens a second", "MFU", "peak memory"]
    lines = [
        [
            f"{line['model']}, {line['side']}",
            str(line.get("rows", "")),
            f"{line['tokens_per_second']:,}" if "tokens_per_second" in line else line.get("failed", "not measured"),
            f"{line['mfu']:.1%}" if line.get("mfu") else "",
            f"{line['memory'] / GB:.1f} GB" if line.get("memory") else "",
        ]
        for line in speed
    ]
    text = f"\n{bench.half or 'fp32'}, rows of {bench.block}; ours: {way.line}\n\n{table([head, *lines])}"
    if memory:
        told = [[str(line.get(key, "not measured")) for key in ("gigabytes", "ours", "stock", "ratio")] for line in memory]
        text += f"\n\n{table([['GB', 'rows of ours', 'rows of stock', 'ratio'], *told])}"
    tell(chosen.json, {"speed": speed, "memory": memory, "attention": way.line}, text)


if __name__ == "__main__":
    main()
