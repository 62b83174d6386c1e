"""python benchmarks/loss.py [--shapes 50k 8k] [--json]

What the lean loss takes against stock's (linear and `cross_entropy` through autograd): loss and
both gradients, forward and backward, in alternating pairs in one process; and the memory that each
adds at its peak, in a fresh process a side (of the process on a CPU, of the allocator on a GPU).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from llmforge.cross_entropy import chunk_rows, linear_cross_entropy

#: Vocabulary, width, positions: gpt2-124m on 4 rows of 1,024 (50,257 padded to whole tiles), gpt2-10m on 8 of 512.
SHAPES = {"50k": (50_304, 768, 4 * 1024), "8k": (8_192, 256, 8 * 512)}
SIDES = ("lean", "stock")


def stock(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What transformers does."""
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def step(side: str, shape: str) -> Callable[[], None]:
    """A function that makes loss and gradients once, in bf16 autocast on a GPU and in fp32 on a CPU."""
    vocabulary, width, positions = SHAPES[shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    hidden = torch.randn(positions, width, device=device, requires_grad=True)
    weight = torch.randn(vocabulary, width, device=device).mul_(0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (positions,), device=device)
    loss = linear_cross_entropy if side == "lean" else stock

    def run() -> None:
        hidden.grad = weight.grad = None
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            total = loss(hidden, weight, targets)
        (total / positions).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def peak_bytes(side: str, shape: str) -> int:
    """What one step adds to the memory of this process, which has done nothing else."""
    if torch.cuda.is_available():
        run = step(side, shape)
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    step(side, "warm")()  # libraries and their buffers
    run = step(side, shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def peaks(shape: str) -> dict[str, int]:
    """`peak_bytes` of each side; before this process grows, whose own peak a child would inherit."""
    child = [sys.executable, __file__, "--peak"]
    return {side: int(subprocess.run([*child, side, shape], capture_output=True, text=True, check=True).stdout) for side in SIDES}


def measure(shape: str, pairs: int) -> dict[str, Any]:
    """Seconds of each side, and their ratio pair by pair."""
    runs = {side: step(side, shape) for side in SIDES}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for pair in range(pairs + 1):
        for side in SIDES if pair % 2 else reversed(SIDES):
            start = time.perf_counter()
            runs[side]()
            times[side].append(time.perf_counter() - start)
    ratios = [lean / other for lean, other in zip(times["lean"][1:], times["stock"][1:], strict=True)]  # the first pair warms up
    return {
        "seconds": {side: statistics.median(times[side][1:]) for side in SIDES},
        "spread": {side: [min(times[side][1:]), max(times[side][1:])] for side in SIDES},
        "ratio": statistics.median(ratios),
        "ratios": [min(ratios), max(ratios)],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of each shape; of the small one three times as many")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES), help="by their vocabularies")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        SHAPES["warm"] = (64, 64, 64)
        print(peak_bytes(*given.peak))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    bytes_of = {shape: peaks(shape) for shape in given.shapes}
    found = {shape: measure(shape, given.pairs * (3 if shape == "8k" else 1)) for shape in given.shapes}
    for shape, figures in found.items():
        figures["peak_bytes"] = bytes_of[shape]
    if given.json:
        threads = torch.get_num_threads()
        print(json.dumps({"device": name, "threads": threads, "torch": torch.__version__, "shapes": found}))
        return
    print(
        f"{name}, {torch.get_num_threads()} threads (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}), "
        f"torch {torch.__version__}, {'bf16 autocast' if device.type == 'cuda' else 'fp32'}"
    )
    for shape in given.shapes:
        vocabulary, width, positions = SHAPES[shape]
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        rows, figures = chunk_rows(positions, vocabulary, dtype, device), found[shape]
        print(f"vocabulary {vocabulary:,}, width {width}, {positions:,} positions in chunks of {rows}")
        for side in SIDES:
            low, high = figures["spread"][side]
            peak = figures["peak_bytes"][side] / 1e6
            print(f"  {side:<6} {figures['seconds'][side]:8.3f} s   ({low:.3f} to {high:.3f})   {peak:8,.0f} MB at the peak")
        low, high = figures["ratios"]
        saved = (figures["peak_bytes"]["stock"] - figures["peak_bytes"]["lean"]) / 1e6
        print(f"  time of lean / stock: {figures['ratio']:.3f} ({low:.3f} to {high:.3f}); {saved:,.0f} MB less at the peak")


if __name__ == "__main__":
    main()
