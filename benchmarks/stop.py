"""python benchmarks/stop.py [--preset tiny|gpt2-124m] [--rounds N] [--json]

How long a run takes to stop: from SIGTERM to the commit of its checkpoint, and to the end of its process.
`llmforge pretrain` runs in a process of its own on a made-up corpus and is asked at a random moment (seed 0)
once it trains, as a scheduler would. Rows are of 32 tokens. gpt2-124m takes some 5 GB of memory and 4 GB of disk.

- committed: till the checkpoint that the exit record names is in place
- recorded: till its exit record is written
- ended: till the process is gone, with exit code 75
- step: of the same run, for comparison: a step that has begun is finished first
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import parser, spread, table, tell

from llmforge.checkpoints.manifest import MANIFEST

#: Flags of the model, and the words of its corpus, enough for as many entries of a vocabulary.
PRESETS = {
    "tiny": ("--preset gpt2-10m --n_layer 2 --n_embd 64 --n_head 2 --vocab_size 400", 400),
    "gpt2-124m": ("--preset gpt2-124m --vocab_size 50257 --optim adamw_torch_fused", 60_000),
}
QUIET = "--block_size 32 --per_device_train_batch_size 1 --max_steps 1000000 --save_steps 1000000 --eval_strategy no".split()
QUIET += "--logging_steps 1 --report_to none --disable_tqdm".split()
#: SIGTERM comes at most so long after the third step.
SPREAD = 2.0


def write_corpus(folder: Path, count: int) -> Path:
    """Documents of so many made-up words, each there several times; the same every time."""
    source = random.Random(0)
    folder.mkdir()
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(4, 9))) for _ in range(count)]
    for number in range(200):
        text = " ".join(source.choices(words, k=max(400, 4 * count // 200)))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def steps(run: Path) -> list[dict[str, Any]]:
    """What the run has logged."""
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def stopped(run: Path, command: list[str], delay: float) -> dict[str, float]:
    """Start a run, stop it so long after its third step, and say how long that took."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while len(steps(run)) < 3:
            if process.poll() is not None:
                raise RuntimeError(f"the run ended by itself, with {process.returncode}")
            time.sleep(0.02)
        time.sleep(delay)
        asked = time.time()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        ended = time.time() - asked
    finally:
        process.kill()
    record = json.loads((run / "exit.json").read_text())
    if (code, record["exit_code"]) != (75, 75):
        raise RuntimeError(f"exit code {code}, in the record {record['exit_code']}")
    # A folder's own time of change is that of its last file, which is the manifest.
    committed = (run / record["newest_checkpoint"] / MANIFEST).stat().st_mtime - asked
    logged = [line["time"] for line in steps(run) if "loss" in line]
    gaps = [after - before for before, after in pairwise(logged[1:])]
    recorded = (run / "exit.json").stat().st_mtime - asked
    return {"committed": committed, "recorded": recorded, "ended": ended, "step": statistics.median(gaps)}


def main() -> None:
    """Measure, and tell."""
    arguments = parser(__doc__)
    arguments.add_argument("--preset", choices=PRESETS, default="tiny")
    arguments.add_argument("--rounds", type=int, default=5)
    args = arguments.parse_args()
    source = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["LLMFORGE_CACHE"] = str(place / "cache")
        flags, words = PRESETS[args.preset]
        corpus = write_corpus(place / "corpus", words)
        found = []
        for number in range(args.rounds):
            run = place / f"run-{number}"
            command = [sys.executable, "-m", "llmforge", "pretrain", *flags.split(), *QUIET]
            found.append(stopped(run, [*command, "--corpus", str(corpus), "--output_dir", str(run)], source.uniform(0, SPREAD)))
    figures = {name: [round(one[name], 3) for one in found] for name in found[0]}
    rows = [("", f"seconds, of {args.rounds} runs"), *((name, spread(values)) for name, values in figures.items())]
    tell(args.json, {"preset": args.preset, "seconds": figures}, table(rows))


if __name__ == "__main__":
    main()
