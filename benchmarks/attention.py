"""OMP_NUM_THREADS=1 python benchmarks/attention.py [--rounds 5] [--documents code] [--cpu_time] [--json]

What keeping packed documents apart costs, forward and backward, of a GPT-2 of 10M parameters on 8 x 512
tokens: stock's block-diagonal mask against ours, causal attention per document, in alternating pairs.

- ``layers``: embeddings and the ten layers without their MLPs: attention, its projections, norms, the mask.
- ``step``: the whole model with its loss, forward and backward, without an optimizer.

Documents: one a row (``long``), of about 300 tokens as in source code (``code``), of about 40 (``paragraphs``),
and of a single token (``one token``), which is as short as they come. Peak memory is that of a fresh process
which makes one whole step with dropout.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmforge import PackedCollator
from llmforge.attention import BY_DOCUMENT, install_attention
from llmforge.data.packing import best_fit
from llmforge.losses import install_losses

ROWS, LENGTH, VOCABULARY = 8, 512, 8192
WAYS = {"mask": "sdpa", "by document": BY_DOCUMENT}
KINDS = ("long", "code", "paragraphs", "one token")


def make_batch(kind: str) -> dict[str, Any]:
    """A batch of packed rows, the fullest that best fit makes of documents of that kind."""
    source = np.random.RandomState(0)
    sizes = {
        "long": np.full(ROWS, LENGTH),
        "code": np.clip(source.lognormal(5.4, 0.8, 200), 2, LENGTH),
        "paragraphs": np.clip(source.geometric(1 / 40, 4000), 2, LENGTH),
        "one token": np.ones(ROWS * LENGTH),
    }[kind].astype(int)
    # Best fit places the longest first; rows from all over the order are like those of a shuffled epoch.
    bins = best_fit(sizes, LENGTH)
    rows = []
    for place in source.permutation(len(bins))[:ROWS]:
        lengths = sizes[bins[place]]
        targets = np.zeros(len(lengths), np.int64)
        rows.append({"input_ids": source.randint(2, VOCABULARY, LENGTH), "segment_lengths": lengths, "segment_targets": targets})
    return PackedCollator()(rows)


def make_model(dropout: float, layers_only: bool) -> Any:
    """The preset gpt2-10m; with `layers_only` its MLPs give nothing and cost nothing."""
    torch.manual_seed(0)
    rates = {"attn_pdrop": dropout, "resid_pdrop": dropout, "embd_pdrop": dropout}
    config = GPT2Config(
        n_layer=10, n_embd=256, n_head=8, n_positions=1024, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **rates
    )
    model = install_attention(install_losses(GPT2LMHeadModel(config))).train()
    if layers_only:
        for block in model.transformer.h:
            block.mlp = torch.nn.Identity()
            block.ln_2 = torch.nn.Identity()
    return model


def run_once(model: Any, batch: dict[str, Any], way: str, layers_only: bool, clock: Callable[[], float]) -> float:
    """Seconds of a forward and a backward pass."""
    install_attention(model, WAYS[way])
    model.zero_grad(set_to_none=True)
    start = clock()
    if layers_only:
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "segments")}
        model.transformer(**inputs, use_cache=False).last_hidden_state.square().mean().backward()
    else:
        model(**batch).loss.backward()
    return clock() - start


def peak_memory(kind: str, way: str, dropout: float) -> int:
    """Peak resident bytes of a fresh process that makes one step."""
    command = [sys.executable, __file__, "--child", kind, way, str(dropout)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs after the first, which warms up")
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--parts", nargs="+", default=["layers", "step"], choices=["layers", "step"])
    parser.add_argument("--documents", nargs="+", default=list(KINDS), choices=list(KINDS), help="what the rows are made of")
    parser.add_argument("--cpu_time", action="store_true", help="count the process's own time, where others use the machine too")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, way, rate = args.child
        run_once(make_model(float(rate), False), make_batch(kind), way, False, time.perf_counter)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
        return
    results = []
    clock = time.process_time if args.cpu_time else time.perf_counter
    for dropout in args.dropout:
        for part in args.parts:
            model = make_model(dropout, part == "layers")
            for kind in args.documents:
                batch = make_batch(kind)
                times: dict[str, list[float]] = {way: [] for way in WAYS}
                for _ in range(args.rounds + 1):
                    for way in WAYS:
                        times[way].append(1e3 * run_once(model, batch, way, part == "layers", clock))
                kept = {way: values[1:] for way, values in times.items()}
                ratio = statistics.median(a / b for a, b in zip(*kept.values(), strict=True))
                row = {"part": part, "dropout": dropout, "documents": kind, "segments": len(batch["segments"].lengths)}
                row |= {"milliseconds": {way: statistics.median(values) for way, values in kept.items()}, "ratio": ratio}
                row["spread"] = {way: [min(values), max(values)] for way, values in kept.items()}
                results.append(row)
                if not args.json:
                    said = "   ".join(
                        f"{way} {statistics.median(values):7.0f} ms ({min(values):.0f} to {max(values):.0f})"
                        for way, values in kept.items()
                    )
                    print(
                        f"{part:<7} dropout {dropout}  {kind:<10} {row['segments']:>5}   {said}   ratio {ratio:.2f}", flush=True
                    )
    memory = []
    for kind in args.documents:
        peaks = {way: peak_memory(kind, way, 0.1) for way in WAYS}
        memory.append({"documents": kind, "bytes": peaks})
        if not args.json:
            said = "   ".join(f"{way} {peak / 2**30:.2f} GiB" for way, peak in peaks.items())
            print(f"memory  dropout 0.1  {kind:<10} {said}", flush=True)
    if args.json:
        print(json.dumps({"times": results, "peak_memory": memory}))


if __name__ == "__main__":
    main()
