"""python benchmarks/dial.py [--corpus PATH] [--minutes M] [--cores] [--only NAME …] [--json]

The dial beside a sweep by hand: `llmforge pretrain --deadline` alone, and with model, vocabulary, context and batch given by
hand, each for the same time from the start of its process to the end, preparation, evaluation and the final save included,
with an empty cache; shapes of both architectures, with dropout where ``--only`` names it. Then every model is evaluated on
the whole test split, whose documents are the same whatever the tokenizer. The ratio is bits per byte over the best of the
sweep; below 1 the dial is better than all of it.

``--cores`` runs as many sides at once as there are cores, each on one of its own with one thread.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parser, table, tell

SAMPLE = Path(__file__).resolve().parent.parent / "recipes" / "samples" / "go"
DIAL = "the dial"
#: What one would try by hand: layers, width, vocabulary, context, rows of a step.
SHAPES = (
    (2, 64, 4096, 256, 8),
    (4, 64, 4096, 256, 8),
    (2, 128, 4096, 256, 8),
    (4, 128, 4096, 256, 8),
    (4, 128, 8192, 256, 8),
    (6, 128, 4096, 256, 8),
    (2, 256, 4096, 256, 8),
    (4, 256, 8192, 512, 8),
    (10, 256, 8192, 512, 8),
)
#: Of a small corpus one would also try this.
DROPPED = ", dropout 0.2"
_GPT2 = ("--preset gpt2-10m --n_layer {} --n_embd {} --n_head {}", "--resid_pdrop 0.2 --embd_pdrop 0.2")
#: Tied and rotated whole, as the dial's own, so that what is compared is the choice of sizes.
_NEOX = (
    "--preset neox-10m --num_hidden_layers {} --hidden_size {} --num_attention_heads {} --tie_word_embeddings --rotary_pct 1.0",
    "--hidden_dropout 0.2",
)


def _by_hand() -> dict[str, list[str]]:
    """Side -> its flags; without the dial's bound in epochs."""
    sides = {}
    for family, (shape, dropout) in (("GPT-2", _GPT2), ("NeoX", _NEOX)):
        for layers, width, vocabulary, length, rows in SHAPES:
            batch = f"--block_size {length} --per_device_train_batch_size {rows} --gradient_accumulation_steps 1"
            sizes = f"{shape.format(layers, width, width // 32)} --vocab_size {vocabulary} {batch} --num_train_epochs 10000"
            name = f"{family} {layers} x {width}, {vocabulary // 1024}k"
            sides[name] = sizes.split()
            sides[name + DROPPED] = f"{sizes} {dropout}".split()
    return sides


#: Layers and width as the two architectures call them, by how their presets begin.
_SIZES = {"gpt2": ("n_layer", "n_embd"), "neox": ("num_hidden_layers", "hidden_size")}
SIDES = {DIAL: [], **_by_hand()}


def run(side: str, corpus: str, shares: str, seconds: int, core: int | None) -> dict[str, Any]:
    """One training and its figures."""

    def place() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "LLMFORGE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        if core is not None:
            environment["OMP_NUM_THREADS"] = "1"
        llmforge = [sys.executable, "-m", "llmforge"]
        shared: dict[str, Any] = {"env": environment, "cwd": folder, "preexec_fn": place, "capture_output": True, "text": True}
        words = ["--corpus", corpus, "--split_ratios", shares, "--deadline", f"{seconds}s", "--output_dir", "run", *SIDES[side]]
        begun = time.perf_counter()
        done = subprocess.run([*llmforge, "pretrain", *words], check=False, **shared)
        taken = time.perf_counter() - begun
        if done.returncode:
            return {"side": side, "error": done.stderr.strip().splitlines()[-1]}
        record = json.loads((folder / "run" / "run.json").read_text())
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        words = ["--model", "run/final", "--dataset_dir", record["data"]["path"], "--split", "test", "--json"]
        judged = subprocess.run([*llmforge, "evaluate", *words], check=False, **shared)
        if judged.returncode:
            return {"side": side, "error": judged.stderr.strip().splitlines()[-1]}
        model = record["config"]["model"]
        return {
            "side": side,
            "model": " x ".join(str(model[name]) for name in _SIZES[model["preset"][:4]] if model[name]) or model["preset"],
            "parameters": record["parameters"],
            "vocabulary": record["tokenizer"]["vocab_size"],
            "context": record["config"]["data"]["block_size"],
            "steps": lines[-1]["step"],
            "tokens": lines[-1]["tokens"],
            "epochs": round(lines[-1]["epoch"], 2),
            "seconds": round(taken, 1),
            "of_deadline": round(taken / seconds, 3),
            "bits_per_byte": round(json.loads(judged.stdout)["bits_per_byte"], 4),
        }


def lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of the printed table."""
    head = ["side", "model", "parameters", "entries", "context", "steps", "tokens", "epochs", "ended at", "bits a byte", "ratio"]
    keys = ("parameters", "vocabulary", "context", "steps", "tokens", "epochs", "of_deadline", "bits_per_byte", "ratio")
    told = [
        [row["side"], row["error"][:100], *[""] * len(keys)]
        if "error" in row
        else [row["side"], row["model"], *(f"{row.get(key, ''):,}" if row.get(key, "") != "" else "" for key in keys)]
        for row in rows
    ]
    return [head, *told]


def main() -> None:
    """Run all sides, and print them beside one another."""
    asked = parser(__doc__)
    asked.add_argument("--corpus", default=str(SAMPLE))
    asked.add_argument("--minutes", type=float, default=3.0)
    asked.add_argument("--split_ratios", default="0.8,0.1,0.1", help="of a large corpus a small test split is enough")
    asked.add_argument("--cores", action="store_true")
    asked.add_argument("--only", nargs="*", choices=SIDES)
    args = asked.parse_args()
    sides = args.only or [side for side in SIDES if DROPPED not in side]
    cores: queue.Queue[int | None] = queue.Queue()
    for core in sorted(os.sched_getaffinity(0)) if args.cores else [None]:
        cores.put(core)

    def one(side: str) -> dict[str, Any]:
        core = cores.get()
        try:
            return run(side, str(Path(args.corpus).resolve()), args.split_ratios, round(60 * args.minutes), core)
        finally:
            cores.put(core)

    with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
        rows = list(pool.map(one, sides))
    by_hand = [row["bits_per_byte"] for row in rows if row["side"] != DIAL and "bits_per_byte" in row]
    if by_hand:
        for row in rows:
            if "bits_per_byte" in row:
                row["ratio"] = round(row["bits_per_byte"] / min(by_hand), 3)
    figures = {"minutes": args.minutes, "corpus": Path(args.corpus).name, "one_core_each": args.cores, "rows": rows}
    tell(args.json, figures, table(lines(rows)))


if __name__ == "__main__":
    main()
